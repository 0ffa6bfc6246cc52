// The attention kernels on the emulated GPU against the CPU's, over shapes that break kernels, under several schedules.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>

#include "tensor/gpu/attention_paths.h"
#include "tensor/gpu/emulator/emulator.h"
#include "tensor/gpu/graph.h"
#include "tensor/kernels/copy.h"
#include "tests/support/compare.h"
#include "tests/support/random.h"

using namespace facet;
using namespace facet::test;

namespace {

enum class Segments { none, documents, branches };
/// How q, k and v lie on the GPU: alone; as heads of one row of q, k, v; in rows of odd length, where no 16 bytes are aligned.
enum class Lie { dense, fused, odd };

struct Problem {
  const char* name;
  int64_t B, T, S, H, K, D, window;
  bool causal;
  double cap;
  Segments segments;
  Lie lie = Lie::dense;
  bool ring = false;  ///< slot = position mod S; the ring has gone round twice
};

Tensor ints(const std::vector<int32_t>& v, const Shape& s) { return Tensor::from(v, s); }

struct Inputs {
  Tensor q, k, v, dy, q_positions, k_positions, q_segments, k_segments;
  int64_t window;
  bool causal;
  double scale, cap;

  Inputs(const Problem& p, DType dtype, uint64_t seed = 7) : window(p.window), causal(p.causal), scale(1 / std::sqrt(p.D)), cap(p.cap) {
    Random r(seed);
    q = r.normal({p.B, p.T, p.H, p.D}, DType::f32, 2).to(dtype);
    k = r.normal({p.B, p.S, p.K, p.D}, DType::f32).to(dtype);
    v = r.normal({p.B, p.S, p.K, p.D}, DType::f32).to(dtype);
    dy = r.normal({p.B, p.T, p.H, p.D}, DType::f32).to(dtype);
    std::vector<int32_t> qp, kp, qs, ks;
    for (int64_t b = 0; b < p.B; ++b) {
      // Three documents of unequal length, or a trunk with branches 1 and 2 whose positions go on from it. Queries are the last T keys;
      // the last slot of every row but the first is padding.
      const auto part = [&](int64_t j) { return j < p.S / 2 ? 0 : j < p.S * 3 / 4 ? 1 : 2; };
      const auto begin = [&](int64_t n) { return n == 0 ? 0 : n == 1 ? p.S / 2 : p.S * 3 / 4; };
      const int64_t last = 2 * p.S + p.S / 3;
      const auto position = [&](int64_t j) {
        if (p.ring) return last - (last - j) % p.S;
        if (b > 0 && j == p.S - 1) return int64_t{-1};
        if (p.segments == Segments::none) return j;
        return p.segments == Segments::documents ? j - begin(part(j)) : part(j) == 0 ? j : p.S / 2 + j - begin(part(j));
      };
      const auto segment = [&](int64_t j) { return part(j) + (p.segments == Segments::branches ? (b + 1) << 16 : 0); };
      for (int64_t j = 0; j < p.S; ++j) {
        kp.push_back(static_cast<int32_t>(position(j)));
        ks.push_back(static_cast<int32_t>(segment(j)));
      }
      for (int64_t t = 0; t < p.T; ++t) {
        qp.push_back(static_cast<int32_t>(p.ring ? last - p.T + 1 + t : position(p.S - p.T + t)));
        qs.push_back(static_cast<int32_t>(segment(p.S - p.T + t)));
      }
    }
    q_positions = ints(qp, {p.B, p.T});
    k_positions = ints(kp, {p.B, p.S});
    if (p.segments != Segments::none) {
      q_segments = ints(qs, {p.B, p.T});
      k_segments = ints(ks, {p.B, p.S});
    }
  }
  Inputs on_gpu(Lie lie = Lie::dense) const {
    Inputs r = *this;
    const auto place = [&](const Tensor& t) {
      if (lie == Lie::dense) return t.to(Device::gpu);
      const int64_t heads = t.dim(2), D = t.dim(3), more = lie == Lie::odd ? 1 : 0;
      const Tensor wide = Tensor::full({t.dim(0), t.dim(1), heads + 3, D + more}, NAN, t.dtype());
      copy(t.view(), wide.slice(2, 2, 2 + heads).slice(3, 0, D).out());
      return wide.to(Device::gpu).slice(2, 2, 2 + heads).slice(3, 0, D);
    };
    for (Tensor* t : {&r.q, &r.k, &r.v, &r.dy}) *t = place(*t);
    for (Tensor* t : {&r.q_positions, &r.k_positions, &r.q_segments, &r.k_segments})
      if (*t) *t = t->to(Device::gpu);
    return r;
  }
  AttentionInputs view() const {
    AttentionInputs x;
    x.q = q.view();
    x.k = k.view();
    x.v = v.view();
    x.q_positions = q_positions.view();
    x.k_positions = k_positions.view();
    if (q_segments) {
      x.q_segments = q_segments.view();
      x.k_segments = k_segments.view();
    }
    x.window = window;
    x.causal = causal;
    x.scale = scale;
    x.cap = cap;
    return x;
  }
};

/// An output between sentinels.
struct Guarded {
  Tensor wide, inner;
  Guarded(const Shape& shape, DType dtype, Device device) {
    Shape outer = shape;
    outer[1] += 2;
    wide = Tensor::full(outer, 77, dtype).to(device);
    inner = wide.slice(1, 1, 1 + shape[1]);
  }
  Tensor result() const {
    const Tensor all = wide.to(Device::cpu);
    for (const Tensor& edge : {all.slice(1, 0, 1), all.slice(1, all.dim(1) - 1, all.dim(1))})
      for (double x : edge.to_vector()) CHECK(x == 77);
    return all.slice(1, 1, all.dim(1) - 1).clone();
  }
};

struct Result {
  Tensor y, lse;
};
Result forward(const Inputs& x, Device device) {
  const Guarded y(x.q.shape(), x.q.dtype(), device), lse({x.q.dim(0), x.q.dim(2), x.q.dim(1)}, DType::f32, device);
  attention_forward(x.view(), y.inner.out(), lse.inner.out());
  return {y.result(), lse.result()};
}

/// Mean square, the worst element by the RMS of its row (or of the tensor: rows may be zero but for rounding), and the share of elements
/// beyond 4 units in the last place of a bf16 of that size.
struct Limits {
  double nmse, worst, share;
};
constexpr Limits exact_forward{1e-10, 1e-4, 1}, exact_backward{1e-10, 1e-4, 1}, bf16_forward{2e-5, 3e-2, 5e-3}, bf16_backward{5e-5, 5e-2, 5e-3};

Comparison parity(const Tensor& a, const Tensor& reference, const Limits& limits) {
  const std::vector<double> x = a.to_vector(), r = reference.to_vector();
  const int64_t D = a.dim(-1);
  double error = 0, norm = 0, worst = 0, beyond = 0, all = 0;
  for (double v : r) all += std::isinf(v) ? 0 : v * v;
  all = std::sqrt(all / static_cast<double>(std::max<size_t>(r.size(), 1)));
  for (int64_t row = 0; row < static_cast<int64_t>(x.size()) / D; ++row) {
    double square = 0;
    for (int64_t i = row * D; i < (row + 1) * D; ++i) square += std::isinf(r[i]) ? 0 : r[i] * r[i];
    const double rms = std::max(all, std::sqrt(square / static_cast<double>(D)));
    for (int64_t i = row * D; i < (row + 1) * D; ++i) {
      if (std::isinf(r[i]) && x[i] == r[i]) continue;
      const double e = std::abs(x[i] - r[i]);
      error += e * e;
      norm += r[i] * r[i];
      worst = std::max(worst, rms > 0 ? e / rms : e == 0 ? 0 : HUGE_VAL);
      beyond += e > 4 * std::max(std::abs(r[i]), rms) / 256;
      if (std::isnan(e)) error = worst = NAN;
    }
  }
  const double nmse = norm > 0 ? error / norm : error, share = beyond / static_cast<double>(std::max<size_t>(x.size(), 1));
  Comparison c;
  c.ok = nmse <= limits.nmse && worst <= limits.worst && share <= limits.share;
  c.message = "nmse " + std::to_string(nmse * 1e9) + "e-9, worst " + std::to_string(worst) + ", share " + std::to_string(share);
  return c;
}

struct Settings {
  gpu::emulator::Settings before = gpu::emulator::settings();
  ~Settings() {
    gpu::emulator::set_settings(before);
    gpu::attn::limit_shared(static_cast<size_t>(-1));
    gpu::attn::limit_processors(INT32_MAX);
  }
  static void set(gpu::emulator::Schedule s, uint64_t seed) {
    gpu::emulator::Settings now = gpu::emulator::settings();
    now.schedule = s;
    now.seed = seed;
    now.copies = seed % 3 == 0 ? gpu::emulator::Copies::eager : seed % 3 == 1 ? gpu::emulator::Copies::late : gpu::emulator::Copies::mixed;
    gpu::emulator::set_settings(now);
  }
};
constexpr gpu::emulator::Schedule schedules[] = {gpu::emulator::Schedule::forward, gpu::emulator::Schedule::reverse,
                                                 gpu::emulator::Schedule::random, gpu::emulator::Schedule::random};

// Small head sizes beside 64, 128 and 256; more than eight queries, so that no case is one of decoding.
const Problem shapes[] = {
    {"a row of 1", 1, 9, 9, 1, 1, 1, 0, true, 0, Segments::none},
    {"ragged tails", 2, 21, 70, 2, 1, 24, 0, true, 0, Segments::none, Lie::fused},
    {"several tiles", 1, 77, 131, 4, 2, 16, 0, true, 0, Segments::none},
    {"odd head size", 2, 13, 19, 6, 2, 13, 0, true, 0, Segments::none},
    {"unaligned rows", 1, 12, 35, 3, 1, 64, 9, true, 0, Segments::none, Lie::odd},
    {"a window of two", 1, 150, 150, 4, 1, 8, 2, true, 0, Segments::none},
    {"a window as wide as a tile", 1, 100, 100, 4, 1, 8, 70, true, 0, Segments::none},
    {"documents", 2, 100, 100, 2, 1, 8, 0, true, 0, Segments::documents, Lie::fused},
    {"branches", 2, 90, 90, 3, 1, 16, 0, true, 0, Segments::branches},
    {"cap, no mask", 1, 10, 40, 2, 2, 72, 0, false, 5, Segments::none, Lie::fused},
    {"cap, window both ways", 1, 20, 100, 2, 1, 16, 30, false, 3, Segments::documents},
    {"the size of Gemma's heads", 1, 9, 80, 4, 1, 256, 40, true, 0, Segments::none, Lie::fused},
    {"full tiles of rows, ragged keys, no mask", 2, 16, 75, 2, 1, 8, 0, false, 0, Segments::none},
    {"wider than any", 1, 9, 20, 2, 1, 260, 0, true, 0, Segments::none},
};

// Up to eight queries, against pieces of 128 slots.
const Problem few_shapes[] = {
    {"one of everything", 1, 1, 1, 1, 1, 1, 0, true, 0, Segments::none},
    {"Gemma's heads, three pieces", 2, 1, 290, 4, 1, 256, 0, true, 0, Segments::none, Lie::fused},
    {"a ring gone round, its window", 1, 1, 140, 4, 1, 256, 100, true, 0, Segments::none, Lie::fused, true},
    {"a ring gone round, several queries", 2, 3, 50, 4, 1, 24, 20, true, 0, Segments::none, Lie::dense, true},
    {"twelve rows, hidden pieces", 1, 3, 700, 8, 2, 128, 60, true, 0, Segments::none, Lie::fused},
    {"odd head size", 2, 2, 131, 3, 3, 13, 0, true, 0, Segments::none},
    {"unaligned rows", 1, 8, 40, 2, 1, 64, 0, true, 0, Segments::none, Lie::odd},
    {"branches", 2, 5, 200, 2, 1, 16, 0, true, 0, Segments::branches, Lie::fused},
    {"documents, cap, no mask", 1, 4, 150, 6, 3, 200, 0, false, 4, Segments::documents},
    {"a padded row", 3, 1, 129, 5, 1, 64, 0, true, 0, Segments::none},
    {"many pieces", 1, 1, 1500, 2, 1, 8, 0, true, 0, Segments::none},
};

std::vector<Problem> all_shapes() {
  std::vector<Problem> all(std::begin(shapes), std::end(shapes));
  all.insert(all.end(), std::begin(few_shapes), std::end(few_shapes));
  return all;
}

}  // namespace

