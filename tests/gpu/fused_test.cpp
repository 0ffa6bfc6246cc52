// The fused kernels that work row by row, against their CPU bodies.
#include <catch2/catch.hpp>
#include <cmath>

#include "tensor/gpu/emulator/emulator.h"
#include "tensor/kernels/add_rms_norm.h"
#include "tensor/kernels/geglu.h"
#include "tensor/kernels/layer_norm.h"
#include "tensor/kernels/linear_geglu.h"
#include "tensor/kernels/norm_rope.h"
#include "tensor/kernels/norm_rope_write.h"
#include "tensor/kernels/rms_norm.h"
#include "tensor/rope_table.h"
#include "tests/gpu/kernel_check.h"
#include "tests/support/compare.h"

using namespace facet;
using namespace facet::test;

namespace {

/// Rows, width and extra columns of the window they are cut from. One row; widths that do not fit packs; tails of a warp, of a block, of a
/// group of rows; two and four packs a thread; wider than registers.
struct RowCase {
  int64_t n, d, extra;
};
constexpr RowCase row_cases[] = {{1, 8, 0},    {3, 7, 0},      {17, 24, 0},   {9, 257, 0},   {5, 256, 8},    {6, 256, 3},   {0, 64, 0},
                                 {70, 640, 0}, {2, 1152, 640}, {3, 2056, 8},  {2, 4104, 0},  {1, 8200, 0},   {300, 16, 0}};

Limits limits_of(DType t, bool backward) { return t == DType::f32 ? f32_sums : backward ? bf16_backward : bf16_forward; }
std::string words(const char* op, DType t, const RowCase& c) {
  return std::string(op) + " " + name_of(t) + " [" + std::to_string(c.n) + ", " + std::to_string(c.d) + "] of +" + std::to_string(c.extra);
}
/// w as a column of a wider table: stride 3.
Input strided_weight(Random& r, int64_t d, DType t) {
  return {r.normal({d, 3}, t, 0.3), [](const Tensor& x) { return x.slice(1, 1, 2).reshape({x.dim(0)}); }};
}

}  // namespace

TEST_CASE("rms_norm: gpu as cpu") {
  Random r(1);
  int sample = 0;
  for (const RowCase& c : row_cases) {
    for (const DType t : {DType::f32, DType::bf16}) {
      ++sample;
      const Input x = wide_rows(r, {c.n, c.d}, t, c.extra), dy = wide_rows(r, {c.n, c.d}, t, sample % 3 == 0 ? 8 : 0);
      const Input w = sample % 4 == 3 ? strided_weight(r, c.d, t) : Input(r.normal({c.d}, sample % 2 ? DType::f32 : DType::bf16, 0.3));
      KernelCheck k{words("rms_norm", t, c), {x, w}, {{{c.n, c.d}, t}, {{c.n}}}};
      k.limits = limits_of(t, false);
      k.out[1].limits = f32_sums;
      k.shift = sample % 5 == 4;
      k.body = [](const Views& in, const Outs& out) { rms_norm(in[0], in[1], 1e-3, out[0], out[1]); };
      if (sample % 3 == 1) k.out[0].start = r.normal({c.n, c.d}, t), k.out[0].add = true;
      const Tensor rstd = check_kernel(k)[1];

      KernelCheck b{words("rms_norm_backward", t, c), {dy, x, w, rstd}, {{{c.n, c.d}, t}, {{c.d}}}};
      b.limits = limits_of(t, true);
      b.out[1].limits = f32_sums;
      b.body = [](const Views& in, const Outs& out) { rms_norm_backward(in[0], in[1], in[2], in[3], out[0], out[1]); };
      if (sample % 3 == 2) b.out[1].start = r.normal({c.d}, DType::f32), b.out[1].add = true;
      if (sample % 5 == 1) b.out[0].absent = true;
      if (sample % 5 == 2) b.out[1].absent = true;
      check_kernel(b);
    }
  }
}

