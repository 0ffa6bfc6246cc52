// Kernels that walk over parameters, and those that draw: adamw, sgd, lion, adafactor, norms, dropout.
#include <catch2/catch.hpp>
#include <bit>
#include <cmath>

#include "tensor/gpu/emulator/emulator.h"
#include "tensor/gpu/pool.h"
#include "tensor/gpu/runtime.h"
#include "tensor/kernels/adafactor.h"
#include "tensor/kernels/adamw.h"
#include "tensor/kernels/dropout.h"
#include "tensor/kernels/lion.h"
#include "tensor/kernels/sgd.h"
#include "tensor/rng.h"
#include "tests/gpu/kernel_check.h"
#include "tests/support/compare.h"

using namespace facet;
using namespace facet::test;

namespace {

constexpr int64_t sizes[] = {1, 3, 4, 31, 1023, 1024, 4099, 0};
constexpr AdamwStep step_3{.lr = 0.1, .beta1 = 0.8, .beta2 = 0.95, .eps = 1e-6, .eps_root = 1e-4, .weight_decay = 0.3, .grad_scale = 0.7, .t = 3};

/// p, master, m, v as they begin, and g.
KernelCheck adamw_check(Random& r, int64_t n, DType p, bool master) {
  KernelCheck k{"adamw " + std::string(name_of(p)) + std::to_string(n), {r.normal({n}, DType::f32)}, {}};
  const Tensor w = r.normal({n}, DType::f32);
  k.out = {{{n}, p, w.to(p)}, {{n}, DType::f32, w}, {{n}, DType::f32, r.normal({n}, DType::f32)}, {{n}, DType::f32, r.uniform({n}, 0, 1, DType::f32)}};
  k.out[1].absent = !master;
  k.limits = f32_elementwise;
  if (p == DType::bf16) k.out[0].limits = bf16_forward;
  return k;
}

/// w of element i rounded by chance, as the kernel's page has it.
float by_chance(float w, Key of_step, int64_t i, uint32_t draws = 0) {
  const Words d = threefry2x32(of_step, {static_cast<uint32_t>(static_cast<uint64_t>(i) >> 34) | draws, static_cast<uint32_t>(i / 4)});
  const uint32_t word = i % 4 < 2 ? d.a : d.b, half = i % 2 ? word >> 16 : word & 0xffff;
  return std::bit_cast<float>((std::bit_cast<uint32_t>(w) + half) & 0xffff0000u);
}

}  // namespace

TEST_CASE("adamw: gpu as cpu") {
  Random r(1);
  int sample = 0;
  for (const int64_t n : sizes) {
    for (const DType t : {DType::f32, DType::bf16}) {
      KernelCheck k = adamw_check(r, n, t, t == DType::bf16);
      k.shift = ++sample % 3 == 2;
      k.body = [](const Views& in, const Outs& out) { adamw(out[0], out[1], in[0], out[2], out[3], step_3); };
      check_kernel(k);
    }
  }
}

TEST_CASE("adamw: stochastic rounding takes the same chances on cpu and gpu") {
  Random r(2);
  AdamwStep s = step_3;
  s.stochastic = true;
  s.key_hi = 5, s.key_lo = 9;
  const Key of_step = fold_in(Key{5, 9}, 3);
  int sample = 0;
  for (const int64_t n : sizes) {
    for (const bool master : {true, false}) {
      KernelCheck k = adamw_check(r, n, DType::bf16, master);
      k.shift = ++sample % 3 == 2;
      k.body = [&](const Views& in, const Outs& out) { adamw(out[0], out[1], in[0], out[2], out[3], s); };
      // Where the f32 value's last bit differs, chance may fall the other way: one bf16 step, rarely.
      k.out[0].limits = bf16_backward;
      const std::vector<Tensor> on_gpu = check_kernel(k);
      if (!master) continue;
      const Tensor p = k.out[0].start.clone(), w = k.out[1].start.clone(), m = k.out[2].start.clone(), v = k.out[3].start.clone();
      adamw(p.out(), w.out(), k.in[0].base.view(), m.out(), v.out(), s);
      int up = 0;
      for (int64_t i = 0; i < n; ++i) {
        CHECK(p.at({i}) == by_chance(w.view().as<float>()[i], of_step, i));
        CHECK(on_gpu[0].at({i}) == by_chance(static_cast<float>(on_gpu[1].at({i})), of_step, i));
        up += std::abs(p.at({i})) > std::abs(w.at({i}));
      }
      if (n > 4000) CHECK(std::abs(up - static_cast<double>(n) / 2) < 200);
    }
  }
}

