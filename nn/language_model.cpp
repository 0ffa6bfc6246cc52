#include "nn/language_model.h"

#include "autograd/ops.h"
#include "nn/tap.h"

namespace facet {

Tokens plain_tokens(const Tensor& ids) {
  return {ids, Tensor::arange(ids.dim(1)).expand(ids.shape()).clone(), {}};
}

Tokens masked_tokens(const Tensor& ids, const Tensor& mask) {
  if (!(ids.shape() == mask.shape()))
    fail(Kind::usage, "masked_tokens: ids {} and mask {} differ in shape", to_string(ids.shape()), to_string(mask.shape()));
  Tensor positions = Tensor::empty(ids.shape(), DType::i32);
  int32_t* p = positions.out().as<int32_t>();
  for (int64_t b = 0; b < ids.dim(0); ++b) {
    int32_t next = 0;
    for (int64_t t = 0; t < ids.dim(1); ++t) *p++ = mask.at({b, t}) != 0 ? next++ : -1;
  }
  return {ids, positions, {}};
}

Tensor LanguageModel::logits(const Tensor& hidden) const {
  Tensor y = linear(hidden, head().value());  // [.., V]
  tap("logits_before_cap", y);
  if (final_cap() > 0) y = softcap(y, final_cap());
  tap("logits", y);
  return y;
}

}  // namespace facet
