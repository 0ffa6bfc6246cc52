// Products on the emulated GPU against those on the CPU: every body by itself, the doors, the choice among bodies, and cuBLASLt's
// descriptors, which the stand-in for its product reads back.
#include "tensor/kernels/gemm.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <functional>

#include "tensor/gpu/emulator/emulator.h"
#include "tensor/gpu/gemm.h"
#include "tensor/gpu/gemm_bodies.h"
#include "tensor/gpu/graph.h"
#include "tensor/gpu/lt.h"
#include "tensor/gpu/pool.h"
#include "tensor/gpu/runtime.h"
#include "tensor/kernels/copy.h"
#include "tests/gpu/device.h"
#include "tests/support/compare.h"
#include "tests/support/random.h"

using namespace facet;
using facet::test::has_lt;
using facet::test::Random;

namespace {

constexpr DType f32 = DType::f32, bf16_ = DType::bf16;

// window: rows 8 elements after a multiple of 16 bytes, a multiple of that apart, whatever their length; shifted: 3 elements after.
enum Form { dense, turned, second, window, turned_window, shifted };
constexpr Form forms[] = {dense, turned, second, window, turned_window, shifted};
constexpr int n_forms = 6;

// [.., rows, columns] in a layout; windows lie in a field wider than they are, of NaN that a kernel may not use.
struct Laid {
  Tensor field, view;
  std::function<Tensor(const Tensor&)> look;  // the view of a field

  Laid(Random& r, const Shape& shape, DType dtype, Form form, Device device, double around = NAN) {
    Shape whole = shape;
    const bool swap = form == turned || form == turned_window;
    if (swap) std::swap(whole[-1], whole[-2]);
    const int64_t rows = whole[-2], columns = whole[-1];
    if (form == second) whole[-1] = 2 * columns + 1;
    const bool wider = form == window || form == turned_window || form == shifted;
    const int64_t begin = form == shifted ? 3 : 8;
    if (wider) whole[-2] += 2, whole[-1] = (columns + 7) / 8 * 8 + 16;
    const Tensor cpu = Tensor::full(whole, around, dtype);
    look = [=](const Tensor& t) {
      Tensor v = t;
      if (form == second) v = v.slice(-1, 1, 2 * columns + 1, 2);
      if (wider) v = v.slice(-2, 1, 1 + rows).slice(-1, begin, begin + columns);
      return swap ? v.transpose(-1, -2) : v;
    };
    copy(r.normal(shape, f32).to(dtype).view(), look(cpu).out());
    field = cpu.to(device);
    view = look(field);
  }
};

// Products of the same dtypes: f32 a hundred times nearer than what is asked of them, so that a lost bf16 term shows.
void check_near(const Tensor& got, const Tensor& want) {
  const bool rounded = want.dtype() == bf16_;
  CHECK(test::nmse_within(got, want, rounded ? 1e-5 : 1e-12));
  const std::vector<double> a = got.to_vector(), b = want.to_vector();
  const size_t d = static_cast<size_t>(want.dim(-1));
  size_t far = 0;
  for (size_t row = 0; row < b.size(); row += d) {
    double squares = 0, worst = 0;
    for (size_t i = row; i < row + d; ++i) {
      squares += b[i] * b[i];
      worst = std::max(worst, std::abs(a[i] - b[i]));
      far += std::abs(a[i] - b[i]) > 4 * std::abs(b[i]) / 128;
    }
    // A row of few elements may cancel to nothing: no less than what a product of this kind is off by in general.
    const double rms = std::sqrt(squares / static_cast<double>(d)) + (d < 8 ? 1 : 0);
    if (worst > (rounded ? 2e-2 : 1e-4) * rms) FAIL_CHECK("row " << row / d << ": off by " << worst << ", its RMS is " << rms);
  }
  if (rounded) CHECK(static_cast<double>(far) <= 1e-3 * static_cast<double>(b.size()) + 1);
}

// make() under three schedules; the same bits every time.
template <class F>
Tensor scheduled(F make) {
  using namespace gpu::emulator;
  gpu::emulate(true);
  const Settings before = settings();
  Tensor first;
  for (const Schedule schedule : {Schedule::forward, Schedule::reverse, Schedule::random}) {
    Settings s = before;
    s.schedule = schedule;
    set_settings(s);
    const Tensor made = make();
    if (first) CHECK(test::bitwise_equal(made, first));
    else first = made;
  }
  set_settings(before);
  return first;
}

struct Case {
  Shape a, b, c;
  DType ta = f32, tb = f32, tc = f32;
  Form fa = dense, fb = dense, fc = dense;
  bool accumulate = false;
  double alpha = 1;
};
std::string text(const Case& k) {
  return fmt::format("a {} {} form {}, b {} {} form {}, c {} {} form {}, accumulate {}, alpha {}", to_string(k.a), name_of(k.ta), int(k.fa), to_string(k.b), name_of(k.tb), int(k.fb), to_string(k.c), name_of(k.tc), int(k.fc), k.accumulate, k.alpha);
}

// c after `body(a, b, c)`, brought to the CPU. What lies beside it is as before.
template <class F>
Tensor field_after(const Case& k, Device device, F body) {
  Random r(static_cast<uint64_t>(k.a.numel() * 31 + k.b.numel()));
  const Laid a(r, k.a, k.ta, k.fa, device), b(r, k.b, k.tb, k.fb, device), c(r, k.c, k.tc, k.fc, device, 7);
  body(a.view.view(), b.view.view(), c.view.out(k.accumulate));
  const Tensor field = c.field.to(Device::cpu).clone(), result = c.look(field).clone();
  copy(Tensor::scalar(7, k.tc).expand(k.c).view(), c.look(field).out());
  for (double x : field.to_vector())
    if (x != 7) {
      FAIL_CHECK("something beside c was written");
      break;
    }
  return result;
}

template <class F>
void check_case(const Case& k, F body) {
  INFO(text(k));
  const Tensor want = field_after(k, Device::cpu, [&](View a, View b, Out c) { cpu::gemm_batched(a, b, c, k.alpha); });
  const Tensor got = scheduled([&] { return field_after(k, Device::gpu, body); });
  check_near(got, want);
}

gpu::Product product(const Case& k, View a, View b, Out c) { return gpu::product_of("test", a, b, c, k.alpha); }

const int64_t sizes[][3] = {{1, 1, 1}, {3, 31, 5}, {65, 17, 66}, {129, 40, 8}, {17, 100, 130}, {64, 64, 64}, {31, 8, 1}, {1, 33, 70}};

}  // namespace