TEST_CASE("adamw: bf16 moments are those of f32, rounded by chances of their own, on cpu and gpu") {
  gpu::emulate(true);
  Random r(3);
  AdamwStep s = step_3;
  s.key_hi = 5, s.key_lo = 9;
  const Key of_step = fold_in(Key{5, 9}, 3);
  for (const Device device : {Device::cpu, Device::gpu})
    for (const int64_t n : sizes)
      for (const DType t : {DType::f32, DType::bf16}) {
        const Tensor start = r.normal({n}, DType::f32), g = r.normal({n}, DType::f32).to(device);
        const Tensor m0 = r.normal({n}, DType::f32).to(DType::bf16), v0 = r.uniform({n}, 0, 1, DType::f32).to(DType::bf16);
        std::vector<double> values[2];
        Tensor m[2], v[2];
        for (const bool narrow : {false, true}) {
          const DType kept = narrow ? DType::bf16 : DType::f32;
          const Tensor p = start.to(t).clone().to(device), master = t == DType::bf16 ? start.clone().to(device) : Tensor{};
          m[narrow] = m0.to(kept).clone().to(device), v[narrow] = v0.to(kept).clone().to(device);
          adamw(p.out(), master ? master.out() : Out{}, g.view(), m[narrow].out(), v[narrow].out(), s);
          values[narrow] = p.to_vector();
        }
        INFO(name_of(device) << " " << name_of(t) << n);
        CHECK(values[1] == values[0]);
        const auto m32 = m[0].to_vector(), v32 = v[0].to_vector(), m16 = m[1].to_vector(), v16 = v[1].to_vector();
        for (size_t i = 0; i < m32.size(); ++i) {
          CHECK(m16[i] == by_chance(static_cast<float>(m32[i]), of_step, static_cast<int64_t>(i), adamw_draws_of_m));
          CHECK(v16[i] == by_chance(static_cast<float>(v32[i]), of_step, static_cast<int64_t>(i), adamw_draws_of_v));
        }
      }
}

TEST_CASE("adamw: stochastic rounding is right on average, and keeps infinities and NaN") {
  for (const Device device : {Device::cpu, Device::gpu}) {
    gpu::emulate(true);
    const int64_t n = 20000;
    const Tensor p = Tensor::full({n}, 1, DType::bf16).to(device), m = Tensor::zeros({n}, DType::f32, device), v = Tensor::zeros({n}, DType::f32, device);
    const Tensor g = Tensor::full({n}, 1).to(device);
    // Adam's first update is lr: a tenth of bf16's step below 1
    adamw(p.out(), {}, g.view(), m.out(), v.out(), {.lr = 1.0 / 2560, .eps = 0, .stochastic = true, .key_lo = 1});
    double mean = 0;
    for (double x : p.to_vector()) mean += x / static_cast<double>(n);
    CHECK(mean == Approx(1 - 1.0 / 2560).margin(3e-5));

    // 3e38 and another 3e38; a NaN whose bits an addition would carry over into a number
    const float all_ones = std::bit_cast<float>(0x7fffffffu);
    const Tensor q = Tensor::from({3e38f, -3e38f, 1}, {3}).to(DType::bf16).to(device), push = Tensor::from({-1, 1, all_ones}, {3}).to(device);
    const Tensor a = Tensor::zeros({3}, DType::f32, device), b = a.clone();
    adamw(q.out(), {}, push.view(), a.out(), b.out(), {.lr = 3e38, .stochastic = true});
    CHECK(q.at({0}) == INFINITY);
    CHECK(q.at({1}) == -INFINITY);
    CHECK(std::isnan(q.at({2})));
  }
}