TEST_CASE("attention on the GPU: forward") {
  gpu::emulate(true);
  const Settings restore;
  const std::vector<Problem> every = all_shapes();
  for (const DType dtype : {DType::f32, DType::bf16})
    for (size_t i = 0; i < every.size(); ++i) {
      const Problem& p = every[i];
      INFO(p.name << ", " << name_of(dtype));
      const Inputs x(p, dtype), there = x.on_gpu(p.lie);
      const Result reference = forward(x, Device::cpu);
      Settings::set(schedules[i % 4], i);
      const Result a = forward(there, Device::gpu);
      CHECK(parity(a.y, reference.y, dtype == DType::f32 ? exact_forward : bf16_forward));
      CHECK(parity(a.lse, reference.lse, exact_forward));
      Settings::set(schedules[(i + 1) % 4], i + 1);
      const Result b = forward(there, Device::gpu);
      CHECK(bitwise_equal(a.y, b.y));
      CHECK(bitwise_equal(a.lse, b.lse));
    }
}

namespace {

struct Gradients {
  Tensor dq, dk, dv;
};
/// On both devices from the CPU's y and lse; added to ones when `accumulate`.
Gradients backward(const Inputs& x, const Result& forward, DType dtype, Device device, bool accumulate = false) {
  const auto sink = [&](const Tensor& like) {
    Guarded g(like.shape(), dtype, device);
    if (accumulate) {
      Tensor ones = Tensor::full(g.wide.shape(), 77, dtype);
      fill(ones.slice(1, 1, 1 + like.dim(1)).out(), 1);
      g.wide = ones.to(device);
      g.inner = g.wide.slice(1, 1, 1 + like.dim(1));
    }
    return g;
  };
  const Guarded dq = sink(x.q), dk = sink(x.k), dv = sink(x.v);
  const Tensor y = forward.y.to(device), lse = forward.lse.to(device);
  attention_backward(x.view(), y.view(), lse.view(), x.dy.view(), dq.inner.out(accumulate), dk.inner.out(accumulate), dv.inner.out(accumulate));
  return {dq.result(), dk.result(), dv.result()};
}

}  // namespace

