#include "models/gemma/names.h"

#include <algorithm>
#include <charconv>
#include <map>

#include "tensor/error.h"
#include "tensor/io/text.h"
#include "tensor/kernels/copy.h"

namespace facet {

namespace {

// How a flax weight becomes ours.
enum class Layout : uint8_t {
  same,        // [..] -> [..]
  heads,       // [n, D, Dh] -> [n Dh, D]
  heads_part,  // part of [2, n, D, Dh] (or of [3, n, D, Dh] when q, k, v are fused)
  output,      // [H, Dh, D] -> [D, H Dh]
  gate_part,   // part of [2, F, D] or [2, D, F]
  transposed,  // [F, D] -> [D, F]
};

bool always(const GemmaConfig&) { return true; }
bool qk_norm(const GemmaConfig& c) { return c.qk_norm; }
bool four_norms(const GemmaConfig& c) { return c.post_norms; }
bool own_head(const GemmaConfig& c) { return !c.tied_head; }
bool two_norms(const GemmaConfig& c) { return !c.post_norms; }

struct Row {
  const char* ours;
  const char* flax;
  Layout layout;
  int part;
  Shape (*shape)(const GemmaConfig&);
  bool (*present)(const GemmaConfig&);
};

using C = const GemmaConfig&;
Shape rows_q(C c) { return {c.heads * c.head_dim, c.width}; }
Shape rows_kv(C c) { return {c.kv_heads * c.head_dim, c.width}; }
Shape rows_o(C c) { return {c.width, c.heads * c.head_dim}; }
Shape rows_up(C c) { return {c.hidden, c.width}; }
Shape rows_down(C c) { return {c.width, c.hidden}; }
Shape table(C c) { return {c.vocab, c.width}; }
Shape norm(C c) { return {c.width}; }
Shape head_norm(C c) { return {c.head_dim}; }

const Row before[] = {{"embed_tokens.weight", "embedder/input_embedding", Layout::same, 0, table, always}};
const Row in_layer[] = {
    {"input_layernorm.weight", "pre_attention_norm/scale", Layout::same, 0, norm, always},
    {"self_attn.q_proj.weight", "attn/q_einsum/w", Layout::heads, 0, rows_q, always},
    {"self_attn.k_proj.weight", "attn/kv_einsum/w", Layout::heads_part, 0, rows_kv, always},
    {"self_attn.v_proj.weight", "attn/kv_einsum/w", Layout::heads_part, 1, rows_kv, always},
    {"self_attn.o_proj.weight", "attn/attn_vec_einsum/w", Layout::output, 0, rows_o, always},
    {"self_attn.q_norm.weight", "attn/_query_norm/scale", Layout::same, 0, head_norm, qk_norm},
    {"self_attn.k_norm.weight", "attn/_key_norm/scale", Layout::same, 0, head_norm, qk_norm},
    {"post_attention_layernorm.weight", "post_attention_norm/scale", Layout::same, 0, norm, four_norms},
    // Gemma 1 has two norms a block, and Hugging Face gives the second LLaMA's name.
    {"post_attention_layernorm.weight", "pre_ffw_norm/scale", Layout::same, 0, norm, two_norms},
    {"pre_feedforward_layernorm.weight", "pre_ffw_norm/scale", Layout::same, 0, norm, four_norms},
    {"mlp.gate_proj.weight", "mlp/gating_einsum/w", Layout::gate_part, 0, rows_up, always},
    {"mlp.up_proj.weight", "mlp/gating_einsum/w", Layout::gate_part, 1, rows_up, always},
    {"mlp.down_proj.weight", "mlp/linear/w", Layout::transposed, 0, rows_down, always},
    {"post_feedforward_layernorm.weight", "post_ffw_norm/scale", Layout::same, 0, norm, four_norms},
};
const Row after[] = {{"norm.weight", "final_norm/scale", Layout::same, 0, norm, always},
                     {"lm_head.weight", nullptr, Layout::same, 0, table, own_head}};  // DeepMind's heads are tied

// Calls f(row, our name, flax name) for every weight of the config.
template <class F>
void for_each_weight(const GemmaConfig& c, F&& f) {
  const auto visit = [&](const auto& rows, const std::string& ours, const std::string& flax) {
    for (const Row& r : rows)
      if (r.present(c)) f(r, ours + r.ours, r.flax ? flax + r.flax : std::string());
  };
  visit(before, "", "transformer/");
  for (int64_t i = 0; i < c.layers; ++i) visit(in_layer, fmt::format("layers.{}.", i), fmt::format("transformer/layer_{}/", i));
  visit(after, "", "transformer/");
}

constexpr std::string_view decoder_prefixes[] = {"language_model.model.", "model.language_model.", "model."};
constexpr std::string_view vision_prefixes[] = {"vision_tower.", "model.vision_tower.", "multi_modal_projector.",
                                                "model.multi_modal_projector."};
constexpr std::string_view heads[] = {"lm_head.weight", "language_model.lm_head.weight", "model.lm_head.weight"};
constexpr std::string_view buffers[] = {"inv_freq", "freqs_cis", "embed_scale", "position_ids"};  // as endings

template <class List>
bool begins(std::string_view name, const List& list) {
  return std::any_of(std::begin(list), std::end(list), [&](std::string_view p) { return name.starts_with(p); });
}

std::string fused_name(const std::string& flax) { return flax.substr(0, flax.find("attn/")) + "attn/qkv_einsum/w"; }

// The row of one of our names, or null.
const Row* row_of(const GemmaConfig& c, const std::string& ours, std::string& flax) {
  const Row* found = nullptr;
  for_each_weight(c, [&](const Row& r, const std::string& name, const std::string& flax_name) {
    if (name != ours) return;
    found = &r;
    flax = flax_name;
  });
  return found;
}

// The shape of a window on ours with these axes.
Shape shape_in(Axes axes, const Shape& ours, const GemmaConfig& c) {
  switch (axes) {
    case Axes::same: return ours;
    case Axes::heads: return {ours[0] / c.head_dim, c.width, c.head_dim};
    case Axes::output: return {c.heads, c.head_dim, c.width};
    default: return {ours[1], ours[0]};
  }
}

}  // namespace

std::vector<WeightShape> weights_of(const GemmaConfig& c) {
  std::vector<WeightShape> list;
  for_each_weight(c, [&](const Row& r, const std::string& ours, const std::string&) { list.push_back({ours, r.shape(c)}); });
  return list;
}

std::string module_name(const std::string& name) {
  for (std::string_view p : decoder_prefixes)
    if (name.starts_with(p)) return name.substr(p.size());
  return name;
}

std::string hf_name(const std::string& ours) { return ours.starts_with("lm_head") ? ours : "model." + ours; }

WeightRole role_of(std::string_view name) {
  if (begins(name, vision_prefixes)) return WeightRole::vision;
  if (std::find(std::begin(heads), std::end(heads), name) != std::end(heads)) return WeightRole::head;
  for (std::string_view b : buffers)
    if (name.ends_with(b)) return WeightRole::buffer;
  const std::string ours = module_name(std::string(name));
  const auto among = [](std::string_view what, const auto& rows) {
    return std::any_of(std::begin(rows), std::end(rows), [&](const Row& r) { return what == r.ours; });
  };
  if (among(ours, before) || among(ours, after)) return WeightRole::decoder;
  if (ours.starts_with("layers.")) {
    const size_t dot = ours.find('.', 7);
    if (dot != ours.npos && dot > 7 && ours.find_first_not_of("0123456789", 7) == dot && among(std::string_view(ours).substr(dot + 1), in_layer))
      return WeightRole::decoder;
  }
  return WeightRole::unknown;
}

Tensor window_on(const Tensor& ours, Axes axes, const GemmaConfig& c) {
  switch (axes) {
    case Axes::same: return ours;
    case Axes::heads: return ours.reshape({ours.dim(0) / c.head_dim, c.head_dim, c.width}).permute({0, 2, 1});
    case Axes::output: return ours.reshape({c.width, c.heads, c.head_dim}).permute({1, 2, 0});
    default: return ours.transpose(0, 1);
  }
}

std::string find_flax(const GemmaConfig& c, const std::string& ours, const FlaxLookup& lookup, WeightPlace& place) {
  std::string flax;
  const Row* row = row_of(c, ours, flax);
  if (!row) fail(Kind::usage, "find_flax: this config has no weight \"{}\"", printable(ours));
  if (flax.empty()) return fmt::format("DeepMind's checkpoints have no \"{}\"; set tie_word_embeddings", ours);
  const bool of_heads = row->layout == Layout::heads || row->layout == Layout::heads_part;
  int part = row->part, parts = row->layout == Layout::heads_part || row->layout == Layout::gate_part ? 2 : 1;
  const WeightPlace* found = lookup(flax);
  if (!found && of_heads && (found = lookup(fused_name(flax)))) {
    // With as many key heads as query heads the three are one weight: q, k, v.
    part = row->layout == Layout::heads ? 0 : part + 1;
    parts = 3;
    flax = fused_name(flax);
  }
  if (!found) return fmt::format("missing \"{}\" in the DeepMind tree", flax);
  place = *found;
  const Shape want = row->shape(c);
  place.axes = of_heads                            ? Axes::heads
               : row->layout == Layout::output     ? Axes::output
               : row->layout == Layout::transposed ? Axes::transposed
                                                   : Axes::same;
  if (row->layout == Layout::gate_part && place.info.shape == Shape{2, c.width, c.hidden} && c.width != c.hidden) place.axes = Axes::transposed;
  Shape expected = shape_in(place.axes, want, c);
  if (parts > 1) {
    Shape with_parts{parts};
    for (int64_t d : expected) with_parts.push(d);
    expected = with_parts;
  }
  if (!(place.info.shape == expected))
    return fmt::format("\"{}\": the config asks for {}, the file has {} {}", place.name, to_string(expected), to_string(place.info.shape), place.info.dtype);
  if (parts > 1) place.info = entry_of(place.info, part);
  return "";
}

NamedTensors to_flax(const GemmaConfig& c, const NamedTensors& ours, bool gate_rows_first) {
  std::map<std::string, Tensor> by_name(ours.begin(), ours.end());
  NamedTensors list;
  // The destination of a part: two of our weights share one flax weight, made when the first arrives.
  const auto shared = [&](const std::string& flax, const Shape& shape, DType dtype, int part) {
    if (part == 0) list.emplace_back(flax, Tensor::empty(shape, dtype));
    Shape one = shape;
    for (int i = 1; i < one.rank; ++i) one[i - 1] = one[i];
    --one.rank;
    return list.back().second.slice(0, part, part + 1).reshape(one);
  };
  for_each_weight(c, [&](const Row& r, const std::string& name, const std::string& flax) {
    const auto at = by_name.find(name);
    if (at == by_name.end() || !(at->second.shape() == r.shape(c)))
      fail(Kind::usage, "to_flax: expected \"{}\" {}, found {}", name, to_string(r.shape(c)),
           at == by_name.end() ? "none" : to_string(at->second.shape()));
    if (flax.empty()) fail(Kind::usage, "to_flax: DeepMind's layout has no place for \"{}\"; the head must be tied", name);
    const Tensor x = at->second.dense();
    const bool fused = c.heads == c.kv_heads;
    switch (r.layout) {
      case Layout::same: list.emplace_back(flax, x); break;
      case Layout::heads:
      case Layout::heads_part: {
        const Tensor y = window_on(x, Axes::heads, c);
        const bool single = r.layout == Layout::heads;
        const int64_t n = y.dim(0);
        if (fused) copy(y.view(), shared(fused_name(flax), {3, n, c.width, c.head_dim}, x.dtype(), single ? 0 : r.part + 1).out());
        else if (single) list.emplace_back(flax, y.dense());
        else copy(y.view(), shared(flax, {2, n, c.width, c.head_dim}, x.dtype(), r.part).out());
        break;
      }
      case Layout::output: list.emplace_back(flax, window_on(x, Axes::output, c).dense()); break;
      case Layout::gate_part:
        if (gate_rows_first) copy(x.view(), shared(flax, {2, c.hidden, c.width}, x.dtype(), r.part).out());
        else copy(window_on(x, Axes::transposed, c).view(), shared(flax, {2, c.width, c.hidden}, x.dtype(), r.part).out());
        break;
      case Layout::transposed: list.emplace_back(flax, window_on(x, Axes::transposed, c).dense()); break;
    }
  });
  return list;
}

}  // namespace facet