namespace {

std::vector<Tensor> copies(const std::vector<Tensor>& list, Device device) {
  std::vector<Tensor> all;
  for (const Tensor& t : list) all.push_back(t.to(device).clone());
  return all;
}

/// Calls f(op, matrices that an update reads and writes, steps, update(those, step, uploaded)) for every optimizer's kernel; the steps differ in
/// all that can change from one to the next.
template <class F>
void each_update(F&& f) {
  Random r(3);
  const Shape shape = {7, 143};
  const Tensor w = r.normal(shape, DType::f32).to(DType::bf16).to(DType::f32), v = r.uniform(shape, 0.5, 2, DType::f32);
  const Tensor rows = r.uniform({7}, 0.5, 2, DType::f32), cols = r.uniform({143}, 0.5, 2, DType::f32), g = r.normal(shape, DType::f32);
  const auto gradient = [=](const auto& t) { return g.to(t[0].device()); };
  AdamwStep adam[3] = {step_3, step_3, step_3};
  for (AdamwStep& s : adam) s.stochastic = true, s.t = 1 + (&s - adam), s.lr = 0.1 / static_cast<double>(s.t), s.key_hi = 7;
  f("adamw", {w.to(DType::bf16), w, w, v}, adam, [=](const auto& t, const AdamwStep& s, const auto* uploaded) {
    adamw(t[0].out(), t[1].out(), gradient(t).view(), t[2].out(), t[3].out(), s, uploaded);
  });
  LionStep by_sign[] = {{.lr = 0.1}, {.lr = 0.2, .beta1 = 0.8, .weight_decay = 0.1}, {.lr = 0.1, .beta2 = 0.9, .grad_scale = 0.5}};
  f("lion", {w.to(DType::bf16), w, w}, by_sign, [=](const auto& t, const LionStep& s, const auto* uploaded) {
    lion(t[0].out(), t[1].out(), gradient(t).view(), t[2].out(), s, uploaded);
  });
  SgdStep plain[] = {{.lr = 0.1, .momentum = 0.9}, {.lr = 0.2, .momentum = 0.8, .nesterov = true}, {.lr = 0.1, .grad_scale = 0.5}};
  f("sgd", {w, w}, plain, [=](const auto& t, const SgdStep& s, const auto* uploaded) { sgd(t[0].out(), gradient(t).view(), t[1].out(), s, uploaded); });
  AdafactorStep sized[] = {{.lr = 0.1}, {.lr = 0.2, .decay = 0.5, .eps = 1e-3, .clip = 0.4}, {.lr = 0.1, .decay = 0.6, .min_scale = 2, .weight_decay = 0.3, .grad_scale = 0.5}};
  f("adafactor, factored", {w.to(DType::bf16), w, rows, cols}, sized, [=](const auto& t, const AdafactorStep& s, const auto* uploaded) {
    adafactor(t[0].out(), t[1].out(), gradient(t).view(), t[2].out(), t[3].out(), {}, s, uploaded);
  });
  f("adafactor", {w, v}, sized, [=](const auto& t, const AdafactorStep& s, const auto* uploaded) {
    adafactor(t[0].out(), {}, gradient(t).view(), {}, {}, t[1].out(), s, uploaded);
  });
}

template <class Step>
using ConstantsOf = decltype(constants_of<float>(Step{}));

bool same(const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const Tensor& x, const Tensor& y) { return static_cast<bool>(bitwise_equal(x.to(Device::cpu), y.to(Device::cpu))); });
}

}  // namespace

TEST_CASE("updates: a gradient scale that is not finite leaves everything as it was") {
  gpu::emulate(true);
  each_update([]<class Step, size_t n>(const char* op, const std::vector<Tensor>& start, Step (&steps)[n], const auto& update) {
    INFO(op);
    for (const Device device : {Device::cpu, Device::gpu})
      for (const double scale : {static_cast<double>(NAN), static_cast<double>(INFINITY)}) {
        const std::vector<Tensor> t = copies(start, device);
        Step s = steps[0];
        s.grad_scale = scale;
        update(t, s, static_cast<const ConstantsOf<Step>*>(nullptr));
        CHECK(same(t, start));
      }
  });
}

TEST_CASE("updates: constants read from device memory are those given by the host, bit for bit") {
  gpu::emulate(true);
  each_update([]<class Step, size_t n>(const char* op, const std::vector<Tensor>& start, Step (&steps)[n], const auto& update) {
    INFO(op);
    using Constants = ConstantsOf<Step>;
    const std::vector<Tensor> a = copies(start, Device::gpu), b = copies(start, Device::gpu);
    const gpu::Scratch there(sizeof(Constants));
    for (const Step& s : steps) {
      const std::vector<Tensor> before = copies(a, Device::cpu);
      update(a, s, static_cast<const Constants*>(nullptr));
      CHECK_FALSE(same(a, before));
      const Constants of_step = constants_of<float>(s);
      gpu::copy_to_device(there.as<char>(), &of_step, sizeof of_step);
      update(b, steps[0], static_cast<const Constants*>(there.as<Constants>()));  // as recorded in the first step
      CHECK(same(a, b));
    }
  });
}

TEST_CASE("sum_of_squares: gpu as cpu") {
  Random r(5);
  for (const int64_t n : {int64_t{1}, int64_t{1023}, squares_block, squares_block + 1, 2 * squares_block + 77, int64_t{0}}) {
    for (const DType t : {DType::f32, DType::f64}) {
      const int64_t skip = n % 2;  // an unaligned window
      KernelCheck k{"sum_of_squares " + std::to_string(n), {Input(r.normal({n + skip}, t), [skip](const Tensor& x) { return x.slice(0, skip, x.dim(0)); })}, {}};
      k.out = {{{(n + squares_block - 1) / squares_block}, DType::f64}};
      k.limits = t == DType::f32 ? f32_sums : Limits{1e-25, 1e-12, 1};
      k.body = [](const Views& in, const Outs& out) { sum_of_squares(in[0], out[0]); };
      check_kernel(k);
    }
  }
}

