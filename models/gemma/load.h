// A Gemma from disk in one call.
#pragma once
#include <memory>

#include "models/gemma/model.h"
#include "models/gemma/weights.h"

namespace facet {

/// The model of a folder, or of a file of weights with its config beside it; weights are kept as `storage`. Throws Error(Kind::file) before
/// memory is taken when anything is missing or does not fit (check_weights).
std::unique_ptr<Gemma> load_gemma(const std::string& path, DType storage = DType::f32);
/// The same with a config of the caller's.
std::unique_ptr<Gemma> load_gemma(const TensorFiles&, const GemmaConfig&, DType storage = DType::f32);

}  // namespace facet
