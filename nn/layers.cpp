#include "nn/layers.h"

#include "autograd/anomaly.h"
#include "autograd/inference_ops.h"
#include "autograd/joined_ops.h"
#include "autograd/ops.h"
#include "nn/tap.h"
#include "tensor/pool_vector.h"

namespace facet {
namespace {

pool_vector<const Weight*> weights_of(std::initializer_list<const Linear*> layers) {
  pool_vector<const Weight*> list;
  for (const Linear* l : layers) list.push_back(l->weight.get());
  return list;
}

}  // namespace

Linear::Linear(int64_t inputs, int64_t outputs, DType dtype)
    : weight(std::make_unique<DenseWeight>(Tensor::zeros({outputs, inputs}, dtype))) {}

std::string Linear::describe() const { return fmt::format("Linear {} -> {}", weight->inputs(), weight->outputs()); }

pool_vector<Tensor> apply_together(const Tensor& x, std::initializer_list<const Linear*> layers) { return apply_together(x, weights_of(layers)); }
int64_t room_for(std::initializer_list<const Linear*> layers) { return room_for(weights_of(layers)); }

Embedding::Embedding(int64_t vocab, int64_t width, DType dtype) : weight(Tensor::zeros({vocab, width}, dtype)) {}

Tensor Embedding::operator()(const Tensor& ids, double scale, DType compute) const {
  Tensor y = embedding(ids, weight.value(), scale, compute);
  const LoraFactors* f = adapters.active();
  if (!f) return y;
  // The table's rows and the adapter's sum are scaled alike: what is adapted is the table.
  return add_linear(std::move(y), embedding(ids, f->a.value(), scale, compute), f->b.value(), f->scale);
}

void Embedding::visit(Visitor& v) {
  v("weight", weight);
  adapters.visit(v);
}

std::string Embedding::describe() const {
  return fmt::format("Embedding {} x {}", weight.value().dim(0), weight.value().dim(1));
}

RmsNorm::RmsNorm(int64_t width, double e, DType dtype) : weight(Tensor::zeros({width}, dtype)), eps(e) {}

Tensor RmsNorm::operator()(const Tensor& x) const { return rms_norm(x, weight.value(), eps); }
SumNorm RmsNorm::of_sum(const Tensor& x, const Tensor& h, const RmsNorm* of_h) const {
  return of_h ? norm_add_norm(x, h, of_h->weight.value(), weight.value(), eps) : add_rms_norm(x, h, weight.value(), eps);
}

std::string RmsNorm::describe() const { return fmt::format("RMSNorm {} eps {}", weight.value().dim(0), eps); }

GatedMlp::GatedMlp(int64_t width, int64_t hidden, DType dtype)
    : gate_proj(width, hidden, dtype), up_proj(width, hidden, dtype), down_proj(hidden, width, dtype) {}

Tensor GatedMlp::operator()(const Tensor& x) const {
  const ModuleScope scope("mlp");
  const Tensor *gate = gate_proj.weight->plain(), *up = up_proj.weight->plain();
  if (gate && up && !grad_enabled() && !tapping()) return down_proj(linear_geglu(x, *gate, *up));  // the same bits at once
  if (!tapping())
    if (const Tensor both = apply_joined(x, weights_of({&gate_proj, &up_proj})))
      return down_proj(with_room(room_for({&down_proj}), [&] { return geglu_halves(both); }));
  const auto y = apply_together(x, {&gate_proj, &up_proj});  // 2 x [.., F]
  tap("gate", y[0]), tap("up", y[1]);
  return down_proj(geglu(y[0], y[1]));                       // [.., D]
}

void GatedMlp::visit(Visitor& v) {
  v.together({&gate_proj, &up_proj});
  v("gate_proj", gate_proj);
  v("up_proj", up_proj);
  v("down_proj", down_proj);
}

}  // namespace facet