TEST_CASE("fma: sizes, layouts, mixtures of dtypes") {
  int i = 0;
  for (auto [m, p, n] : sizes)
    for (int j = 0; j < 3; ++j, ++i) {
      Case k{{m, p}, {p, n}, {m, n}};
      k.fa = forms[i % n_forms], k.fb = forms[i / 2 % n_forms], k.fc = forms[i / 3 % n_forms];
      k.ta = i % 2 ? f32 : bf16_, k.tb = i % 3 ? f32 : bf16_, k.tc = i % 4 ? f32 : bf16_;
      k.accumulate = i % 5 == 1, k.alpha = i % 3 == 1 ? -0.75 : 1;
      check_case(k, [&](View a, View b, Out c) { gpu::product_fma("test", product(k, a, b, c)); });
    }
}

TEST_CASE("mma: sizes, layouts, both results") {
  int i = 0;
  for (auto [m, p, n] : {std::array<int64_t, 3>{1, 1, 1}, {130, 70, 66}, {24, 40, 72}, {17, 33, 5}, {128, 96, 64}, {8, 136, 8}, {40, 64, 16}})
    for (int j = 0; j < 4; ++j, ++i) {
      Case k{{m, p}, {p, n}, {m, n}, bf16_, bf16_};
      k.fa = forms[i % n_forms], k.fb = forms[i / 2 % n_forms], k.fc = forms[i / 3 % n_forms];
      k.tc = i % 2 ? f32 : bf16_;
      k.accumulate = i % 5 == 1, k.alpha = i % 3 == 1 ? -0.75 : 1;
      check_case(k, [&](View a, View b, Out c) { gpu::product_mma("test", product(k, a, b, c)); });
    }
}

