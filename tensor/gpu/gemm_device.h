// What the kernels of products share.
#pragma once
#include "tensor/gpu/device.h"
#include "tensor/gpu/product.h"

namespace facet::gpu {

__device__ inline void put_element(const Factor& c, int64_t element, float value, bool accumulate) {
  void* data = const_cast<void*>(c.data);
  if (c.dtype == DType::bf16) put(static_cast<bf16*>(data) + element, value, accumulate);
  else put(static_cast<float*>(data) + element, value, accumulate);
}

}  // namespace facet::gpu