TEST_CASE("attention on the GPU: backward") {
  gpu::emulate(true);
  const Settings restore;
  for (const DType dtype : {DType::f32, DType::bf16})
    for (size_t i = 0; i < std::size(shapes); ++i) {
      const Problem& p = shapes[i];
      INFO(p.name << ", " << name_of(dtype));
      const Inputs x(p, dtype), there = x.on_gpu(p.lie);
      const Result y = forward(x, Device::cpu);
      const DType stored = i % 2 ? DType::f32 : dtype;  // bf16 gradients are kept in either
      const bool accumulate = i % 3 == 1;
      const Limits limits = dtype == DType::f32 ? exact_backward : bf16_backward;
      const Gradients reference = backward(x, y, stored, Device::cpu, accumulate);
      Settings::set(schedules[i % 4], i);
      const Gradients a = backward(there, y, stored, Device::gpu, accumulate);
      CHECK(parity(a.dq, reference.dq, limits));
      CHECK(parity(a.dk, reference.dk, limits));
      CHECK(parity(a.dv, reference.dv, limits));
      Settings::set(schedules[(i + 1) % 4], i + 1);
      const Gradients b = backward(there, y, stored, Device::gpu, accumulate);
      CHECK(bitwise_equal(a.dq, b.dq));
      CHECK(bitwise_equal(a.dk, b.dk));
      CHECK(bitwise_equal(a.dv, b.dv));
    }
}