TEST_CASE("add_rms_norm: gpu as cpu") {
  Random r(11);
  int sample = 0;
  for (const RowCase& c : row_cases) {
    for (const DType t : {DType::f32, DType::bf16}) {
      ++sample;
      const Input x = wide_rows(r, {c.n, c.d}, t, c.extra), h = wide_rows(r, {c.n, c.d}, t, sample % 3 == 0 ? 8 : 0);
      const Input w = r.normal({c.d}, t, 0.3);
      for (const bool norm_h : {false, true}) {
        const Input w_h = !norm_h ? Input() : sample % 4 == 3 ? strided_weight(r, c.d, t) : Input(r.normal({c.d}, DType::f32, 0.3));
        KernelCheck k{words(norm_h ? "norm_add_norm" : "add_rms_norm", t, c), {x, h, w_h, w}, {{{c.n, c.d}, t}, {{c.n, c.d}, t}, {{c.n}}, {{c.n}}}};
        k.limits = limits_of(t, false);
        if (!norm_h) k.out[0].limits = same_bits;
        k.out[2].limits = k.out[3].limits = f32_sums;
        k.out[2].absent = !norm_h || sample % 3 == 1;
        k.out[3].absent = sample % 2;
        k.shift = sample % 5 == 4;
        k.body = [](const Views& in, const Outs& out) { add_rms_norm(in[0], in[1], in[2], in[3], 1e-3, out[0], out[1], out[2], out[3]); };
        check_kernel(k);
      }
    }
  }
}

TEST_CASE("layer_norm: gpu as cpu") {
  Random r(2);
  int sample = 0;
  for (const RowCase& c : row_cases) {
    for (const DType t : {DType::f32, DType::bf16}) {
      ++sample;
      const Input x = wide_rows(r, {c.n, c.d}, t, c.extra), dy = wide_rows(r, {c.n, c.d}, t, sample % 3 == 0 ? 8 : 0);
      const Input w = sample % 4 == 3 ? strided_weight(r, c.d, t) : Input(r.normal({c.d}, t)), bias = r.normal({c.d}, DType::f32);
      KernelCheck k{words("layer_norm", t, c), {x, w, bias}, {{{c.n, c.d}, t}, {{c.n}}, {{c.n}}}};
      k.limits = limits_of(t, false);
      k.out[1].limits = {1e-10, 1e-3, 1}, k.out[2].limits = f32_sums;  // a mean near zero has no RMS to speak of
      k.shift = sample % 5 == 4;
      k.body = [](const Views& in, const Outs& out) { layer_norm(in[0], in[1], in[2], 1e-3, out[0], out[1], out[2]); };
      if (sample % 3 == 1) k.out[0].start = r.normal({c.n, c.d}, t), k.out[0].add = true;
      const std::vector<Tensor> y = check_kernel(k);

      KernelCheck b{words("layer_norm_backward", t, c), {dy, x, w, y[1], y[2]}, {{{c.n, c.d}, t}, {{c.d}}, {{c.d}}}};
      b.limits = limits_of(t, true);
      b.out[1].limits = b.out[2].limits = f32_sums;
      b.body = [](const Views& in, const Outs& out) { layer_norm_backward(in[0], in[1], in[2], in[3], in[4], out[0], out[1], out[2]); };
      if (sample % 3 == 2) b.out[2].start = r.normal({c.d}, DType::f32), b.out[2].add = true;
      if (sample % 5 == 1) b.out[0].absent = true;
      if (sample % 5 == 2) b.out[1].absent = b.out[2].absent = true;
      if (sample % 5 == 3) b.out[1].absent = true;
      check_kernel(b);
    }
  }
}

