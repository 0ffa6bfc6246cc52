// One kernel against its CPU body. A check lists what the kernel reads and writes; the runner calls the page's function with windows on
// the CPU, then on the emulated GPU under forward, reverse and random schedules:
//
//   KernelCheck c("rms_norm", {x, w}, {{shape, dtype}, {{rows}}});
//   c.body = [](const Views& in, const Outs& out) { rms_norm(in[0], in[1], 1e-6, out[0], out[1]); };
//   check_kernel(c);
//
// Results lie within the limits of their arithmetic, all GPU runs agree bit for bit, and nothing around an output was touched.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "tests/support/random.h"

namespace facet::test {

using Views = std::vector<View>;
using Outs = std::vector<Out>;

/// How near the two bodies must be: NMSE, largest difference in units of the row's RMS, share of bf16 values more than 4 ulp apart.
struct Limits {
  double nmse = 0, relative = 0, far = 0;
};
inline constexpr Limits same_bits{};
inline constexpr Limits f32_elementwise{1e-12, 1e-5, 1}, f32_sums{1e-10, 1e-4, 1}, bf16_forward{1e-5, 2e-2, 1e-3}, bf16_backward{5e-5, 5e-2, 5e-3};

/// A tensor and the window on it that the kernel gets; absent: a null View.
struct Input {
  Tensor base;
  std::function<Tensor(const Tensor&)> window = {};
  Input() = default;
  Input(const Tensor& t) : base(t) {}
  Input(const Tensor& t, std::function<Tensor(const Tensor&)> w) : base(t), window(std::move(w)) {}
};
/// A destination of this shape; with `start` it holds those values first, and `add` asks for "+=". `absent`: a null Out.
struct Output {
  Shape shape;
  DType dtype = DType::f32;
  Tensor start = {};
  bool add = false, absent = false;
  Limits limits = {-1, -1, -1};  ///< those of the check
};

struct KernelCheck {
  std::string name;
  std::vector<Input> in;
  std::vector<Output> out;
  std::function<void(const Views&, const Outs&)> body = {};
  Limits limits = f32_sums;
  int shift = 0;        ///< elements by which outputs miss their alignment
  bool compare = true;  ///< with the CPU; without it only repeatability and borders are looked at
};

/// Fails the running test where a promise is broken. The GPU's results come back, on the CPU.
std::vector<Tensor> check_kernel(const KernelCheck&);

/// Rows of a wider window, as a slice of a fused projection is one: base [.., D + extra], window [.., D].
Input wide_rows(Random&, Shape shape, DType, int64_t extra);

}  // namespace facet::test