TEST_CASE("own kernels: batches, repeated operands, sums over what c repeats") {
  const Case cases[] = {{{5, 9, 20}, {5, 20, 7}, {5, 9, 7}},
                        {{2, 3, 9, 16}, {16, 24}, {2, 3, 9, 24}},
                        {{3, 9, 16}, {2, 3, 16, 8}, {2, 3, 9, 8}},
                        {{4, 9, 16}, {4, 16, 8}, {9, 8}},
                        {{2, 3, 9, 16}, {2, 3, 16, 8}, {3, 9, 8}},
                        {{2, 3, 8, 10}, {2, 1, 10, 8}, {1, 3, 8, 8}},
                        {{6, 1, 40}, {6, 40, 1}, {1, 1}}};
  for (Case k : cases)
    for (const DType t : {f32, bf16_})
      for (const Form form : {dense, turned, window}) {
        k.ta = k.tb = t, k.fa = form, k.fb = form == dense ? turned : dense, k.fc = form;
        k.tc = form == window ? bf16_ : f32;
        k.accumulate = form == turned;
        check_case(k, [&](View a, View b, Out c) { gpu::product_fma("test", product(k, a, b, c)); });
        if (t == bf16_) check_case(k, [&](View a, View b, Out c) { gpu::product_mma("test", product(k, a, b, c)); });
      }
}

TEST_CASE("own kernels: batches that do not begin on 16 bytes, sums that are longer for one operand alone") {
  gpu::emulate(true);
  Random r(12);
  const auto compare = [&](const auto& make) {
    const auto run = [&](Device d) {
      const Tensor c = Tensor::zeros({2, 9, 8}).to(d);
      make(d, c.out());
      return c.to(Device::cpu);
    };
    check_near(scheduled([&] { return run(Device::gpu); }), run(Device::cpu));
  };
  const Tensor x = r.normal({2, 9 * 16 + 4}, bf16_), y = r.normal({2, 16, 8}, bf16_);
  compare([&](Device d, Out c) {
    const Tensor xd = x.to(d), yd = y.to(d);
    View a = xd.view();
    a.shape = {2, 9, 16}, a.stride = {148, 16, 1};
    gemm_batched(a, yd.view(), c);
  });
  const Tensor p = r.normal({9, 3, 16}, bf16_), q = r.normal({3, 8, 16}, bf16_);
  for (const bool turn : {false, true})
    compare([&](Device d, Out c) {
      const Tensor pd = p.to(d).transpose(0, 1), qd = (turn ? q : q.transpose(1, 2).clone()).to(d);
      c.shape = {9, 8}, c.stride = {8, 1};
      gemm_batched(pd.view(), (turn ? qd.transpose(1, 2) : qd).view(), c);
    });
}

TEST_CASE("skinny: 1 to 16 rows against bf16 and f32 weights") {
  int i = 0;
  for (auto [rows, terms, outputs] : {std::array<int64_t, 3>{1, 8, 8}, {1, 1152, 24}, {3, 640, 17}, {4, 264, 100}, {5, 40, 33}, {8, 2048, 9}, {16, 72, 64}, {15, 520, 31}})
    for (int j = 0; j < 3; ++j, ++i) {  // bf16 under bf16, bf16 under f32, f32 under f32
      Case k{{rows, terms}, {terms, outputs}, {rows, outputs}};
      k.ta = j ? f32 : bf16_, k.tb = j == 2 ? f32 : bf16_, k.tc = i % 2 ? f32 : bf16_;
      k.fa = i % 3 ? dense : window, k.fb = i % 2 ? turned : turned_window, k.fc = forms[i % n_forms];
      k.accumulate = i % 4 == 1, k.alpha = i % 5 == 1 ? 0.5 : 1;
      check_case(k, [&](View a, View b, Out c) {
        CHECK(gpu::gemm_path(a, b, c, true) == gpu::GemmPath::skinny);
        gpu::gemm(a, b, c, k.alpha);
      });
      std::swap(k.a[0], k.a[1]), std::swap(k.b[0], k.b[1]), std::swap(k.c[0], k.c[1]);  // few columns: b^T a^T
      std::swap(k.a, k.b), std::swap(k.ta, k.tb), std::swap(k.fa, k.fb);
      k.fa = k.fa == turned ? dense : window, k.fb = k.fb == dense ? turned : turned_window;
      check_case(k, [&](View a, View b, Out c) {
        if (rows < 8) CHECK(gpu::gemm_path(a, b, c, true) == gpu::GemmPath::skinny);
        gpu::gemm(a, b, c, k.alpha);
      });
    }
}

