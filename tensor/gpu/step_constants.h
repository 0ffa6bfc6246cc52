// A step's constants as a kernel is given them (tensor/kernels/update.h).
#pragma once
#include "tensor/gpu/device.h"

namespace facet::gpu {

template <class C>
struct StepConstants {
  C own;
  const C* uploaded;  // null: own

  __device__ C get() const { return uploaded ? *uploaded : own; }
};

}  // namespace facet::gpu