TEST_CASE("attention on the GPU: with the shared memory of other GPUs") {
  gpu::emulate(true);
  const Settings restore;
  const Problem shape{"", 1, 20, 75, 4, 1, 136, 0, true, 0, Segments::none, Lie::fused};
  const Inputs x(shape, DType::bf16), there = x.on_gpu(shape.lie);
  const Result reference = forward(x, Device::cpu);
  const Gradients gradients = backward(x, reference, DType::bf16, Device::cpu);
  for (const size_t kilobytes : {163, 99}) {
    INFO(kilobytes << " KB");
    gpu::attn::limit_shared(kilobytes * 1024);
    gpu::attn::limit_processors(1);  // large blocks
    Settings::set(schedules[2], kilobytes);
    CHECK(parity(forward(there, Device::gpu).y, reference.y, bf16_forward));
    const Gradients g = backward(there, reference, DType::bf16, Device::gpu);
    CHECK(parity(g.dq, gradients.dq, bf16_backward));
    CHECK(parity(g.dk, gradients.dk, bf16_backward));
    CHECK(parity(g.dv, gradients.dv, bf16_backward));
  }
}

TEST_CASE("attention on the GPU: large blocks and small ones, the same bits") {
  gpu::emulate(true);
  const Settings restore;
  for (const int64_t Dh : {24, 128, 256}) {
    INFO("head " << Dh);
    const Problem shape{"", 1, 40, 140, 4, 1, Dh, 50, true, 0, Segments::none, Lie::fused};
    const Inputs x(shape, DType::bf16), there = x.on_gpu(shape.lie);
    const Result y = forward(x, Device::cpu);
    std::vector<Result> results;
    std::vector<Gradients> gradients;
    for (const int most : {1, INT32_MAX}) {  // processors to keep busy
      gpu::attn::limit_processors(most);
      results.push_back(forward(there, Device::gpu));
      gradients.push_back(backward(there, y, DType::bf16, Device::gpu));
    }
    CHECK(bitwise_equal(results[0].y, results[1].y));
    CHECK(bitwise_equal(results[0].lse, results[1].lse));
    CHECK(bitwise_equal(gradients[0].dq, gradients[1].dq));
    CHECK(bitwise_equal(gradients[0].dk, gradients[1].dk));
    CHECK(bitwise_equal(gradients[0].dv, gradients[1].dv));
    CHECK(parity(gradients[1].dk, backward(x, y, DType::bf16, Device::cpu).dk, bf16_backward));
  }
}