TEST_CASE("skinny: wide outputs take the other tile, to the same bits") {
  gpu::emulate(true);
  Random r(3);
  const Tensor x = r.normal({2, 32}, bf16_).to(Device::gpu), w = r.normal({8200, 32}, bf16_).to(Device::gpu);
  const Tensor y = Tensor::empty({2, 8200}, f32, Device::gpu), part = Tensor::empty({2, 40}, f32, Device::gpu);
  gemm(x.view(), w.transpose(0, 1).view(), y.out());
  gemm(x.view(), w.slice(0, 8160, 8200).transpose(0, 1).view(), part.out());
  CHECK(test::bitwise_equal(y.to(Device::cpu).slice(1, 8160, 8200).clone(), part.to(Device::cpu)));
}

TEST_CASE("rows keep their bits: own kernels and skinny ones do not look at the other rows") {
  gpu::emulate(true);
  Random r(4);
  const Tensor x = r.normal({140, 104}, bf16_).to(Device::gpu), w = r.normal({72, 104}, bf16_).to(Device::gpu);
  const auto rows = [&](int64_t begin, int64_t end, auto body) {
    const Tensor y = Tensor::empty({end - begin, 72}, f32, Device::gpu);
    body(gpu::product_of("test", x.slice(0, begin, end).view(), transposed(w.view()), y.out(), 1));
    return y.to(Device::cpu);
  };
  const auto mma = [](const gpu::Product& g) { gpu::product_mma("test", g); };
  const auto fma = [](const gpu::Product& g) { gpu::product_fma("test", g); };
  const auto skinny = [](const gpu::Product& g) { gpu::product_skinny("test", {&g, 1}); };
  CHECK(test::bitwise_equal(rows(0, 140, mma).slice(0, 130, 131).clone(), rows(130, 131, mma)));
  CHECK(test::bitwise_equal(rows(0, 140, fma).slice(0, 130, 131).clone(), rows(130, 131, fma)));
  CHECK(test::bitwise_equal(rows(120, 136, skinny).slice(0, 10, 11).clone(), rows(130, 131, skinny)));
}

TEST_CASE("terms: an f32 number is the sum of three bf16 numbers") {
  gpu::emulate(true);
  Random r(5);
  Tensor x = r.normal({13, 21}, f32);
  std::vector<double> v = x.to_vector();
  v[0] = 0, v[1] = -0.0, v[2] = 3.4028234e38, v[3] = -1e-30, v[4] = INFINITY, v[5] = NAN;
  x = Tensor::from(std::vector<float>(v.begin(), v.end()), {13, 21});
  for (const bool along : {true, false}) {
    const Tensor given = x.to(Device::gpu);
    const int64_t lines = along ? 13 : 21, length = along ? 21 : 13, pitch = 24;
    const Tensor terms = Tensor::empty({3, lines, pitch}, bf16_, Device::gpu);
    gpu::split_terms("test", given.view().as<float>(), lines, length, along ? 21 : 1, along ? 1 : 21, terms.out().as<bf16>(), pitch);
    const std::vector<double> t = terms.to(Device::cpu).to_vector();
    for (int64_t i = 0; i < lines; ++i)
      for (int64_t j = 0; j < pitch; ++j) {
        double sum = 0;
        for (int k = 0; k < 3; ++k) sum += t[static_cast<size_t>((k * lines + i) * pitch + j)];
        const double want = j >= length ? 0 : (along ? x.at({i, j}) : x.at({j, i}));
        if (std::isnan(want)) CHECK(std::isnan(sum));
        else if (sum != want) FAIL_CHECK(sum << " is not " << want);
      }
  }
}

