// What tests of kernels share: tensors on the emulated GPU in any layout, and running something under several schedules.
#pragma once
#include <catch2/catch.hpp>

#include "tensor/gpu/emulator/emulator.h"
#include "tensor/gpu/lt.h"
#include "tensor/gpu/runtime.h"
#include "tensor/kernels/copy.h"
#include "tests/support/compare.h"
#include "tests/support/random.h"

namespace facet::test {

/// Whether cuBLASLt is there; says so if not.
inline bool has_lt() {
  gpu::emulate(true);
  if (!gpu::lt_why_not().empty()) WARN("skipped: " << gpu::lt_why_not());
  return gpu::lt_why_not().empty();
}

/// x's values on the GPU behind such a view (tests/support/random.h); `expanded` repeats the first slice.
inline Tensor on_device(const Tensor& x, Layout layout = Layout::dense) {
  const int rank = x.rank();
  if (rank == 0) return x.to(Device::gpu);
  switch (layout) {
    case Layout::dense: return x.to(Device::gpu);
    case Layout::transposed: {
      if (rank < 2) return x.to(Device::gpu);
      return x.transpose(rank - 2, rank - 1).clone().to(Device::gpu).transpose(rank - 2, rank - 1);
    }
    case Layout::strided:
    case Layout::offset: {
      Shape wider = x.shape();
      const int64_t n = wider[-1], step = layout == Layout::strided ? 2 : 1, begin = layout == Layout::strided ? 0 : 3;
      wider[-1] = begin + n * step;
      const Tensor cpu = Tensor::full(wider, -7, x.dtype());
      copy(x.view(), cpu.slice(rank - 1, begin, begin + n * step, step).out());
      return cpu.to(Device::gpu).slice(rank - 1, begin, begin + n * step, step);
    }
    case Layout::expanded: return x.slice(0, 0, 1).clone().to(Device::gpu).expand(x.shape());
  }
  return {};
}

/// Runs `make` under the schedules forward, reverse and random: a tensor that must be the same bits each time. Returns it, on the CPU.
template <class F>
Tensor under_schedules(F make) {
  const auto before = gpu::emulator::settings();
  Tensor first;
  for (const auto schedule : {gpu::emulator::Schedule::forward, gpu::emulator::Schedule::reverse, gpu::emulator::Schedule::random}) {
    auto s = before;
    s.schedule = schedule;
    gpu::emulator::set_settings(s);
    const Tensor made = make().to(Device::cpu);
    if (!first) first = made;
    CHECK(bitwise_equal(made, first));
  }
  gpu::emulator::set_settings(before);
  return first;
}

}  // namespace facet::test
