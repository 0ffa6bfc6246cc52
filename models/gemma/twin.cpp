#include "models/gemma/twin.h"

#include <algorithm>
#include <cmath>

#include "autograd/ops.h"

namespace facet {
namespace {

Tensor to_bf16_and_back(const Tensor& x) { return cast(cast(x, DType::bf16), x.dtype()); }

// cos and sin of every angle, [B, T, 1, Dh/2].
struct Angles {
  Tensor cos, sin;
};
Angles angles(const Tensor& positions, int64_t head_dim, double base, double factor, bool in_f32, DType dtype) {
  const int64_t B = positions.dim(0), T = positions.dim(1), half = head_dim / 2;
  std::vector<double> c, s;
  for (const double position : positions.to_vector())
    for (int64_t i = 0; i < half; ++i) {
      const double p = std::max(position, 0.0), exponent = 2.0 * static_cast<double>(i) / static_cast<double>(head_dim);
      const float frequency = 1.0F / (std::pow(static_cast<float>(base), static_cast<float>(exponent)) * static_cast<float>(factor));
      const double angle = in_f32 ? static_cast<double>(static_cast<float>(p) * frequency) : p / (std::pow(base, exponent) * factor);
      c.push_back(std::cos(angle));
      s.push_back(std::sin(angle));
    }
  return {Tensor::from(c, {B, T, 1, half}).to(dtype), Tensor::from(s, {B, T, 1, half}).to(dtype)};
}

// 1 where query i sees key j, [B, 1, T, T].
Tensor visible(const Tensor& positions, int64_t window) {
  const int64_t B = positions.dim(0), T = positions.dim(1);
  const Tensor sees = Tensor::zeros({B, 1, T, T}, DType::i32);
  int32_t* v = sees.out().as<int32_t>();
  for (int64_t b = 0; b < B; ++b)
    for (int64_t i = 0; i < T; ++i)
      for (int64_t j = 0; j < T; ++j, ++v) {
        const double query = positions.at({b, i}), key = positions.at({b, j});
        *v = query >= 0 && key >= 0 && key <= query && (window == 0 || query - key < static_cast<double>(window));
      }
  return sees;
}

}  // namespace

Tensor repeat_heads(const Tensor& x, int64_t heads, bool by_modulo) {
  const int64_t K = x.dim(2);
  const Tensor index = Tensor::empty({heads}, DType::i32);
  for (int64_t h = 0; h < heads; ++h) index.out().as<int32_t>()[h] = static_cast<int32_t>(by_modulo ? h % K : h / (heads / K));
  return take(x, index, 2);
}

Tensor attention_probabilities(const Tensor& q, const Tensor& k, const Tensor& positions, int64_t window, double scale, double cap,
                               const TwinChoices& choices) {
  const Tensor hidden = Tensor::full({1}, -1e30, q.dtype()), sees = visible(positions, window);
  const auto capped = [cap](const Tensor& s) { return cap > 0 ? softcap(s, cap) : s; };
  const auto masked = [&](const Tensor& s) { return where(expand(sees, s.shape()), s, hidden); };
  Tensor scores = mul(einsum("bqhd,bkhd->bhqk", {q, k}), scale);  // [B, H, T, T]
  if (choices.scores_in_bf16) scores = to_bf16_and_back(scores);
  return softmax(choices.cap_after_mask ? capped(masked(scores)) : masked(capped(scores)), -1);
}

GemmaTwin::GemmaTwin(const GemmaConfig& c, const NamedTensors& weights, DType dtype) : config(c) {
  for (const auto& [name, value] : weights) weights_[name] = value.to(Device::cpu).to(dtype);
}

const Tensor& GemmaTwin::weight(const std::string& name) const {
  const auto found = weights_.find(name);
  if (found == weights_.end()) fail(Kind::usage, "GemmaTwin: no weight {} among the {} given", name, weights_.size());
  return found->second;
}

Tensor GemmaTwin::project(const Tensor& x, const Tensor& w) const {
  const int64_t inputs = w.dim(1), half = inputs / 2;
  const auto part = [&](int64_t a, int64_t b) { return matmul(slice(x, -1, a, b), transpose(slice(w, 1, a, b))); };
  return choices.halved_sums ? part(0, half) + part(half, inputs) : matmul(x, transpose(w));
}

Tensor GemmaTwin::norm(const Tensor& x, const std::string& name) const {
  if (!choices.without_norm.empty() && name.ends_with(choices.without_norm)) return x;
  const auto maybe = [](bool round, const Tensor& t) { return round ? to_bf16_and_back(t) : t; };
  const Tensor& w = weight(name + ".weight");
  const Tensor factor = maybe(choices.plus_one_in_bf16, choices.plus_one ? w + 1.0 : w);
  const Tensor unit = x * rsqrt(mean(square(x), {-1}, true) + config.norm_eps);
  return maybe(choices.norm_to_bf16, maybe(choices.norm_to_bf16_early, unit) * factor);
}

Tensor GemmaTwin::rotate(const Tensor& x, const Tensor& positions, bool local) const {
  const int64_t Dh = config.head_dim, half = Dh / 2;
  const double base = local ? config.rope_base_local : config.rope_base_global;
  const double factor = local ? choices.rope_factor_local : config.rope_factor_global;
  auto [c, s] = angles(positions, Dh, base, factor, choices.rope_angles_in_f32, x.dtype());
  if (choices.rope_table_in_bf16) c = to_bf16_and_back(c), s = to_bf16_and_back(s);
  if (choices.rope_interleaved) {
    const Tensor a = slice(x, 3, 0, Dh, 2), b = slice(x, 3, 1, Dh, 2);
    const Shape pair{x.dim(0), x.dim(1), x.dim(2), half, 1};
    return reshape(concat({reshape(a * c - b * s, pair), reshape(b * c + a * s, pair)}, 4), x.shape());
  }
  const Tensor a = slice(x, 3, 0, half), b = slice(x, 3, half, Dh);
  return concat({a * c - b * s, b * c + a * s}, 3);
}

Tensor GemmaTwin::attention(const Tensor& x, const std::string& at, const Tensor& positions, bool local) const {
  const int64_t B = x.dim(0), T = x.dim(1), H = config.heads, K = config.kv_heads, Dh = config.head_dim;
  const Tensor &w_q = weight(at + "q_proj.weight"), &w_k = weight(at + "k_proj.weight"), &w_v = weight(at + "v_proj.weight");
  std::vector<Tensor> qkv;
  if (choices.joined_products) qkv = split(project(x, concat({w_q, w_k, w_v}, 0)), {H * Dh, K * Dh, K * Dh}, 2);
  else for (const Tensor* w : {&w_q, &w_k, &w_v}) qkv.push_back(project(x, *w));
  const auto with_position = [&](const Tensor& heads, const char* its_norm) {
    const auto normed = [&](const Tensor& h) { return config.qk_norm ? norm(h, at + its_norm) : h; };
    return choices.qk_norm_after_rope ? normed(rotate(heads, positions, local)) : rotate(normed(heads), positions, local);
  };
  Tensor q = with_position(reshape(qkv[0], {B, T, H, Dh}), "q_norm");
  const Tensor k = repeat_heads(with_position(reshape(qkv[1], {B, T, K, Dh}), "k_norm"), H, choices.kv_head_by_modulo);
  const Tensor v = repeat_heads(reshape(qkv[2], {B, T, K, Dh}), H, choices.kv_head_by_modulo);
  if (choices.scale_on_query) q = q * config.query_scale();
  const Tensor p = attention_probabilities(q, k, positions, local ? config.window : 0, choices.scale_on_query ? 1 : config.query_scale(),
                                           config.attention_cap, choices);
  return project(reshape(einsum("bhqk,bkhd->bqhd", {p, v}), {B, T, H * Dh}), weight(at + "o_proj.weight"));
}

Tensor GemmaTwin::feed_forward(const Tensor& x, const std::string& at) const {
  const Tensor &w_gate = weight(at + "gate_proj.weight"), &w_up = weight(at + "up_proj.weight");
  Tensor gate, up;
  if (choices.joined_products) {
    const auto both = split(project(x, concat({w_gate, w_up}, 0)), {config.hidden, config.hidden}, 2);
    gate = both[0], up = both[1];
  } else {
    gate = project(x, w_gate), up = project(x, w_up);
  }
  if (choices.gate_up_swapped) std::swap(gate, up);
  return project((choices.erf_gelu ? gelu_erf(gate) : gelu_tanh(gate)) * up, weight(at + "down_proj.weight"));
}

Tensor GemmaTwin::logits(const Tokens& tokens) const {
  const NoGrad off;
  const int64_t B = tokens.ids.dim(0), T = tokens.ids.dim(1);
  Tensor positions = tokens.positions;
  if (choices.positions_from_edge) {  // the mask stays: only the count forgets it
    const Tensor from_the_edge = expand(plain_tokens(Tensor::zeros({1, T}, DType::i32)).positions, {B, T});
    positions = where(less(positions, Tensor::zeros({1}, DType::i32)), positions, from_the_edge);
  }
  const Tensor& table = weight("embed_tokens.weight");
  const double root = std::sqrt(static_cast<double>(config.width));
  const DType rounded = choices.embedding_scale == TwinChoices::Scale::bf16 ? DType::bf16 : DType::f32;
  const double scale = choices.embedding_scale == TwinChoices::Scale::none ? 1 : Tensor::scalar(root, rounded).item();
  Tensor x = take(table, tokens.ids, 0) * scale;  // [B, T, D]
  // Gemma 1 calls the norm before the feed-forward block "post_attention_layernorm", as LLaMA does.
  const std::string before_ffw = config.post_norms ? "pre_feedforward_layernorm" : "post_attention_layernorm";
  for (int64_t i = 0; i < config.layers; ++i) {
    const std::string at = "layers." + std::to_string(i) + ".";
    const bool local = config.kinds[static_cast<size_t>(i)] == LayerKind::local;
    const auto add_branch = [&](const Tensor& branch, const std::string& post) {
      if (!config.post_norms) x = x + branch;
      else x = choices.post_norm_after_sum ? norm(x + branch, at + post) : x + norm(branch, at + post);
    };
    add_branch(attention(norm(x, at + "input_layernorm"), at + "self_attn.", positions, local), "post_attention_layernorm");
    add_branch(feed_forward(norm(x, at + before_ffw), at + "mlp."), "post_feedforward_layernorm");
  }
  const Tensor logits = project(norm(x, "norm"), config.tied_head ? table : weight("lm_head.weight"));
  return config.final_cap > 0 ? softcap(logits, config.final_cap) : logits;
}

namespace {

bool any(const GemmaConfig&) { return true; }
bool has_window(const GemmaConfig& c) { return c.window > 0 && std::count(c.kinds.begin(), c.kinds.end(), LayerKind::local) > 0; }
bool has_both_kinds(const GemmaConfig& c) { return has_window(c) && std::count(c.kinds.begin(), c.kinds.end(), LayerKind::global) > 0; }
bool has_two_bases(const GemmaConfig& c) { return has_both_kinds(c) && c.rope_base_local != c.rope_base_global; }
bool has_factor(const GemmaConfig& c) { return has_both_kinds(c) && c.rope_factor_global != 1; }
bool has_groups(const GemmaConfig& c) { return c.kv_heads > 1 && c.kv_heads < c.heads; }
bool has_post_norms(const GemmaConfig& c) { return c.post_norms; }
bool has_qk_norm(const GemmaConfig& c) { return c.qk_norm; }
bool has_attention_cap(const GemmaConfig& c) { return c.attention_cap > 0; }
bool has_final_cap(const GemmaConfig& c) { return c.final_cap > 0; }
bool scale_is_not_bf16(const GemmaConfig& c) {
  const double root = std::sqrt(static_cast<double>(c.width));
  return Tensor::scalar(root, DType::bf16).item() != Tensor::scalar(root, DType::f32).item();
}
double width_over_heads(const GemmaConfig& c) { return static_cast<double>(c.width / c.heads); }

}  // namespace

const std::vector<Discrepancy>& discrepancies() {
  using C = GemmaConfig;
  using T = TwinChoices;
  constexpr auto mistake = Discrepancy::Kind::mistake, rounding = Discrepancy::Kind::rounding;
  static const std::vector<Discrepancy> list = {
      {"norm_w_without_plus_one", mistake, "a norm multiplies by w, not by 1 + w", any, [](C&, T& t) { t.plus_one = false; }},
      {"no_input_norm", mistake, "no norm before attention", any, [](C&, T& t) { t.without_norm = "input_layernorm"; }},
      {"no_post_attn_norm", mistake, "no norm after attention", has_post_norms, [](C&, T& t) { t.without_norm = "post_attention_layernorm"; }},
      {"no_pre_ffw_norm", mistake, "no norm before the feed-forward block", has_post_norms,
       [](C&, T& t) { t.without_norm = "pre_feedforward_layernorm"; }},
      {"no_post_ffw_norm", mistake, "no norm after the feed-forward block", has_post_norms,
       [](C&, T& t) { t.without_norm = "post_feedforward_layernorm"; }},
      {"post_norm_after_sum", mistake, "norm(x + f(x)) instead of x + norm(f(x))", has_post_norms, [](C&, T& t) { t.post_norm_after_sum = true; }},
      {"no_qk_norm", mistake, "queries and keys without their norms", has_qk_norm, [](C& c, T&) { c.qk_norm = false; }},
      {"qk_norm_after_rope", mistake, "queries and keys are rotated first", has_qk_norm, [](C&, T& t) { t.qk_norm_after_rope = true; }},
      {"embedding_scale_missing", mistake, "rows of the table are not multiplied by sqrt(D)", any,
       [](C&, T& t) { t.embedding_scale = T::Scale::none; }},
      {"embedding_scale_rounded_to_bf16", mistake, "sqrt(D) rounded to bf16 in a run in f32", scale_is_not_bf16,
       [](C&, T& t) { t.embedding_scale = T::Scale::bf16; }},
      {"rope_interleaved", mistake, "pairs (2i, 2i+1) instead of (i, i + Dh/2)", any, [](C&, T& t) { t.rope_interleaved = true; }},
      {"rope_theta_all_local", mistake, "the local base on every layer", has_two_bases,
       [](C& c, T&) { c.rope_base_global = c.rope_base_local, c.rope_factor_global = 1; }},
      {"rope_theta_all_global", mistake, "the global base on every layer", has_two_bases,
       [](C& c, T&) { c.rope_base_local = c.rope_base_global, c.rope_factor_global = 1; }},
      {"rope_factor_omitted", mistake, "positions of global layers not divided", has_factor, [](C& c, T&) { c.rope_factor_global = 1; }},
      {"rope_factor_on_local_too", mistake, "positions of local layers divided as well", has_factor,
       [](C& c, T& t) { t.rope_factor_local = c.rope_factor_global; }},
      {"window_plus_1", mistake, "a local layer sees one position more", has_window, [](C& c, T&) { ++c.window; }},
      {"window_minus_1", mistake, "a local layer sees one position less", has_window, [](C& c, T&) { --c.window; }},
      {"no_window", mistake, "local layers see everything", has_window, [](C& c, T&) { c.window = 1 << 20; }},
      {"layer_pattern_shifted", mistake, "local and global layers one place off", has_both_kinds,
       [](C& c, T&) {  // towards the side that changes something
         const auto by = c.kinds.back() != c.kinds.front() ? c.kinds.end() - 1 : c.kinds.begin() + 1;
         std::rotate(c.kinds.begin(), by, c.kinds.end());
       }},
      {"gqa_modulo", mistake, "query head h reads key head h mod K", has_groups, [](C&, T& t) { t.kv_head_by_modulo = true; }},
      {"scale_head_dim", mistake, "scores divided by sqrt(Dh)", [](const C& c) { return static_cast<double>(c.head_dim) != c.query_scale_denominator; },
       [](C& c, T&) { c.query_scale_denominator = static_cast<double>(c.head_dim); }},
      {"scale_hidden_over_heads", mistake, "scores divided by sqrt(D / H)", [](const C& c) { return width_over_heads(c) != c.query_scale_denominator; },
       [](C& c, T&) { c.query_scale_denominator = width_over_heads(c); }},
      {"no_attn_softcap", mistake, "scores without their soft-cap", has_attention_cap, [](C& c, T&) { c.attention_cap = 0; }},
      {"softcap_after_mask", mistake, "the soft-cap lifts masked scores to -cap", has_attention_cap, [](C&, T& t) { t.cap_after_mask = true; }},
      {"no_final_softcap", mistake, "logits without their soft-cap", has_final_cap, [](C& c, T&) { c.final_cap = 0; }},
      {"gate_up_swapped", mistake, "GELU on up instead of gate", any, [](C&, T& t) { t.gate_up_swapped = true; }},
      {"gelu_erf", mistake, "GELU by erf instead of its tanh form", any, [](C&, T& t) { t.erf_gelu = true; }},

      {"norm_eps_1e-5", rounding, "1e-5 in every norm instead of 1e-6", [](const C& c) { return c.norm_eps != 1e-5; },
       [](C& c, T&) { c.norm_eps = 1e-5; }},
      {"norm_early_downcast", rounding, "norms in bf16: x / rms is rounded before its product with 1 + w, as LLaMA's", any,
       [](C&, T& t) { t.norm_to_bf16 = t.norm_to_bf16_early = true; }, [](T& t) { t.norm_to_bf16 = true; }},
      {"norm_plus_one_in_bf16", rounding, "1 + w is formed in bf16", any, [](C&, T& t) { t.plus_one_in_bf16 = true; }},
      {"rope_angles_in_f32", rounding, "position times frequency in f32", any, [](C&, T& t) { t.rope_angles_in_f32 = true; }},
      {"rope_table_in_bf16", rounding, "cos and sin in bf16", any, [](C&, T& t) { t.rope_table_in_bf16 = true; }},
      {"positions_from_edge", rounding, "positions counted from the left edge of a row, wherever the text begins: rotations are relative", any,
       [](C&, T& t) { t.positions_from_edge = true; }},
      {"scores_in_bf16", rounding, "scores rounded to bf16 before the softmax", any, [](C&, T& t) { t.scores_in_bf16 = true; }},
      {"scale_on_query", rounding, "q is scaled before the product instead of the scores after it", any, [](C&, T& t) { t.scale_on_query = true; },
       nullptr, DType::f32},
      {"joined_products", rounding, "q, k, v in one product, gate and up in one: each sum is the same sum", any,
       [](C&, T& t) { t.joined_products = true; }, nullptr, DType::f32},
      {"halved_sums", rounding, "sums of projections in two halves, as libraries choose by shape", any, [](C&, T& t) { t.halved_sums = true; },
       nullptr, DType::f32},
  };
  return list;
}

}  // namespace facet