TEST_CASE("the path is a function of shapes, strides, dtypes and alignment") {
  gpu::emulate(true);
  using gpu::GemmPath;
  const auto make = [](const Shape& shape, DType t) { return Tensor::empty(shape, t, Device::gpu); };
  const Tensor x = make({512, 640}, bf16_), w = make({2048, 640}, bf16_), y = make({512, 2048}, bf16_), g = make({2048, 640}, f32);
  const Tensor x32 = make({512, 640}, f32), wt32 = g.transpose(0, 1);
  const auto path = [](const Tensor& a, const Tensor& b, const Tensor& c, bool lt = true) { return gpu::gemm_path(a.view(), b.view(), c.out(), lt); };
  const auto wt = w.transpose(0, 1), yt = y.transpose(0, 1);
  CHECK(path(x, wt, y) == GemmPath::lt);
  CHECK(path(x, wt, y, false) == GemmPath::mma);
  CHECK(path(y, w, make({512, 640}, bf16_)) == GemmPath::lt);
  CHECK(path(yt, x, g) == GemmPath::lt);
  CHECK(path(x32, wt, make({512, 2048}, f32)) == GemmPath::lt_terms);
  CHECK(path(x32, wt, make({512, 2048}, bf16_)) == GemmPath::lt_terms);
  CHECK(path(x32, wt, make({512, 2048}, f32), false) == GemmPath::fma);
  CHECK(path(x32, wt32, make({512, 2048}, f32)) == GemmPath::lt);
  CHECK(path(x32, wt32, make({512, 2048}, bf16_)) == GemmPath::fma);  // it has no such result
  for (int64_t rows : {1, 16, 17}) {
    const GemmPath want = rows <= 16 ? GemmPath::skinny : GemmPath::lt;
    CHECK(path(x.slice(0, 0, rows), wt, make({rows, 2048}, bf16_)) == want);
    CHECK(path(x32.slice(0, 0, rows), wt, make({rows, 2048}, f32)) == (rows <= 16 ? want : GemmPath::lt_terms));
  }
  CHECK(path(make({2, 636}, bf16_), make({2048, 636}, bf16_).transpose(0, 1), make({2, 2048}, bf16_)) != GemmPath::skinny);  // rows not on 16 bytes
  CHECK(path(make({4, 8}, bf16_), make({8, 4}, bf16_), make({4, 4}, bf16_)) == GemmPath::mma);
  CHECK(path(make({64, 1280}, bf16_).slice(1, 0, 1280, 2), wt, make({64, 2048}, bf16_)) == GemmPath::mma);  // no stride of 1
  CHECK(path(make({0, 640}, bf16_), wt, make({0, 2048}, bf16_)) == GemmPath::nothing);
  CHECK(path(make({64, 0}, bf16_), make({0, 64}, bf16_), make({64, 64}, bf16_)) == GemmPath::nothing);
  CHECK(path(make({6, 512, 64}, bf16_), make({6, 64, 512}, bf16_), make({6, 512, 512}, bf16_)) == GemmPath::lt);
  CHECK(path(make({3, 100, 512, 64}, bf16_).transpose(0, 1), make({3, 64, 512}, bf16_), make({100, 3, 512, 512}, bf16_)) == GemmPath::mma);  // 100 calls
}

TEST_CASE("nothing: no element is left alone, a sum of nothing is zero") {
  gpu::emulate(true);
  const auto make = [](const Shape& shape) { return Tensor::full(shape, 3).to(Device::gpu); };
  const Tensor c = make({2, 3, 4});
  gemm_batched(make({2, 3, 0}).view(), make({2, 0, 4}).view(), c.out(true));
  CHECK(c.to(Device::cpu).to_vector() == std::vector<double>(24, 3));
  gemm(make({0, 5}).view(), make({5, 4}).view(), make({0, 4}).out());
  CHECK_THROWS_WITH(gemm(make({3, 5}).view(), make({4, 5}).view(), c.slice(0, 0, 1).reshape({3, 4}).out()), Catch::Contains("gemm: a [3, 5] times b [4, 5]"));
}

