// The reference checkpoint of tests/goldens, a Gemma 3 of seven layers with random weights, and what Hugging Face computed with it.
#pragma once
#include <memory>
#include <string>

#include "models/gemma/hf.h"
#include "models/gemma/model.h"
#include "notebooks-cpp/nb.hpp"

#ifndef FACET_GOLDENS  // a kernel runs in the root of the repository
#define FACET_GOLDENS "tests/goldens"
#endif

namespace nb {

inline std::string golden(const std::string& path) { return std::string(FACET_GOLDENS) + "/" + path; }

/// On device(), in f32.
inline std::unique_ptr<facet::Gemma> golden_gemma(double norm_eps = 1e-6) {
  facet::GemmaConfig config = facet::read_hf_config(golden("gemma3-tiny"));
  config.norm_eps = norm_eps;
  auto model = std::make_unique<facet::Gemma>(config);
  facet::load_weights(golden("gemma3-tiny"), config, facet::named_values(*model));
  model->to(device());
  return model;
}

}  // namespace nb
