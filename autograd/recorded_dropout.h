// Dropout in recorded passes: its key lies in memory, where it is written before every replay.
#pragma once
#include "tensor/rng.h"
#include "tensor/tensor.h"

namespace facet {

/// dropout(x, p, fold_in(key, salt)) of autograd/ops.h, to the bit, where `words` i32 [2] beside x are the key's high and low word. They are read when the
/// kernels run, forward and backward: those of a replayed graph draw by what the words are then.
Tensor dropout(const Tensor& x, double p, const Tensor& words, uint32_t salt);
/// A key's words, on the CPU.
Tensor words_of(Key);

}  // namespace facet
