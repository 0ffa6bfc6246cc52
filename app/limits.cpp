#include "app/limits.h"

#include "autograd/ops.h"
#include "bench/support/loops.h"
#include "tensor/cpu/tier.h"
#include "tensor/error.h"
#include "tensor/gpu/pool.h"
#include "tensor/gpu/runtime.h"
#include "tensor/kernels/copy.h"
#include "tensor/kernels/gemm.h"
#include "tensor/parallel.h"

namespace facet::app {

Device timed_device(const Common& c) {
  const Device device = c.device == "cuda" ? Device::gpu : Device::cpu;
  bench::time_on(device);
  return device;
}

std::string where_timed(Device device) {
  if (device == Device::gpu) return gpu::device().name;
  return fmt::format("{} thread{}, {}", threads(), threads() > 1 ? "s" : "", cpu::name_of(cpu::current_tier()));
}

double product_rate(int64_t n, DType dtype, double series_seconds) {
  const Tensor x = bench::noise({n, n}, dtype).to(Device::gpu), w = bench::noise({n, n}, dtype).to(Device::gpu);
  const Tensor y = Tensor::empty({n, n}, dtype, Device::gpu);
  const View weight = w.view();
  const Out out = y.out();
  const auto size = static_cast<double>(n);
  return 2 * size * size * size / bench::device_seconds([&] { linear(x.view(), {&weight, 1}, {&out, 1}); }, series_seconds);
}

double peak_flops(Device device, DType dtype) {
  if (device == Device::gpu) return product_rate(gpu::device().emulated ? 64 : 4096, dtype, 0.05);
  return bench::race({bench::multiply_adds}, 0.002, 4)[0] * 1e9;
}

CopyRate copy_rate(int64_t bytes, double series_seconds) {
  const Tensor from = Tensor::zeros({bytes / 4}, DType::f32, Device::gpu), to = Tensor::empty({bytes / 4}, DType::f32, Device::gpu);
  const auto rate = [&](const std::function<void()>& f) { return 2 * static_cast<double>(bytes) / bench::device_seconds(f, series_seconds); };
  return {rate([&] { gpu::copy_on_device(to.out().as<float>(), from.view().data, static_cast<size_t>(bytes)); }),
          rate([&] { copy(from.view(), to.out()); })};
}

double bytes_of(const std::vector<Parameter*>& weights) {
  double bytes = 0;
  for (const Parameter* p : weights) bytes += static_cast<double>(p->value().numel() * size_of(p->value().dtype()));
  return bytes;
}

void read_all(const std::vector<Parameter*>& weights) {
  for (const Parameter* p : weights) {
    const View v = p->value().view();
    if (v.device == Device::gpu) {
      const auto half = static_cast<size_t>(v.numel() * size_of(v.dtype) / 2);
      gpu::copy_on_device(gpu::Scratch(half).as<void>(), v.data, half);
      continue;
    }
    parallel_for(v.numel() * size_of(v.dtype) / 4, 1 << 16, 4,
                 [&](int64_t begin, int64_t end) { cpu::read_loop(v.as<float>() + begin, end - begin); });
  }
}

Products::Products(const std::vector<Parameter*>& weights, int64_t rows, const Parameter* without) {
  for (const Parameter* p : weights) {
    const Tensor& w = p->value();
    if (w.rank() != 2 || p == without) continue;
    weights_.push_back(w);
    const bool gpu = w.device() == Device::gpu;  // there activations have the weights' dtype
    x_.push_back(Tensor::full({rows, w.dim(1)}, 0.5, gpu ? w.dtype() : acc_dtype(w.dtype())).to(w.device()));
    flops_ += 2.0 * static_cast<double>(rows * w.numel());
  }
}

void Products::operator()() const {
  for (size_t i = 0; i < x_.size(); ++i) linear(x_[i], weights_[i]);
}

}  // namespace facet::app