TEST_CASE("sgd: gpu as cpu") {
  Random r(6);
  int sample = 0;
  for (const int64_t n : sizes) {
    for (const bool nesterov : {false, true}) {
      ++sample;
      KernelCheck k{"sgd " + std::to_string(n), {r.normal({n}, DType::f32)}, {{{n}, DType::f32, r.normal({n}, DType::f32)}, {{n}, DType::f32, r.normal({n}, DType::f32)}}};
      k.out[1].absent = sample % 3 == 1;
      k.shift = sample % 4 == 3;
      k.limits = f32_elementwise;
      k.body = [&](const Views& in, const Outs& out) { sgd(out[0], in[0], out[1], {.lr = 0.1, .momentum = 0.9, .grad_scale = 0.5, .nesterov = nesterov}); };
      check_kernel(k);
    }
  }
}

TEST_CASE("lion: gpu as cpu") {
  Random r(8);
  int sample = 0;
  for (const int64_t n : sizes) {
    for (const DType t : {DType::f32, DType::bf16}) {
      const Tensor w = r.normal({n}, DType::f32);
      KernelCheck k{"lion " + std::to_string(n), {r.normal({n}, DType::f32)}, {{{n}, t, w.to(t)}, {{n}, DType::f32, w}, {{n}, DType::f32, r.normal({n}, DType::f32)}}};
      k.out[1].absent = t != DType::bf16;
      k.shift = ++sample % 3 == 2;
      k.limits = f32_elementwise;
      if (t == DType::bf16) k.out[0].limits = bf16_forward;
      k.body = [](const Views& in, const Outs& out) { lion(out[0], out[1], in[0], out[2], {.lr = 0.1, .beta1 = 0.8, .beta2 = 0.95, .weight_decay = 0.3, .grad_scale = 0.5}); };
      check_kernel(k);
    }
  }
}

TEST_CASE("adafactor: gpu as cpu") {
  Random r(9);
  int sample = 0;
  for (const Shape& s : {Shape{1, 1}, Shape{2, 3}, Shape{31, 17}, Shape{300, 70}, Shape{65, 257}, Shape{1, 5000}, Shape{0, 4}}) {
    for (const DType t : {DType::f32, DType::bf16}) {
      ++sample;
      const bool factored = (sample % 2 == 0) == (sample % 8 < 4);
      const Tensor w = r.normal(s, DType::f32);
      KernelCheck k{"adafactor " + to_string(s), {r.normal(s, DType::f32)}, {{s, t, w.to(t)}, {s, DType::f32, w}}};
      for (const Shape& moments : {Shape{s[0]}, Shape{s[1]}, s}) k.out.push_back({moments, DType::f32, r.uniform(moments, 0.5, 2, DType::f32)});
      k.out[1].absent = t != DType::bf16;
      k.out[2].absent = k.out[3].absent = !factored;
      k.out[4].absent = factored;
      k.shift = sample % 3 == 2;
      k.limits = f32_sums;
      if (t == DType::bf16) k.out[0].limits = bf16_forward;
      k.body = [](const Views& in, const Outs& out) {
        adafactor(out[0], out[1], in[0], out[2], out[3], out[4], {.lr = 0.1, .decay = 0.6, .eps = 1e-3, .clip = 0.4, .min_scale = 1e-3, .weight_decay = 0.3, .grad_scale = 0.5});
      };
      check_kernel(k);
    }
  }
}

TEST_CASE("dropout: gpu as cpu, the mask bit for bit") {
  Random r(7);
  int sample = 0;
  for (const Shape& s : {Shape{1, 8}, Shape{3, 7}, Shape{17, 24}, Shape{2, 3, 33}, Shape{5, 640}, Shape{0, 4}, Shape{1, 4099}}) {
    for (const DType t : {DType::f32, DType::bf16}) {
      ++sample;
      KernelCheck k{"dropout " + to_string(s), {wide_rows(r, s, t, sample % 3 == 0 ? 8 : sample % 3)}, {{s, t}}};
      k.limits = same_bits;
      k.shift = sample % 5 == 4;
      if (sample % 4 == 1) k.out[0].start = r.normal(s, t), k.out[0].add = true, k.limits = t == DType::f32 ? f32_elementwise : bf16_forward;
      k.body = [](const Views& in, const Outs& out) { dropout(in[0], {12, 34}, 0.7, out[0]); };
      check_kernel(k);
    }
  }
}
