#include "nn/layers.h"

#include "autograd/ops.h"
#include "nn/tap.h"

namespace facet {

Tensor DenseWeight::apply(const Tensor& x) const { return linear(x, weight.value()); }

Linear::Linear(int64_t inputs, int64_t outputs, DType dtype)
    : weight(std::make_unique<DenseWeight>(Tensor::zeros({outputs, inputs}, dtype))) {}

std::string Linear::describe() const { return fmt::format("Linear {} -> {}", weight->inputs(), weight->outputs()); }

pool_vector<Tensor> apply_together(const Tensor& x, std::initializer_list<const Linear*> layers) {
  pool_vector<Tensor> plain;
  for (const Linear* l : layers)
    if (const Tensor* w = l->weight->plain()) plain.push_back(*w);
  if (plain.size() == layers.size()) return linear(x, plain);
  pool_vector<Tensor> y;
  for (const Linear* l : layers) y.push_back((*l)(x));
  return y;
}

Embedding::Embedding(int64_t vocab, int64_t width, DType dtype) : weight(Tensor::zeros({vocab, width}, dtype)) {}

Tensor Embedding::operator()(const Tensor& ids, double scale, DType compute) const {
  return embedding(ids, weight.value(), scale, compute);
}

std::string Embedding::describe() const {
  return fmt::format("Embedding {} x {}", weight.value().dim(0), weight.value().dim(1));
}

RmsNorm::RmsNorm(int64_t width, double e, DType dtype) : weight(Tensor::zeros({width}, dtype)), eps(e) {}

Tensor RmsNorm::operator()(const Tensor& x) const { return rms_norm(x, weight.value(), eps); }

std::string RmsNorm::describe() const { return fmt::format("RMSNorm {} eps {}", weight.value().dim(0), eps); }

GatedMlp::GatedMlp(int64_t width, int64_t hidden, DType dtype)
    : gate_proj(width, hidden, dtype), up_proj(width, hidden, dtype), down_proj(hidden, width, dtype) {}

Tensor GatedMlp::operator()(const Tensor& x) const {
  const auto y = apply_together(x, {&gate_proj, &up_proj});  // 2 x [.., F]
  tap("gate", y[0]), tap("up", y[1]);
  return down_proj(geglu(y[0], y[1]));                       // [.., D]
}

void GatedMlp::visit(Visitor& v) {
  v("gate_proj", gate_proj);
  v("up_proj", up_proj);
  v("down_proj", down_proj);
}

}  // namespace facet