TEST_CASE("geglu: gpu as cpu") {
  Random r(3);
  int sample = 0;
  for (const RowCase& c : row_cases) {
    for (const DType t : {DType::f32, DType::bf16}) {
      ++sample;
      const Tensor both = r.normal({c.n, 2 * c.d}, t, 3);  // halves of a fused projection
      const int64_t d = c.d;
      const Input gate{both, [d](const Tensor& x) { return x.slice(1, 0, d); }}, up{both, [d](const Tensor& x) { return x.slice(1, d, 2 * d); }};
      const Input dense_gate = r.normal({c.n, c.d}, t, 3), dense_up = r.normal({c.n, c.d}, t), dy = wide_rows(r, {c.n, c.d}, t, c.extra);
      KernelCheck k{words("geglu", t, c), {sample % 2 ? gate : dense_gate, sample % 2 ? up : dense_up}, {{{c.n, c.d}, t}}};
      k.limits = t == DType::f32 ? f32_elementwise : bf16_forward;
      k.shift = sample % 5 == 4;
      k.body = [](const Views& in, const Outs& out) { geglu(in[0], in[1], out[0]); };
      if (sample % 3 == 1) k.out[0].start = r.normal({c.n, c.d}, t), k.out[0].add = true;
      check_kernel(k);

      KernelCheck b{words("geglu_backward", t, c), {dy, k.in[0], k.in[1]}, {{{c.n, c.d}, t}, {{c.n, c.d}, t}}};
      b.limits = t == DType::f32 ? f32_elementwise : bf16_backward;
      b.body = [](const Views& in, const Outs& out) { geglu_backward(in[0], in[1], in[2], out[0], out[1]); };
      if (sample % 3 == 2) b.out[1].start = r.normal({c.n, c.d}, t), b.out[1].add = true;
      if (sample % 5 == 1) b.out[0].absent = true;
      if (sample % 5 == 2) b.out[1].absent = true;
      check_kernel(b);

      // Both gradients as halves of one.
      KernelCheck halves{words("geglu_backward halves", t, c), b.in, {{{c.n, 2 * c.d}, t}}};
      halves.limits = b.limits;
      halves.shift = sample % 5 == 3;
      halves.body = [d](const Views& in, const Outs& out) {
        Out half[] = {out[0], out[0]};
        half[1].data = half[1].as<char>() + d * size_of(half[1].dtype);
        for (Out& o : half) o.shape[1] = d;
        geglu_backward(in[0], in[1], in[2], half[0], half[1]);
      };
      if (sample % 3 == 0) halves.out[0].start = r.normal({c.n, 2 * c.d}, t), halves.out[0].add = true;
      check_kernel(halves);
    }
  }
}

TEST_CASE("linear_geglu: gpu as cpu") {
  Random r(13);
  struct Case {
    int64_t n, in, f;
  };
  for (const Case& c : {Case{1, 64, 24}, Case{16, 1152, 40}, Case{7, 264, 129}, Case{20, 64, 24}, Case{2, 63, 16}, Case{1, 16, 4100}, Case{0, 8, 8}, Case{3, 8, 3}}) {
    for (const DType t : {DType::f32, DType::bf16}) {
      const double scale = 1 / std::sqrt(static_cast<double>(c.in));
      KernelCheck k{words("linear_geglu", t, {c.n, c.in, c.f}), {r.normal({c.n, c.in}, t), r.normal({c.f, c.in}, t, 3 * scale), r.normal({c.f, c.in}, t, scale)}, {{{c.n, c.f}, t}}};
      k.limits = t == DType::f32 ? f32_sums : Limits{4e-5, 4e-2, 1e-2};  // products near a half of an ulp are rounded either way
      k.body = [](const Views& in, const Outs& out) { linear_geglu(in[0], in[1], in[2], out[0]); };
      check_kernel(k);
    }
  }
}

TEST_CASE("geglu: extremes on the gpu are the cpu's") {
  gpu::emulate(true);
  for (const DType t : {DType::f32, DType::bf16}) {
    const Tensor gate = Tensor::from({-1e30f, -200, -30, -9, -0.0f, 0, 1e-30f, 9, 200, 1e30f, INFINITY, NAN}, {12}).to(t);
    const Tensor up = Tensor::full({12}, 1, t), y = Tensor::empty({12}, t), on_gpu = Tensor::empty({12}, t, Device::gpu);
    geglu(gate.view(), up.view(), y.out());
    geglu(gate.to(Device::gpu).view(), up.to(Device::gpu).view(), on_gpu.out());
    CHECK(close(on_gpu.to(Device::cpu), y, 1e-2, 1e-30));
  }
}