TEST_CASE("attention on the GPU: queries that see nothing, absent outputs, no queries, no keys") {
  gpu::emulate(true);
  for (const DType dtype : {DType::f32, DType::bf16}) {
    INFO(name_of(dtype));
    Inputs x({"", 1, 10, 12, 2, 1, 16, 0, true, 0, Segments::none}, dtype);
    x.q_positions = ints({-1, 3, -1, 5, 6, 7, 8, 9, 10, 11}, {1, 10});
    x.k_positions = ints({-1, -1, -1, -1, 9, 5, 6, 7, 8, -1, 10, 11}, {1, 12});  // the query at 3 sees none of these
    const Inputs there = x.on_gpu();
    const Result y = forward(there, Device::gpu), reference = forward(x, Device::cpu);
    CHECK(parity(y.y, reference.y, dtype == DType::f32 ? exact_forward : bf16_forward));
    CHECK(parity(y.lse, reference.lse, exact_forward));
    for (const int64_t t : {0, 1, 2}) {
      CHECK(y.y.at({0, t, 1, 3}) == 0);
      CHECK(y.lse.at({0, 1, t}) == -HUGE_VAL);
    }
    Inputs first = there;
    first.q = first.q.slice(1, 0, 4);
    first.q_positions = first.q_positions.slice(1, 0, 4);
    const Result few = forward(first, Device::gpu);
    CHECK(parity(few.y, y.y.slice(1, 0, 4).clone(), dtype == DType::f32 ? exact_forward : bf16_forward));
    CHECK(parity(few.lse, y.lse.slice(2, 0, 4).clone(), exact_forward));
    const Gradients g = backward(there, y, dtype, Device::gpu);
    for (const int64_t t : {0, 1, 2}) CHECK(g.dq.at({0, t, 1, 3}) == 0);
    for (const int64_t j : {0, 3, 9}) CHECK((g.dk.at({0, j, 0, 5}) == 0 && g.dv.at({0, j, 0, 5}) == 0));
    CHECK(nmse(g.dk, backward(x, y, dtype, Device::cpu).dk) < 5e-5);

    const Tensor alone = Tensor::empty(x.q.shape(), dtype, Device::gpu), lse = y.lse.to(Device::gpu), out = y.y.to(Device::gpu);
    attention_forward(there.view(), alone.out(), {});
    CHECK(bitwise_equal(alone.to(Device::cpu), y.y));
    const Tensor dv = Tensor::empty(x.v.shape(), dtype, Device::gpu);
    attention_backward(there.view(), out.view(), lse.view(), there.dy.view(), {}, {}, dv.out());
    CHECK(bitwise_equal(dv.to(Device::cpu), g.dv));
    const Tensor dq = Tensor::empty(x.q.shape(), dtype, Device::gpu);
    attention_backward(there.view(), out.view(), lse.view(), there.dy.view(), dq.out(), {}, {});
    CHECK(bitwise_equal(dq.to(Device::cpu), g.dq));

    Inputs poisoned = x;
    poisoned.q = x.q.clone();
    fill(poisoned.q.slice(1, 3, 4).slice(2, 0, 1).out(), NAN);
    poisoned = poisoned.on_gpu();
    for (const int64_t T : {4, 10}) {
      Inputs some = poisoned;
      some.q = some.q.slice(1, 0, T);
      some.q_positions = some.q_positions.slice(1, 0, T);
      const Result r = forward(some, Device::gpu);
      CHECK(std::isnan(r.y.at({0, 3, 0, 5})));
      CHECK(std::isnan(r.lse.at({0, 0, 3})));
      CHECK(std::isfinite(r.y.at({0, 3, 1, 5})));
      CHECK(r.y.at({0, 2, 0, 5}) == 0);
    }

    Inputs empty = there;
    for (Tensor* t : {&empty.k, &empty.v}) *t = t->slice(1, 0, 0);
    empty.k_positions = empty.k_positions.slice(1, 0, 0);
    attention_forward(empty.view(), alone.out(), lse.out());
    CHECK(alone.to(Device::cpu).to_vector() == std::vector<double>(static_cast<size_t>(alone.numel())));
    attention_backward(empty.view(), alone.view(), lse.view(), there.dy.view(), dq.out(), {}, {});
    CHECK(dq.to(Device::cpu).to_vector() == std::vector<double>(static_cast<size_t>(dq.numel())));
  }
}

