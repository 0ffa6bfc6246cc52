// Small models with random weights, alike on every device.
#pragma once
#include <memory>

#include "app/conformance/conformance.h"
#include "models/gemma/model.h"

namespace facet::app {

/// A Gemma 3 with local and global layers; of a size that exercises the tensor cores, or for an emulated device as small as it gets.
/// `vocab` 0: some.
GemmaConfig small_config(const Conformance&, int64_t vocab = 0);
/// The same weights for the same seed, wherever they are put.
std::unique_ptr<Gemma> small_model(const Conformance&, DType, Device, int64_t vocab = 0);

/// Device memory in use by tensors.
int64_t device_bytes();

}  // namespace facet::app
