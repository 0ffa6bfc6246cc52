#include "tests/gpu/kernel_check.h"

#include <catch2/catch.hpp>
#include <cmath>

#include "tensor/gpu/emulator/emulator.h"
#include "tensor/gpu/runtime.h"
#include "tests/support/compare.h"

namespace facet::test {
namespace {

constexpr int64_t border = 512;     // elements before and after an output: 1 KB and more
constexpr double sentinel = 121.5;  // exact in bf16

struct Run {
  std::vector<Tensor> memory, results;  // with borders, without; on the CPU
};

Run run_on(Device device, const KernelCheck& c) {
  std::vector<Tensor> keep;
  Views in;
  for (const Input& i : c.in) {
    if (!i.base) {
      in.push_back({});
      continue;
    }
    const Tensor base = i.base.to(device);
    keep.push_back(i.window ? i.window(base) : base);
    in.push_back(keep.back().view());
  }
  Outs out;
  std::vector<Tensor> memory;
  for (const Output& o : c.out) {
    if (o.absent) {
      memory.emplace_back();
      out.push_back({});
      continue;
    }
    const int64_t n = o.shape.numel();
    Tensor all = o.dtype == DType::i32 ? Tensor::from(std::vector<int32_t>(static_cast<size_t>(n + 2 * border), 121), {n + 2 * border})
                                       : Tensor::full({n + 2 * border}, sentinel, o.dtype);
    const auto window = [&](const Tensor& t) { return t.slice(0, border + c.shift, border + c.shift + n).reshape(o.shape); };
    if (o.start) {
      const std::vector<double> values = o.start.to_vector();
      std::vector<double> v = all.to_vector();
      std::copy(values.begin(), values.end(), v.begin() + border + c.shift);
      all = Tensor::from(v, {n + 2 * border}).to(o.dtype);
    }
    memory.push_back(all.to(device));
    out.push_back(window(memory.back()).out(o.add));
  }
  c.body(in, out);
  Run r;
  for (size_t i = 0; i < memory.size(); ++i) {
    if (!memory[i]) {
      r.memory.emplace_back();
      r.results.emplace_back();
      continue;
    }
    r.memory.push_back(memory[i].to(Device::cpu));
    const int64_t n = c.out[i].shape.numel();
    r.results.push_back(r.memory[i].slice(0, border + c.shift, border + c.shift + n).reshape(c.out[i].shape).clone());
  }
  return r;
}

void check_borders(const KernelCheck& c, const Run& r) {
  for (size_t i = 0; i < r.memory.size(); ++i) {
    if (!r.memory[i]) continue;
    const std::vector<double> v = r.memory[i].to_vector();
    const size_t first = static_cast<size_t>(border + c.shift), last = first + static_cast<size_t>(c.out[i].shape.numel());
    const double kept = c.out[i].dtype == DType::i32 ? 121 : sentinel;
    for (size_t k = 0; k < v.size(); ++k)
      if ((k < first || k >= last) && v[k] != kept) FAIL("output " << i << ": element " << static_cast<int64_t>(k - first) << " beyond its border was written");
  }
}

void check_near(const Tensor& gpu, const Tensor& cpu, const Limits& limits) {
  if (limits.nmse == 0) {
    CHECK(bitwise_equal(gpu, cpu));
    return;
  }
  CHECK(nmse_within(gpu, cpu, limits.nmse));
  const std::vector<double> a = gpu.to_vector(), b = cpu.to_vector();
  const size_t d = cpu.rank() > 0 ? static_cast<size_t>(cpu.dim(-1)) : 1;
  for (size_t row = 0; row < b.size(); row += d) {
    double squares = 0, worst = 0;
    for (size_t i = row; i < row + d; ++i) {
      if (!std::isfinite(b[i])) continue;
      squares += b[i] * b[i];
      worst = std::max(worst, std::abs(a[i] - b[i]));
    }
    const double rms = std::sqrt(squares / static_cast<double>(d));
    if (worst > limits.relative * rms + 1e-30) FAIL_CHECK("row " << row / d << ": off by " << worst << ", its RMS is " << rms);
  }
  if (cpu.dtype() != DType::bf16) return;
  size_t far = 0;
  for (size_t i = 0; i < b.size(); ++i)
    if (std::abs(a[i] - b[i]) > 4 * std::abs(b[i]) / 128) ++far;
  CHECK(static_cast<double>(far) <= limits.far * static_cast<double>(b.size()));
}

}  // namespace

std::vector<Tensor> check_kernel(const KernelCheck& c) {
  using namespace gpu::emulator;
  INFO(c.name);
  gpu::emulate(true);
  const Settings before = settings();
  Run cpu;
  if (c.compare) cpu = run_on(Device::cpu, c);
  Run first;
  for (int k = 0; k < 4; ++k) {
    Settings s = before;
    s.schedule = k == 1 ? Schedule::reverse : k >= 2 ? Schedule::random : before.schedule;
    s.seed = static_cast<uint64_t>(k);
    set_settings(s);
    const Run r = run_on(Device::gpu, c);
    check_borders(c, r);
    if (k == 0) {
      first = r;
      continue;
    }
    for (size_t i = 0; i < r.results.size(); ++i) {
      INFO("output " << i << ", schedule " << k);
      if (r.results[i]) CHECK(bitwise_equal(r.results[i], first.results[i]));
    }
  }
  set_settings(before);
  for (size_t i = 0; c.compare && i < first.results.size(); ++i) {
    INFO("output " << i);
    if (first.results[i]) check_near(first.results[i], cpu.results[i], c.out[i].limits.nmse < 0 ? c.limits : c.out[i].limits);
  }
  return first.results;
}

Input wide_rows(Random& r, Shape shape, DType dtype, int64_t extra) {
  const int64_t d = shape[-1];
  shape[-1] += extra;
  return {r.normal(shape, dtype), [d](const Tensor& t) { return t.slice(-1, t.dim(-1) - d, t.dim(-1)); }};
}

}  // namespace facet::test
