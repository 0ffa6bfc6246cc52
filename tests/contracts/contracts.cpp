#include <algorithm>

#include "tests/contracts/ops/list.h"

namespace facet::test {

const Contracts& contracts() {
  static const Contracts list = [] {
    const std::pair<const char*, Contracts (*)()> pages[] = {
        {"adapter_gradients", adapter_gradients_contracts},
        {"add_linear", add_linear_contracts},
        {"add_rms_norm", add_rms_norm_contracts},
        {"attention", attention_contracts},
        {"dropout", dropout_contracts},
        {"einsum", einsum_contracts},
        {"elementwise", elementwise_contracts},
        {"embedding", embedding_contracts},
        {"gather", gather_contracts},
        {"geglu", geglu_contracts},
        {"layer_norm", layer_norm_contracts},
        {"linear", linear_contracts},
        {"linear_adapted", linear_adapted_contracts},
        {"linear_cross_entropy", linear_cross_entropy_contracts},
        {"linear_log_probs", linear_log_probs_contracts},
        {"matmul", matmul_contracts},
        {"norm_rope", norm_rope_contracts},
        {"reduce", reduce_contracts},
        {"rms_norm", rms_norm_contracts},
        {"shape", shape_contracts},
        {"softmax", softmax_contracts},
    };
    Contracts all;
    for (const auto& [page, make] : pages)
      for (Contract& c : make()) {
        c.page = page;
        all.push_back(std::move(c));
      }
    return all;
  }();
  return list;
}

Sample make_sample(const Contract& c, int sample) {
  Random random(1000 + static_cast<uint64_t>(sample));
  Sample s{c.inputs(random, sample), c.name + " sample " + std::to_string(sample) + ":"};
  for (const Tensor& t : s.inputs) s.what += " " + (t ? to_string(t.shape()) + (t.contiguous() ? "" : " strided") : "absent");
  return s;
}

Tensors inputs_in(const Contract& c, const Tensors& inputs, DType d) {
  Tensors x = inputs;
  for (size_t i = 0; i < x.size(); ++i) {
    const bool keeps = std::find(c.keep_dtype.begin(), c.keep_dtype.end(), static_cast<int>(i)) != c.keep_dtype.end();
    if (!x[i] || x[i].dtype() != DType::f64 || d == DType::f64 || keeps) continue;
    const bool dense = x[i].contiguous();
    x[i] = x[i].to(d);  // a dense copy
    if (!dense) x[i] = with_layout(x[i], x[i].rank() > 1 ? Layout::transposed : Layout::strided);
  }
  return x;
}

Tensors weights_for(const Tensors& y) {
  Tensors like = y;
  for (Tensor& t : like)
    if (t.dtype() != DType::i32) t = Tensor::zeros(t.shape(), DType::f64);
  Tensors w = random_weights(like, 29);
  for (size_t k = 0; k < y.size(); ++k)
    if (w[k]) w[k] = w[k].to(DType::bf16).to(y[k].dtype());
  return w;
}

}  // namespace facet::test