TEST_CASE("cuBLASLt: what the descriptors say is the product") {
  if (!has_lt()) return;
  int i = 0;
  for (auto [m, p, n] : {std::array<int64_t, 3>{1, 1, 1}, {3, 31, 5}, {24, 40, 72}, {17, 1, 33}, {1, 40, 9}, {30, 64, 1}, {48, 80, 32}})
    for (int j = 0; j < 8; ++j, ++i) {
      constexpr Form one[] = {dense, turned, window, turned_window};
      Case k{{m, p}, {p, n}, {m, n}};
      k.fa = one[i % 4], k.fb = one[i / 4 % 4], k.fc = one[i / 3 % 4];
      k.ta = k.tb = i % 3 ? bf16_ : f32, k.tc = i % 3 == 1 ? bf16_ : f32;
      k.accumulate = i % 5 == 1, k.alpha = i % 3 == 1 ? -0.75 : 1;
      check_case(k, [&](View a, View b, Out c) {
        const gpu::Product g = product(k, a, b, c);
        REQUIRE(gpu::lt_takes(g));
        CHECK(gpu::product_lt("test", g));
      });
    }
}

TEST_CASE("cuBLASLt: batches, also of one matrix for all") {
  if (!has_lt()) return;
  for (const Case& given : {Case{{5, 9, 24}, {5, 24, 8}, {5, 9, 8}}, Case{{3, 9, 16}, {1, 16, 24}, {3, 9, 24}}, Case{{1, 9, 16}, {3, 16, 8}, {3, 9, 8}},
                            Case{{4, 1, 8}, {4, 8, 3}, {4, 1, 3}}, Case{{2, 3, 9, 16}, {2, 3, 16, 8}, {2, 3, 9, 8}}, Case{{2, 40, 8}, {2, 8, 40}, {2, 40, 40}}})
    for (const Form form : {dense, turned}) {
      Case k = given;
      k.ta = k.tb = bf16_, k.fb = form, k.fc = form;
      k.accumulate = form == turned;
      check_case(k, [&](View a, View b, Out c) {
        const gpu::Product g = product(k, a, b, c);
        REQUIRE(gpu::lt_takes(g));
        CHECK(gpu::product_lt("test", g));
      });
    }
}

TEST_CASE("doors: every path through gemm and gemm_batched") {
  const Case cases[] = {{{80, 130}, {130, 112}, {80, 112}, bf16_, bf16_, bf16_, dense, turned, dense},           // lt
                        {{80, 130}, {130, 112}, {80, 112}, f32, f32, f32, turned, dense, window, true, 0.5},     // lt
                        {{80, 130}, {130, 112}, {80, 112}, f32, bf16_, f32, dense, turned, dense, true},         // lt_terms
                        {{80, 130}, {130, 112}, {80, 112}, bf16_, f32, f32, turned, window, turned, false, -2},  // lt_terms, f32 on the right
                        {{80, 130}, {130, 112}, {80, 112}, bf16_, bf16_, f32, second, dense, dense},             // mma
                        {{80, 20}, {20, 112}, {80, 112}, f32, bf16_, bf16_, dense, dense, dense, true},          // fma
                        {{3, 2, 40, 80}, {2, 80, 112}, {3, 2, 40, 112}, bf16_, bf16_, f32},                      // lt, a loop of batches
                        {{4, 40, 80}, {4, 80, 112}, {40, 112}, bf16_, bf16_, f32, dense, dense, dense, true},    // lt, a sum of calls
                        {{4, 40, 80}, {4, 80, 112}, {40, 112}, bf16_, bf16_, bf16_}};                            // mma: one rounding
  for (const Case& k : cases) check_case(k, [&](View a, View b, Out c) { gemm_batched(a, b, c, k.alpha); });
}

TEST_CASE("linear: q, k and v in one, few rows and many, absent outputs, += and weights side by side") {
  gpu::emulate(true);
  Random r(6);
  for (const int64_t rows : {1, 3, 16, 50})
    for (const bool add : {false, true})
      for (const DType tx : {bf16_, f32}) {
        const Tensor x = r.normal({rows, 72}, tx), all = r.normal({91, 72}, bf16_);
        const int64_t from[] = {0, 40, 56, 72, 88}, to[] = {40, 56, 72, 88, 91};
        const auto run = [&](Device d) {
          const Tensor xd = x.to(d), wd = all.to(d);
          std::vector<Tensor> y;
          std::vector<View> w;
          std::vector<Out> o;
          for (int i = 0; i < 5; ++i) {
            y.push_back(Tensor::full({rows, to[i] - from[i]}, 0.5, i == 4 ? f32 : tx).to(d));
            w.push_back(wd.slice(0, from[i], to[i]).view());
            o.push_back(i == 0 ? Out{} : y.back().out(add));
          }
          linear(xd.view(), w, o);
          std::vector<float> flat;
          for (const Tensor& t : y)
            for (double v : t.to_vector()) flat.push_back(static_cast<float>(v));
          return Tensor::from(flat, {rows, 91});
        };
        INFO(rows << " rows, add " << add);
        const Tensor want = run(Device::cpu), got = scheduled([&] { return run(Device::gpu); });
        CHECK(test::nmse_within(got, want, tx == f32 ? 1e-10 : 1e-5));
      }
}