namespace {

struct HeadCase {
  int64_t b, t, h, d;
  int64_t extra;  // columns of the fused projection before this one
};
constexpr HeadCase head_cases[] = {{1, 1, 1, 256, 0}, {2, 3, 4, 256, 256}, {1, 5, 1, 64, 0},  {2, 7, 2, 128, 64}, {2, 3, 3, 6, 0},
                                   {1, 4, 2, 2, 0},   {2, 5, 2, 48, 48},   {3, 0, 2, 64, 0}, {1, 3, 2, 1024, 0}, {2, 40, 2, 32, 0},
                                   {1, 9, 3, 256, 3}};

Input heads_of(Random& r, const HeadCase& c, DType t) {
  return {r.normal({c.b, c.t, c.extra + c.h * c.d}, t),
          [c](const Tensor& x) { return x.slice(2, c.extra, x.dim(2)).reshape({c.b, c.t, c.h, c.d}); }};
}
RopeRows rows_of(const RopeTable& table, View positions) {
  if (positions.device == Device::gpu) return table.gpu_rows();
  return table.rows({positions.as<int32_t>(), static_cast<size_t>(positions.numel())}, DType::f32);
}

}  // namespace

TEST_CASE("norm_rope: gpu as cpu") {
  Random r(4);
  gpu::emulate(true);
  int sample = 0;
  for (const HeadCase& c : head_cases) {
    const RopeTable table(c.d, 10000);
    table.reserve(700);
    for (const DType t : {DType::f32, DType::bf16}) {
      for (const bool norm : {true, false}) {
        ++sample;
        const std::string what = std::string(name_of(t)) + to_string(Shape{c.b, c.t, c.h, c.d}) + (norm ? " with norm" : "");
        std::vector<int32_t> where(static_cast<size_t>(c.b * c.t));
        for (int32_t& p : where) p = static_cast<int32_t>(r.below(600)) - 5;  // negative ones are padding
        const Tensor positions = Tensor::from(where, {c.b, c.t});
        const Input x = heads_of(r, c, t), dy = sample % 2 ? heads_of(r, c, t) : Input(r.normal({c.b, c.t, c.h, c.d}, t));
        const Input w = !norm ? Input() : sample % 4 == 1 ? strided_weight(r, c.d, t) : Input(r.normal({c.d}, t, 0.3));
        const int64_t rows = c.b * c.t * c.h;
        KernelCheck k{"norm_rope " + what, {x, w, positions}, {{{c.b, c.t, c.h, c.d}, t}, {{rows}}}};
        k.limits = limits_of(t, false);
        k.out[1].limits = f32_sums;
        k.out[1].absent = !norm;
        k.shift = sample % 7 == 6;
        if (sample % 3 == 1) k.out[0].start = r.normal(k.out[0].shape, t), k.out[0].add = true;
        k.body = [&](const Views& in, const Outs& out) { norm_rope(in[0], in[1], 1e-3, in[2], rows_of(table, in[2]), out[0], out[1]); };
        const Tensor rstd = check_kernel(k)[1];

        KernelCheck b{"norm_rope_backward " + what, {dy, norm ? x : Input(), w, rstd, positions}, {{{c.b, c.t, c.h, c.d}, t}, {{c.d}}}};
        b.limits = limits_of(t, true);
        b.out[1].limits = f32_sums;
        b.out[1].absent = !norm || sample % 5 == 2;
        b.out[0].absent = norm && sample % 5 == 1;
        if (sample % 3 == 2 && !b.out[1].absent) b.out[1].start = r.normal({c.d}, DType::f32), b.out[1].add = true;
        b.body = [&](const Views& in, const Outs& out) {
          norm_rope_backward(in[0], in[1], in[2], in[3], in[4], rows_of(table, in[4]), out[0], out[1]);
        };
        check_kernel(b);
      }
    }
  }
}

