// The model that lessons train: small enough to learn in seconds, with everything a Gemma 3 has.
#pragma once
#include <memory>

#include "models/gemma/model.h"

namespace nb {

/// Two layers of width 32, four heads over two of keys and values, some twenty thousand weights.
inline facet::GemmaConfig small_gemma(int64_t vocab) {
  facet::GemmaConfig c;
  c.vocab = vocab;
  c.width = 32;
  c.layers = 2;
  c.heads = 4;
  c.kv_heads = 2;
  c.head_dim = 8;
  c.hidden = 64;
  c.window = c.context = 64;
  c.kinds = facet::pattern(c.layers, 0);
  c.query_scale_denominator = 8;
  c.init_std = 0.1;
  return c;
}

/// Another model with the same values, all of which train, where the first one is.
inline std::unique_ptr<facet::Gemma> copy_of(facet::Gemma& from) {
  auto to = std::make_unique<facet::Gemma>(from.config);
  const auto source = facet::parameters(from), target = facet::parameters(*to);
  for (size_t i = 0; i < source.size(); ++i) target[i]->reset(source[i]->value().detach().to(facet::Device::cpu).clone(), true);
  to->to(from.device());  // on a GPU weights of one input lie side by side, and so take the same products
  return to;
}

}  // namespace nb