TEST_CASE("attention on the GPU: more rows than a launch has counters for") {
  gpu::emulate(true);
  const int64_t B = 2050;
  Inputs x({"", B, 1, 130, 1, 1, 8, 0, true, 0, Segments::none}, DType::f32);
  std::vector<int32_t> positions(static_cast<size_t>(B), -1);  // rows that see nothing cost the emulator little
  const std::vector<int64_t> seeing = {0, 2047, 2048, B - 1};
  for (const int64_t b : seeing) positions[static_cast<size_t>(b)] = 129;
  x.q_positions = ints(positions, {B, 1});
  const Inputs there = x.on_gpu();
  const Tensor y = Tensor::empty(x.q.shape(), DType::f32, Device::gpu);
  const int64_t before = gpu::emulator::counters().launches;
  attention_forward(there.view(), y.out(), {});
  gpu::synchronize();
  CHECK(gpu::emulator::counters().launches - before == 2);
  const Tensor all = y.to(Device::cpu);
  CHECK(all.at({1, 0, 0, 0}) == 0);
  for (const int64_t b : seeing) {
    INFO(b);
    Inputs alone = there;
    for (Tensor* t : {&alone.q, &alone.k, &alone.v, &alone.q_positions, &alone.k_positions}) *t = t->slice(0, b, b + 1);
    CHECK(bitwise_equal(forward(alone, Device::gpu).y, all.slice(0, b, b + 1).clone()));
  }
}

