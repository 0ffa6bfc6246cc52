// draw: the random numbers of tensor/rng.h in device memory; that header says what each is, tensor/rng.cpp draws them on the CPU. Word i
// of an array comes from the key and i alone, so every element is on its own.
// y dense: f32, or bf16 for uniform and normal; i32 for bits, bernoulli and integers.
#pragma once
#include "tensor/view.h"

namespace facet {

enum class Draw : uint8_t { bits, uniform, normal, truncated_normal, gumbel, exponential, bernoulli, integers };
struct DrawSettings {
  Draw what;
  uint32_t hi = 0, lo = 0;                ///< the key
  bool original = false;                  ///< Counters::original
  double from = 0, to = 1;                ///< of the uniform number everything else is made of
  float least = 0, most = 0;              ///< truncated_normal: of the result; bernoulli: least is p
  uint32_t second_hi = 0, second_lo = 0;  ///< integers: the key of the lower words
  uint32_t span = 0, multiplier = 0, first = 0;
};

namespace gpu {
void draw(const DrawSettings& s, Out y);
}
}  // namespace facet