TEST_CASE("linear: outputs side by side make one product of weights side by side") {
  gpu::emulate(true);
  Random r(7);
  const Tensor x = r.normal({40, 64}, bf16_), w = r.normal({96, 64}, bf16_);
  const auto run = [&](Device d) {
    const Tensor xd = x.to(d), wd = w.to(d), y = Tensor::zeros({40, 96}, f32).to(d);
    const View ws[] = {wd.slice(0, 0, 32).view(), wd.slice(0, 32, 96).view()};
    const Out ys[] = {y.slice(1, 0, 32).out(), y.slice(1, 32, 96).out()};
    linear(xd.view(), ws, ys);
    return y.to(Device::cpu);
  };
  check_near(scheduled([&] { return run(Device::gpu); }), run(Device::cpu));
}

TEST_CASE("linear_dx and linear_dw: sums rounded once, absent gradients, +=") {
  gpu::emulate(true);
  Random r(8);
  for (const DType t : {f32, bf16_})
    for (const int64_t rows : {2, 37})
      for (const int present : {0, 1, 3})
        for (const bool add : {false, true}) {
          const Tensor dy[] = {r.normal({rows, 24}, t), r.normal({rows, 8}, t), r.normal({rows, 40}, t)};
          const Tensor w[] = {r.normal({24, 56}, t), r.normal({8, 56}, t), r.normal({40, 56}, t)};
          const Tensor x = r.normal({rows, 56}, t);
          const auto run = [&](Device d) {
            std::vector<Tensor> keep;
            std::vector<View> ds, ws;
            for (int i = 0; i < 3; ++i) {
              keep.push_back(dy[i].to(d)), keep.push_back(w[i].to(d));
              ds.push_back(present == 3 || (present == 1 && i == 1) ? keep[keep.size() - 2].view() : View{});
              ws.push_back(keep.back().view());
            }
            const Tensor dx = Tensor::full({rows, 56}, 0.25, t).to(d), dw = Tensor::full({24, 56}, 0.25).to(d), xd = x.to(d);
            linear_dx(ds, ws, dx.out(add));
            linear_dw(keep[0].view(), xd.view(), dw.out(add));
            return std::array<Tensor, 2>{dx.to(Device::cpu), dw.to(Device::cpu)};
          };
          INFO(name_of(t) << ", " << rows << " rows, " << present << " gradients, add " << add);
          const auto want = run(Device::cpu);
          Tensor dw;
          const Tensor dx = scheduled([&] {
            auto both = run(Device::gpu);
            dw = both[1];
            return both[0];
          });
          if (present || add) check_near(dx, want[0]);
          else CHECK(test::bitwise_equal(dx, want[0]));
          check_near(dw, want[1]);
        }
}

TEST_CASE("cuBLASLt: from the second time on a product allocates nothing") {
  if (!has_lt()) return;
  Random r(10);
  const Tensor x = r.normal({40, 64}, bf16_).to(Device::gpu), w = r.normal({64, 48}, bf16_).to(Device::gpu), c = Tensor::zeros({40, 48}).to(Device::gpu);
  const auto run = [&] { gpu::product_lt("test", gpu::product_of("test", x.view(), w.view(), c.out(), 1)); };
  run();
  const PoolStats before = gpu::pool_stats();
  const size_t host = facet::pool_stats().sys_allocs;
  run();
  CHECK(gpu::pool_stats().pool_allocs == before.pool_allocs);  // the first suggestion needs no workspace
  CHECK(gpu::pool_stats().live_bytes == before.live_bytes);
  CHECK(facet::pool_stats().sys_allocs == host);
}
