// Counter-based random numbers, the ones of jax.random: Threefry-2x32 with 20 rounds (Salmon et al. 2011, "Parallel random
// numbers: as easy as 1, 2, 3"). A Key is a plain value and there is no hidden state: the same key and shape give the same
// numbers on every machine, thread count and instruction set, and a recomputed forward pass draws what the first one drew.
// Integers and uniforms are bit for bit those of JAX. What needs a logarithm uses our own arithmetic (no libm, nothing
// contracted) and lies within 4 units in the last place of max(|x|, 1) of JAX.
#pragma once
#include <cstdint>
#include <vector>

#include "tensor/tensor.h"

namespace facet {

/// jax_threefry_partitionable: how element i of an array gets its counter. `partitionable` (JAX's default): the counter is i.
/// `original`: the two halves of the array share blocks, so that a value depends on the size too.
enum class Counters : uint8_t { partitionable, original };

struct Key {
  uint32_t hi = 0, lo = 0;
  Counters counters = Counters::partitionable;
  bool operator==(const Key&) const = default;
};

/// jax.random.key(seed); a negative 32-bit seed is passed as its two's complement.
Key key(uint64_t seed, Counters = Counters::partitionable);
std::vector<Key> split(Key, int64_t n = 2);
/// A new key for step, row or layer `data`.
Key fold_in(Key, uint32_t data);

/// The block function itself: two counter words in, two random words out.
struct Words {
  uint32_t a, b;
};
Words threefry2x32(Key, Words counter);

// Given a device, the numbers are drawn there: on a GPU the same bits where nothing needs a logarithm, else within a few units in the last
// place.

/// One number of [0, 1): what uniform(key, {}) holds.
float uniform(Key);
/// Random 32-bit words, kept in an i32 tensor.
Tensor bits(Key, const Shape&, Device = Device::cpu);
/// [lo, hi), f32 or bf16; computed in that dtype as JAX does, so bf16 has 128 distinct steps.
Tensor uniform(Key, const Shape&, double lo = 0, double hi = 1, DType = DType::f32, Device = Device::cpu);
/// i32 in [lo, hi); lo when the range is empty.
Tensor randint(Key, const Shape&, int64_t lo, int64_t hi, Device = Device::cpu);
/// i32, 1 with probability p.
Tensor bernoulli(Key, const Shape&, double p, Device = Device::cpu);
/// i32 [n]: 0 ... n-1 in random order.
Tensor permutation(Key, int64_t n);
/// Standard normal, f32 or bf16: sqrt(2) erfinv(uniform(-1, 1)).
Tensor normal(Key, const Shape&, DType = DType::f32, Device = Device::cpu);
/// Standard normal conditioned on lo <= x <= hi, f32.
Tensor truncated_normal(Key, const Shape&, double lo = -2, double hi = 2, Device = Device::cpu);
/// -log(-log(u)), f32.
Tensor gumbel(Key, const Shape&, Device = Device::cpu);
/// -log(1 - u), f32.
Tensor exponential(Key, const Shape&, Device = Device::cpu);
/// logits [.., V] in f32 -> i32 [..]: argmax of logits + gumbel, one draw a row; the first of equals.
Tensor categorical(Key, const Tensor& logits);

}  // namespace facet
