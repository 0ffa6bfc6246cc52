#include "models/gemma/model.h"

#include <algorithm>
#include <cmath>

#include "autograd/joined_ops.h"
#include "nn/dropout.h"
#include "nn/tap.h"
#include "tensor/kernels/copy.h"

namespace facet {

GemmaAttention::GemmaAttention(const GemmaConfig& c, int64_t layer, const RopeTable& table, DType dtype)
    : q_proj(c.width, c.heads * c.head_dim, dtype),
      k_proj(c.width, c.kv_heads * c.head_dim, dtype),
      v_proj(c.width, c.kv_heads * c.head_dim, dtype),
      o_proj(c.heads * c.head_dim, c.width, dtype),
      rope(table),
      heads(c.heads),
      kv_heads(c.kv_heads),
      head_dim(c.head_dim),
      window(c.kinds[static_cast<size_t>(layer)] == LayerKind::local ? c.window : 0),
      scale(c.query_scale()),
      cap(c.attention_cap),
      eps(c.norm_eps) {
  if (!c.qk_norm) return;
  q_norm = std::make_unique<RmsNorm>(head_dim, eps, dtype);
  k_norm = std::make_unique<RmsNorm>(head_dim, eps, dtype);
}

Tensor GemmaAttention::operator()(const Tensor& x, const Tokens& tokens, LayerCache* cache) const {
  const ModuleScope scope("self_attn");
  const int64_t B = x.dim(0), T = x.dim(1);
  const auto qkv = apply_together(x, {&q_proj, &k_proj, &v_proj});
  const Tensor q = reshape(qkv[0], {B, T, heads, head_dim});     // [B, T, H, Dh]
  const Tensor k = reshape(qkv[1], {B, T, kv_heads, head_dim});  // [B, T, K, Dh]
  const Tensor v = reshape(qkv[2], {B, T, kv_heads, head_dim});  // [B, T, K, Dh]
  tap("q", q), tap("k", k), tap("v", v);
  if (tapping() && q_norm) tap("q_normed", (*q_norm)(q)), tap("k_normed", (*k_norm)(k));

  AttentionMask mask{.q_positions = tokens.positions, .k_positions = {}, .q_segments = tokens.segments, .k_segments = {},
                     .window = window, .causal = true, .plain = tokens.plain && !cache};
  const Tensor none, w_q = q_norm ? q_norm->weight.value() : none, w_k = k_norm ? k_norm->weight.value() : none;
  Tensor q_rope, k_rope;
  if (cache && !grad_enabled() && !tapping()) {  // the same bits at once
    q_rope = norm_rope_write({q, k, v, w_q, w_k}, eps, tokens.positions, rope, cache->rings());
  } else {
    q_rope = norm_rope(q, w_q, eps, tokens.positions, rope);
    k_rope = norm_rope(k, w_k, eps, tokens.positions, rope);
    tap("q_rope", q_rope), tap("k_rope", k_rope);
    if (cache) cache->write(k_rope, v, tokens.positions);
  }
  if (cache) mask.k_positions = cache->positions();
  Tensor y = facet::attention(q_rope, cache ? cache->keys() : k_rope, cache ? cache->values() : v, mask, scale, cap);
  tap("attn", y);                                      // [B, T, H, Dh]
  y = o_proj(reshape(y, {B, T, heads * head_dim}));    // [B, T, D]
  tap("attn_out", y);
  return y;
}

void GemmaAttention::visit(Visitor& v) {
  v.together({&q_proj, &k_proj, &v_proj});
  v("q_proj", q_proj);
  v("k_proj", k_proj);
  v("v_proj", v_proj);
  v("o_proj", o_proj);
  v("q_norm", q_norm);
  v("k_norm", k_norm);
}

GemmaBlock::GemmaBlock(const GemmaConfig& c, int64_t layer, const RopeTable& rope, DType dtype)
    : input_norm(c.width, c.norm_eps, dtype),
      attention(c, layer, rope, dtype),
      pre_ffw_norm(c.width, c.norm_eps, dtype),
      mlp(c.width, c.hidden, dtype) {
  if (!c.post_norms) return;
  post_attention_norm = std::make_unique<RmsNorm>(c.width, c.norm_eps, dtype);
  post_ffw_norm = std::make_unique<RmsNorm>(c.width, c.norm_eps, dtype);
}

SumNorm GemmaBlock::operator()(const SumNorm& x, Reader next, const Tokens& tokens, LayerCache* cache, Recompute recompute) const {
  const RecomputeScope scope(recompute == Recompute::norms || recompute == Recompute::mlp);
  const auto normed = [](const std::unique_ptr<RmsNorm>& norm, const Tensor& h) { return norm ? (*norm)(h) : h; };
  const Tensor in = x.norm ? x.norm : with_room(attention.room(), [&] { return input_norm(x.sum); });
  tap("input_norm", in);
  const Tensor h = attention(in, tokens, cache);
  if (tapping()) tap("post_attn_norm", normed(post_attention_norm, h));

  const auto feed_forward = [this, normed](const Tensor& n) {
    tap("pre_ffw_norm", n);
    const Tensor m = mlp(n);
    tap("mlp", m);
    if (tapping()) tap("post_ffw_norm", normed(post_ffw_norm, m));
    return m;
  };
  if (recompute == Recompute::mlp) {  // the norms too are computed again
    const Tensor a = add(x.sum, normed(post_attention_norm, h));
    const auto branch = [this, normed, feed_forward](const Tensor& t) {
      return normed(post_ffw_norm, feed_forward(with_room(mlp.room(), [&] { return pre_ffw_norm(t); })));
    };
    const Tensor m = checkpoint(with_dropout_of_now(branch), a);
    return next.norm ? with_room(next.room, [&] { return next.norm->of_sum(a, m); }) : SumNorm{add(a, m), {}};
  }
  const SumNorm a = with_room(mlp.room(), [&] { return pre_ffw_norm.of_sum(x.sum, h, post_attention_norm.get()); });
  const Tensor m = feed_forward(a.norm);
  return next.norm ? with_room(next.room, [&] { return next.norm->of_sum(a.sum, m, post_ffw_norm.get()); })
                   : SumNorm{add(a.sum, normed(post_ffw_norm, m)), {}};
}

void GemmaBlock::visit(Visitor& v) {
  v("input_layernorm", input_norm);
  v("self_attn", attention);
  // Gemma 1 calls the norm before the feed-forward block "post_attention_layernorm", as LLaMA does.
  v("post_attention_layernorm", post_attention_norm);
  v(post_attention_norm ? "pre_feedforward_layernorm" : "post_attention_layernorm", pre_ffw_norm);
  v("mlp", mlp);
  v("post_feedforward_layernorm", post_ffw_norm);
}

Gemma::Gemma(const GemmaConfig& c, DType storage)
    : config(c), embed_tokens(c.vocab, c.width, storage), norm(c.width, c.norm_eps, storage) {
  c.check();
  const RopeTable local(c.head_dim, c.rope_base_local);
  const RopeTable global(c.head_dim, c.rope_base_global, c.rope_factor_global);
  for (int64_t i = 0; i < c.layers; ++i) {
    const bool is_local = c.kinds[static_cast<size_t>(i)] == LayerKind::local;
    blocks.push_back(std::make_unique<GemmaBlock>(c, i, is_local ? local : global, storage));
  }
  if (!c.tied_head) lm_head = std::make_unique<Head>(c.vocab, c.width, storage);
  for (DType t : {DType::f32, DType::bf16, DType::f64})
    embedding_scales_[static_cast<size_t>(t)] = Tensor::scalar(std::sqrt(static_cast<double>(config.width)), t).item();
  parameters(*this);  // sets every parameter's name once
}

void Gemma::init(Key key) {
  for (Parameter* p : parameters(*this)) {
    key = fold_in(key, 1);
    if (p->value().rank() == 1) continue;
    const Tensor noise = normal(key, p->value().shape());
    copy(mul(noise, config.init_std).view(), p->value().out());
  }
}

void Gemma::reserve(int64_t positions) const {
  for (const auto& b : blocks) b->attention.rope.reserve(positions);
}

namespace {
int32_t highest_position(const Tensor& positions) {
  const Tensor dense = positions.dense();
  const auto p = dense.data<int32_t>();
  return p.empty() ? -1 : *std::max_element(p.begin(), p.end());
}
}  // namespace

Tensor Gemma::hidden(const Tokens& given, KvCache* cache) {
  if (given.positions.device() == Device::cpu) {
    if (cache) cache->reach(given.positions);
    if (device() == Device::gpu) reserve(highest_position(given.positions) + 1);
  }
  const Tokens tokens = given.on(device(), config.vocab);
  SumNorm x{embed_tokens(tokens.ids, embedding_scales_[static_cast<size_t>(compute())], compute()), {}};  // [B, T, D]
  tap("embed", x.sum);
  for (size_t i = 0; i < blocks.size(); ++i) {
    const TapScope scope("layers", static_cast<int64_t>(i));
    LayerCache* layer = cache ? &cache->layers[i] : nullptr;
    using Reader = GemmaBlock::Reader;
    const auto block = [&b = *blocks[i], tokens, layer, r = recompute](const SumNorm& s, Reader next) { return b(s, next, tokens, layer, r); };
    if (recompute == Recompute::block) x.sum = checkpoint(with_dropout_of_now([block](const Tensor& t) { return block({t, {}}, {}).sum; }), x.sum);
    else x = block(x, i + 1 < blocks.size() ? blocks[i + 1]->reader() : Reader{&norm});
    tap("out", x.sum);
  }
  const Tensor y = x.norm ? x.norm : norm(x.sum);
  tap("final_norm", y);
  return y;
}

KvCache Gemma::new_cache(int64_t batch, int64_t capacity, int64_t chunk) const {
  KvCache cache;
  cache.capacity = capacity;
  cache.chunk = std::min(chunk, capacity);
  for (LayerKind kind : config.kinds) {
    // A chunk of C tokens overwrites positions up to C - 1 before its last; the first row of the chunk still needs its window.
    const int64_t ring = kind == LayerKind::local ? std::min(capacity, config.window + cache.chunk - 1) : capacity;
    cache.layers.emplace_back(batch, ring, config.kv_heads, config.head_dim, compute(), device());
  }
  return cache;
}

void Gemma::visit(Visitor& v) {
  v("embed_tokens", embed_tokens);
  v("layers", blocks);
  v("norm", norm);
  v("lm_head", lm_head);
}

std::string Gemma::describe() const {
  return fmt::format("Gemma {} ({} layers, width {}, {} heads, {} kv heads of {}, feed-forward {}, vocabulary {})", config.generation,
                     config.layers, config.width, config.heads, config.kv_heads, config.head_dim, config.hidden, config.vocab);
}

}  // namespace facet
