// What a pass over the model costs in operations and memory, given what trains and which adapters are on.
#include <algorithm>
#include <array>

#include "autograd/ops/linear_loss.h"
#include "models/gemma/model.h"
#include "tensor/gpu/cudnn_attention.h"
#include "tensor/size_classes.h"

namespace facet {
namespace {

struct Cost {
  double base = 0;     // elements of W: two operations each and token
  double adapter = 0;  // of A and B
  double kept = 0;     // elements that the adapter keeps for backward, a token
  double dropped = 0;  // and of its dropped input, which can be had again at elementwise cost
  bool base_trains = false, trains = false;
};

Cost cost_of(const Linear& l) {
  Cost c;
  const auto I = static_cast<double>(l.weight->inputs()), O = static_cast<double>(l.weight->outputs());
  const auto* wrapped = dynamic_cast<const LoraWeight*>(l.weight.get());
  pool_vector<Tensor> w;
  (wrapped ? *wrapped->base : *l.weight).factors(w);
  c.base = I * O;
  c.base_trains = c.trains = std::any_of(w.begin(), w.end(), [](const Tensor& t) { return static_cast<bool>(t.slot()); });
  const LoraFactors* f = wrapped ? wrapped->adapters.active() : nullptr;
  if (!f) return c;
  const auto r = static_cast<double>(f->rank());
  c.adapter = r * (I + O);
  c.kept = r + (f->magnitude.value() ? O : 0);
  c.dropped = f->dropout > 0 ? I : 0;
  c.trains = c.trains || f->a.trains();
  return c;
}

template <class F>
void for_each_projection(const GemmaBlock& b, F&& f) {
  for (const Linear* l : {&b.attention.q_proj, &b.attention.k_proj, &b.attention.v_proj, &b.attention.o_proj, &b.mlp.gate_proj, &b.mlp.up_proj, &b.mlp.down_proj})
    f(cost_of(*l));
}

// Of all layers for one token, scores and weighted sum, t tokens in sight.
double attention_flops(const GemmaConfig& c, double t) {
  double flops = 0;
  for (LayerKind kind : c.kinds) {
    const double seen = kind == LayerKind::local ? std::min(t, static_cast<double>(c.window)) : t;
    flops += 4.0 * static_cast<double>(c.heads * c.head_dim) * seen;
  }
  return flops;
}

double table_flops(const GemmaConfig& c) { return 2 * static_cast<double>(c.vocab * c.width); }

}  // namespace

double Gemma::forward_flops(double n, double t, double head_rows) const {
  double body = 0;
  for (const auto& b : blocks) for_each_projection(*b, [&](const Cost& c) { body += 2 * (c.base + c.adapter); });
  if (const LoraFactors* f = embed_tokens.adapters.active()) body += 2 * static_cast<double>(f->rank() * config.width);
  return n * (body + attention_flops(config, t)) + head_rows * table_flops(config);
}

double Gemma::step_flops(double n, double t, double head_rows) const {
  double gradients = 0;  // dw; dx costs what forward does
  for (const auto& b : blocks) for_each_projection(*b, [&](const Cost& c) { gradients += 2 * ((c.base_trains ? c.base : 0) + c.adapter); });
  // Of attention, too, backward counts as two forward passes.
  return 2 * forward_flops(n, t, head_rows) + n * (gradients + attention_flops(config, t)) + (head().trains() ? head_rows * table_flops(config) : 0);
}

double Gemma::attention_workspace(int64_t rows, int64_t length) const {
  if (device() != Device::gpu || compute() != DType::bf16 || config.attention_cap > 0) return 0;
  size_t most = 0;
  for (const auto& b : blocks) {
    const GemmaAttention& a = b->attention;
    most = std::max(most, gpu::cudnn_backward_takes(rows, length, a.heads, a.kv_heads, a.head_dim, a.window));
  }
  return static_cast<double>(most);
}

double Gemma::activation_bytes(double tokens, Recompute r) const {
  const auto size = static_cast<double>(size_of(compute()));
  // What the pool gives for a tensor with so many elements a token.
  const auto bytes = [&](double elements) { return elements > 0 ? static_cast<double>(size_classes::rounded(static_cast<size_t>(tokens * elements * size))) : 0; };
  const double D = bytes(static_cast<double>(config.width)), F = bytes(static_cast<double>(config.hidden));
  const double q = bytes(static_cast<double>(config.heads * config.head_dim)), kv = bytes(static_cast<double>(config.kv_heads * config.head_dim));
  const bool on_gpu = device() == Device::gpu;
  // Left by forward for backward, in all; of one block: computed again as a whole, and what its backward has beside it at most.
  double kept = 0, again = 0, beside = 0;
  for (const auto& b : blocks) {
    const GemmaAttention& a = b->attention;
    const GatedMlp& m = b->mlp;
    // Saved by norms, attention and the gated product: what the two norms read, q, k, v, the attention's result, gate, up, and what the
    // norms after attention and feed-forward read.
    double attention = D + 2 * q + 2 * kv + (b->post_attention_norm ? D : 0), mlp = D + 2 * F + (b->post_ffw_norm ? D : 0);
    // Besides, to be had again at elementwise cost: what the two norms gave and the product of gate and up, for projections of which
    // something trains; q and k after norm and RoPE, for the attention (without the norm, RoPE keeps nothing itself).
    double cheap_attention = a.q_norm ? q + kv : 0, cheap_mlp = 0;
    const auto trains = [](const Linear& l) { return cost_of(l).trains; };
    if (trains(a.q_proj) || trains(a.k_proj) || trains(a.v_proj)) cheap_attention += D;
    if (trains(m.gate_proj) || trains(m.up_proj)) cheap_mlp += D;
    if (trains(m.down_proj)) cheap_mlp += F;
    for (const Linear* l : {&a.q_proj, &a.k_proj, &a.v_proj, &a.o_proj}) attention += bytes(cost_of(*l).kept), cheap_attention += bytes(cost_of(*l).dropped);
    for (const Linear* l : {&m.gate_proj, &m.up_proj, &m.down_proj}) mlp += bytes(cost_of(*l).kept), cheap_mlp += bytes(cost_of(*l).dropped);
    switch (r) {
      case Recompute::none: kept += attention + cheap_attention + mlp + cheap_mlp; break;
      case Recompute::norms: kept += attention + mlp; break;
      case Recompute::mlp: kept += attention + D, again = std::max(again, mlp + cheap_mlp); break;
      case Recompute::block: kept += D, again = std::max(again, attention + cheap_attention + mlp + cheap_mlp); break;
    }
    // Beside the gradients of gate and up and two of the residual: that of their product, which takes the product's place if that was kept;
    // or, the product gone, that of what both read, with its norm computed again, or with the f32 sum that a bf16 one is rounded from where
    // gate and up are two products.
    const bool product_kept = r != Recompute::norms && trains(m.down_proj);
    const std::array<const Weight*, 2> gates = {m.gate_proj.weight.get(), m.up_proj.weight.get()};
    const double sum = on_gpu && compute() == DType::bf16 && !joined(gates) ? bytes(2 * static_cast<double>(config.width)) : r == Recompute::norms ? D : 0;
    beside = std::max({beside, product_kept ? 0 : F, D + sum - (product_kept ? F : 0)});
  }
  // The most is in use either in the feed-forward block of the last layer, or in the head: the last norm's input and output, the gradient,
  // and a block of logits. Recorded passes hand the gradient of their output over in memory of its own.
  const auto rows = static_cast<int64_t>(std::max(1.0, tokens));
  const auto logits = size * static_cast<double>(linear_loss_chunk(rows, config.vocab, device(), size_of(compute())) * config.vocab);
  return kept + std::max(again + beside + 2 * F + 2 * D, 3 * D + logits) + (graphs ? D : 0);
}

}  // namespace facet