TEST_CASE("attention on the GPU: graphs and launches share the counters of pieces") {
  gpu::emulate(true);
  struct Call {
    Inputs x;
    Tensor y;
    gpu::Graph graph = {};
    explicit Call(const Problem& p) : x(Inputs(p, DType::bf16).on_gpu()), y(Tensor::empty(x.q.shape(), DType::bf16, Device::gpu)) {}
    void run() { attention_forward(x.view(), y.out(), {}); }
    Tensor result() const {
      const Tensor r = y.to(Device::cpu);
      fill(y.out(), NAN);
      return r;
    }
  };
  Call a({"", 2, 1, 290, 4, 1, 64, 0, true, 0, Segments::none}), b({"", 1, 2, 700, 4, 2, 32, 0, true, 0, Segments::none});
  a.run(), b.run();
  const Tensor expected_a = a.result(), expected_b = b.result();
  for (Call* c : {&a, &b}) c->graph.record(std::make_shared<gpu::Arena>(), [&] { c->run(); });
  for (int round = 0; round < 2; ++round) {
    a.graph.replay();
    CHECK(bitwise_equal(a.result(), expected_a));
    b.run();
    CHECK(bitwise_equal(b.result(), expected_b));
    b.graph.replay();
    CHECK(bitwise_equal(b.result(), expected_b));
  }
}

TEST_CASE("attention on the GPU: a row's bits are its own") {
  // Beside another row of the batch, with queries and keys added behind it: the same bits.
  gpu::emulate(true);
  for (const DType dtype : {DType::f32, DType::bf16}) {
    INFO(name_of(dtype));
    const Inputs x({"", 2, 150, 150, 2, 1, 16, 0, true, 0, Segments::none}, dtype), there = x.on_gpu();
    const Result whole = forward(there, Device::gpu);
    Inputs part = there;
    for (Tensor* t : {&part.q, &part.k, &part.v}) *t = t->slice(0, 0, 1).slice(1, 0, 70);
    for (Tensor* t : {&part.q_positions, &part.k_positions}) *t = t->slice(0, 0, 1).slice(1, 0, 70);
    const Result alone = forward(part, Device::gpu);
    for (const int64_t t : {1, 7}) {  // the kernel of few queries, with more keys and without
      Inputs few = there, one = part;
      few.q = few.q.slice(1, 60, 60 + t);
      few.q_positions = few.q_positions.slice(1, 60, 60 + t);
      one.q = one.q.slice(1, 60, 60 + t);
      one.q_positions = one.q_positions.slice(1, 60, 60 + t);
      CHECK(bitwise_equal(forward(few, Device::gpu).y.slice(0, 0, 1).clone(), forward(one, Device::gpu).y));
    }
    CHECK(bitwise_equal(alone.y, whole.y.slice(0, 0, 1).slice(1, 0, 70).clone()));
    CHECK(bitwise_equal(alone.lse, whole.lse.slice(0, 0, 1).slice(2, 0, 70).clone()));
  }
}
