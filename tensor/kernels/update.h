// What the kernels of optimizers (adamw, lion, adafactor, sgd) have in common.
//
// Their caller describes a step in f64: lr, betas, the step's number (AdamwStep). constants_of<A>(step) is what that comes to in the type
// A that is computed in, each number rounded once (AdamwConstants<A>); both devices compute with these. On the GPU they come with the launch,
// or, where `uploaded` is given, from device memory: a captured graph is replayed for steps that were not known when it was recorded, and finds
// there what has changed.
//
// A grad_scale that is not finite (a gradient overflowed) makes a step that writes nothing: its constants say `skip`.
#pragma once
#include "tensor/cpu/tier.h"

namespace facet {

FACET_INLINE bool skips(double grad_scale) { return !(grad_scale - grad_scale == 0); }

}  // namespace facet
