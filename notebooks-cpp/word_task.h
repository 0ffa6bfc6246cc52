// A task for small models: read a word of six letters and an equals sign, write a word of six letters, letter by letter by a rule.
#pragma once
#include <functional>

#include "autograd/ops.h"
#include "models/gemma/model.h"

namespace nb {

constexpr int word_length = 6, letters = 12, equals = letters;

/// What is to be written at a place.
using Rule = std::function<int(const int32_t* word, int place)>;
inline int copied(const int32_t* word, int i) { return word[i]; }
inline int reversed(const int32_t* word, int i) { return word[word_length - 1 - i]; }
inline int successor(const int32_t* word, int i) { return (word[i] + 1) % letters; }

struct Spellings {
  facet::Tensor ids, labels;  ///< i32 [n, 12]; a label of -1 carries no loss
};
inline Spellings words(const Rule& rule, int64_t n, facet::Key key) {
  const facet::Tensor drawn = facet::randint(key, {n, word_length}, 0, letters);
  std::vector<int32_t> ids, labels;
  for (int64_t row = 0; row < n; ++row) {
    const int32_t* word = &drawn.data<int32_t>()[static_cast<size_t>(row * word_length)];
    std::vector<int32_t> line(word, word + word_length);
    line.push_back(equals);
    for (int i = 0; i < word_length; ++i) line.push_back(rule(word, i));
    for (int i = 0; i < 2 * word_length; ++i) {
      ids.push_back(line[i]);
      labels.push_back(i < word_length ? -1 : line[i + 1]);
    }
  }
  return {facet::Tensor::from(ids, {n, 2 * word_length}), facet::Tensor::from(labels, {n, 2 * word_length})};
}

/// Mean over the letters that are to be written, in nats.
inline double loss_of(facet::Gemma& model, const Spellings& w) {
  const facet::NoGrad off;
  const facet::Tensor h = model.hidden(facet::plain_tokens(w.ids));
  return facet::linear_cross_entropy(h, model.head().value(), w.labels).item() / static_cast<double>(w.ids.dim(0) * word_length);
}

}  // namespace nb
