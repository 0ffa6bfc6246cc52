// An f32 number as the sum of three bf16 numbers, exactly: 24 bits of significand are three times eight. So a product of f32 with bf16
// matrices is three products of bf16 matrices with f32 sums, which tensor cores do faster than one in f32, and as exactly: terms of
// bf16 numbers are exact in f32. Bits are cut off, not rounded, so nothing overflows; parts below the range of denormals are lost.
#pragma once
#include "tensor/gpu/device.h"

namespace facet::gpu {

struct Terms {
  uint16_t bits[3];
};

__device__ inline Terms exact_terms(float x) {
  const uint32_t u = __builtin_bit_cast(uint32_t, x);
  const uint32_t high = u & 0xffff0000u;
  if ((u & 0x7f800000u) == 0x7f800000u) return {{static_cast<uint16_t>(high >> 16 | (u & 0xffffu ? 0x40 : 0)), 0, 0}};
  const float rest = x - __builtin_bit_cast(float, high);
  const uint32_t middle = __builtin_bit_cast(uint32_t, rest) & 0xffff0000u;
  const float last = rest - __builtin_bit_cast(float, middle);
  return {{static_cast<uint16_t>(high >> 16), static_cast<uint16_t>(middle >> 16),
           static_cast<uint16_t>(__builtin_bit_cast(uint32_t, last) >> 16)}};
}

}  // namespace facet::gpu