TEST_CASE("norm_rope_write: gpu as cpu") {
  Random r(9);
  gpu::emulate(true);
  int sample = 0;
  for (const HeadCase& c : head_cases) {
    const RopeTable table(c.d, 10000);
    table.reserve(700);
    const int64_t heads = c.h * (1 + c.b), ring = c.t + 3;
    for (const DType t : {DType::f32, DType::bf16}) {
      for (const bool norm : {true, false}) {
        ++sample;
        std::vector<int32_t> where(static_cast<size_t>(c.b * c.t));
        const int64_t first = r.below(500);
        for (size_t i = 0; i < where.size(); ++i) where[i] = i == 1 ? -1 : static_cast<int32_t>(first + static_cast<int64_t>(i));
        const HeadCase q{c.b, c.t, heads, c.d, c.extra};
        const Input w_q = norm ? Input(r.normal({c.d}, t, 0.3)) : Input(), w_k = norm ? strided_weight(r, c.d, DType::f32) : Input();
        const Shape rings{c.b, ring, c.h, c.d};
        KernelCheck k{std::string("norm_rope_write ") + name_of(t) + to_string(Shape{c.b, c.t, heads, c.d}) + (norm ? " with norm" : ""),
                      {heads_of(r, q, t), heads_of(r, c, t), heads_of(r, c, t), w_q, w_k, Tensor::from(where, {c.b, c.t})},
                      {{{c.b, c.t, heads, c.d}, t}, {rings, t}, {rings, t}, {{c.b, ring}, DType::i32}}};
        k.limits = limits_of(t, false);
        k.out[1].start = r.normal(rings, t), k.out[2].start = r.normal(rings, t);
        k.out[2].limits = k.out[3].limits = same_bits;
        k.shift = sample % 7 == 6;
        k.body = [&](const Views& in, const Outs& out) {
          norm_rope_write({in[0], in[1], in[2], in[3], in[4]}, 1e-3, in[5], rows_of(table, in[5]), out[0], {out[1], out[2], out[3]});
        };
        check_kernel(k);
      }
    }
  }
}

TEST_CASE("norm_rope: positions beyond the table come out as NaN, the others do not") {
  gpu::emulate(true);
  for (const int64_t d : {64, 6}) {
    const RopeTable table(d, 10000);
    table.reserve(3);  // a page of 512
    CHECK(table.gpu_rows().count == RopeRows::page_rows);
    const Tensor x = Tensor::full({1, 3, 1, d}, 1).to(Device::gpu), y = Tensor::empty({1, 3, 1, d}, DType::f32, Device::gpu);
    const Tensor positions = Tensor::from(std::vector<int32_t>{511, 512, 1 << 30}, {1, 3}).to(Device::gpu);
    norm_rope(x.view(), {}, 0, positions.view(), table.gpu_rows(), y.out(), {});
    for (int64_t t = 0; t < 3; ++t)
      for (int64_t i = 0; i < d; ++i) CHECK(std::isnan(y.at({0, t, 0, i})) == (t > 0));
  }
}

TEST_CASE("RopeTable: a table on the gpu doubles, and the one it replaces stays readable") {
  gpu::emulate(true);
  const RopeTable table(8, 10000);
  CHECK(table.gpu_rows().count == 0);
  table.reserve(1);
  const RopeRows small = table.gpu_rows();
  table.reserve(513);
  CHECK(table.gpu_rows().count == 1024);
  table.reserve(600);
  CHECK(table.gpu_rows().count == 1024);
  CHECK(small.rows != table.gpu_rows().rows);
  CHECK(small.at(511) != nullptr);
  CHECK(small.at(512) == nullptr);
  CHECK_THROWS_WITH(table.reserve(RopeTable::max_positions + 1), Catch::Contains("beyond"));
}
