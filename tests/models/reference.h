// Checkpoints of tests/goldens and what the real libraries computed from them.
#pragma once
#include <catch2/catch.hpp>
#include <cmath>
#include <memory>
#include <string>

#include "models/gemma/load.h"
#include "tests/support/goldens.h"

namespace facet::test {

inline std::unique_ptr<Gemma> golden_model(const std::string& name, DType storage = DType::f32) { return load_gemma(golden_path(name), storage); }

/// The tokens of one set of a reference, at the positions it was computed at.
inline Tokens tokens_of(const Golden& reference, const std::string& set) {
  Tokens t = masked_tokens(reference[set + ".input_ids"], reference[set + ".attention_mask"]);
  if (reference.has(set + ".position_ids")) t.positions = reference[set + ".position_ids"].clone();
  return t;
}

/// Largest difference where the mask, over the leading dimensions, is not 0; NaN when there is one.
inline double max_difference(const Tensor& got, const Tensor& want, const Tensor& mask) {
  REQUIRE(got.shape() == want.shape());
  const auto a = got.to_vector(), b = want.to_vector(), m = mask.to_vector();
  const size_t n = a.size() / m.size();
  double worst = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    if (m[i / n] == 0) continue;
    const double d = std::abs(a[i] - b[i]);
    if (!(d <= worst)) worst = d;
    if (std::isnan(d)) return d;
  }
  return worst;
}

}  // namespace facet::test
