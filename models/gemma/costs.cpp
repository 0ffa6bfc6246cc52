// What a pass over the model costs in operations and memory, given what trains and which adapters are on.
#include <algorithm>

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
  double blocks_kept = 0, working = 0;  // working: the block whose backward runs: values again and their gradients
  for (const auto& b : blocks) {
    // Kept: the residual, four norms' outputs and inputs, q, k, v before and after RoPE, the attention's result, gate, up and their
    // product; a projection's input only where something of it trains.
    double attention = 4 * D + 3 * q + 3 * kv, mlp = 4 * D + 3 * F;
    const auto trains = [](const Linear& l) { return cost_of(l).trains; };
    if (!trains(b->attention.q_proj) && !trains(b->attention.k_proj) && !trains(b->attention.v_proj)) attention -= D;
    if (!trains(b->mlp.gate_proj) && !trains(b->mlp.up_proj)) mlp -= D;
    if (!trains(b->mlp.down_proj)) mlp -= F;
    for (const Linear* l : {&b->attention.q_proj, &b->attention.k_proj, &b->attention.v_proj, &b->attention.o_proj}) attention += cost_of(*l).kept;
    for (const Linear* l : {&b->mlp.gate_proj, &b->mlp.up_proj, &b->mlp.down_proj}) mlp += cost_of(*l).kept;
    blocks_kept += r == Recompute::block ? D : attention + (r == Recompute::mlp ? D : mlp);
    working = std::max(working, attention + mlp);
  }
  return tokens * static_cast<double>(size_of(acc_dtype(embed_tokens.weight.value().dtype()))) * (blocks_kept + 2 * working);
}

}  // namespace facet
