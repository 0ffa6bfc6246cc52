// What a pass over the model costs in operations and memory, given what trains and which adapters are on.
#include <algorithm>

#include "autograd/ops/linear_loss.h"
#include "models/gemma/model.h"

namespace facet {
namespace {

struct Cost {
  double base = 0;     // elements of W: two operations each and token
  double adapter = 0;  // of A and B
  double kept = 0;     // elements that the adapter keeps for backward, a token
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
  c.kept = r + (f->dropout > 0 ? I : 0) + (f->magnitude.value() ? O : 0);
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

double Gemma::activation_bytes(double tokens, Recompute r) const {
  const auto D = static_cast<double>(config.width), F = static_cast<double>(config.hidden);
  const auto q = static_cast<double>(config.heads * config.head_dim), kv = static_cast<double>(config.kv_heads * config.head_dim);
  double kept = 0, again = 0, product = 0;  // a token: left by forward for backward, in all; of one block: computed again, not kept
  for (const auto& b : blocks) {
    // What a norm, a product and the attention saved: inputs of the two norms and what they gave, q and k before and after RoPE, v, the
    // attention's result, gate, up and their product, and what the norms after attention and feed-forward read. A projection's input
    // is kept only where something of it trains.
    const double after_attention = b->post_attention_norm ? D : 0, after_mlp = b->post_ffw_norm ? D : 0;
    double attention = 2 * D + 3 * q + 3 * kv + after_attention, mlp = 2 * D + 3 * F + after_mlp;
    const auto trains = [](const Linear& l) { return cost_of(l).trains; };
    if (!trains(b->attention.q_proj) && !trains(b->attention.k_proj) && !trains(b->attention.v_proj)) attention -= D;
    if (!trains(b->mlp.gate_proj) && !trains(b->mlp.up_proj)) mlp -= D;
    if (!trains(b->mlp.down_proj)) mlp -= F, product = F;
    for (const Linear* l : {&b->attention.q_proj, &b->attention.k_proj, &b->attention.v_proj, &b->attention.o_proj}) attention += cost_of(*l).kept;
    for (const Linear* l : {&b->mlp.gate_proj, &b->mlp.up_proj, &b->mlp.down_proj}) mlp += cost_of(*l).kept;
    kept += r == Recompute::block ? D : attention + (r == Recompute::mlp ? D : mlp);
    if (r != Recompute::none) again = std::max(again, r == Recompute::block ? attention + mlp : mlp);
  }
  // The most is in use either in the feed-forward block of the last layer, when the gradients of gate and up come to the two of the
  // residual and to that of their product, which takes the product's place if that was kept; or in the head: the last norm's input and output, the gradient, and a block of logits.
  const double in_block = tokens * (again + product + 2 * F + 2 * D);
  const auto rows = static_cast<int64_t>(std::max(1.0, tokens));
  const double in_head = tokens * 3 * D + static_cast<double>(linear_loss_chunk(rows, config.vocab, device(), size_of(compute())) * config.vocab);
  return static_cast<double>(size_of(compute())) * (tokens * kept + std::max(in_block, in_head));
}

}  // namespace facet
