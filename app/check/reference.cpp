#include "app/check/reference.h"

#include <algorithm>
#include <charconv>
#include <filesystem>

#include "models/gemma/names.h"

namespace facet::app {
namespace {

constexpr const char* inputs[] = {"input_ids", "attention_mask", "position_ids"};

constexpr std::string_view adapted_prefix = "lora/", adapter_gradient = "lora/grad/base_model.model.";

bool is_input(const std::string& name) { return std::find(std::begin(inputs), std::end(inputs), name) != std::end(inputs); }

// "a.layers.0.out" of set "a" -> "layers.0.out"; "" when the name belongs to another set.
std::string within(const std::string& set, const std::string& name) {
  if (set.empty()) return name;
  return name.rfind(set + ".", 0) == 0 ? name.substr(set.size() + 1) : std::string{};
}

// Where a tap stands in the forward pass.
std::pair<int64_t, int> order(const std::string& tap) {
  constexpr const char* inside[] = {"input_norm", "q", "k", "v", "q_normed", "k_normed", "q_rope", "k_rope", "probs", "attn", "attn_out",
                                    "post_attn_norm", "pre_ffw_norm", "gate", "up", "mlp", "post_ffw_norm", "out"};
  constexpr const char* after[] = {"final_norm", "logits_before_cap", "logits", "loss"};
  if (tap == "embed") return {-1, 0};
  if (tap.rfind("layers.", 0) == 0) {
    int64_t layer = 0;
    const auto [end, error] = std::from_chars(tap.data() + 7, tap.data() + tap.size(), layer);
    const std::string rest = error == std::errc{} && end < tap.data() + tap.size() ? std::string(end + 1, tap.data() + tap.size()) : "";
    return {layer, static_cast<int>(std::find(std::begin(inside), std::end(inside), rest) - std::begin(inside))};
  }
  const auto at = std::find(std::begin(after), std::end(after), tap);
  return {int64_t{1} << 40, static_cast<int>(at - std::begin(after))};
}

}  // namespace

std::string tap_of_flax(const std::string& path) {
  static const std::pair<const char*, const char*> table[] = {
      {"", "out"}, {"attn", "attn_out"}, {"attn/attn_vec_einsum", "attn_out"}, {"attn/q_einsum", "q"}, {"attn/kv_einsum", "kv"},
      {"attn/_query_norm", "q_normed"}, {"attn/_key_norm", "k_normed"}, {"attn/attention_weights", "probs_bthk"}, {"mlp", "mlp"},
      {"mlp/gating_einsum_out", "gate_up"}, {"pre_attention_norm", "input_norm"}, {"post_attention_norm", "post_attn_norm"},
      {"pre_ffw_norm", "pre_ffw_norm"}, {"post_ffw_norm", "post_ffw_norm"}};
  if (path.rfind("layer_", 0) != 0) return {};
  const size_t slash = std::min(path.find('/'), path.size());
  const std::string layer = path.substr(6, slash - 6), rest = slash < path.size() ? path.substr(slash + 1) : "";
  if (layer.empty() || layer.find_first_not_of("0123456789") != std::string::npos) return {};
  for (const auto& [flax, tap] : table)
    if (rest == flax) return "layers." + layer + "." + tap;
  return {};
}

Reference::Reference(const std::vector<std::string>& paths, bool adapted) {
  if (paths.empty()) fail(Kind::usage, "check: no reference given; --ref FILE names a .safetensors or .npz file");
  for (const std::string& path : paths) files_.push_back(std::make_unique<TensorFiles>(path));
  for (const auto& file : files_) {
    for (const auto& [name, info] : file->tensors()) {
      const size_t dot = name.rfind('.');
      const std::string last = dot == std::string::npos ? name : name.substr(dot + 1);
      const std::string set = dot == std::string::npos ? "" : name.substr(0, dot);
      if (adapted && name.starts_with(adapted_prefix)) prefix_ = adapted_prefix;
      if (last == "input_ids" && std::find(sets_.begin(), sets_.end(), set) == sets_.end()) sets_.push_back(set);
    }
  }
}

std::vector<ReferenceTensor> Reference::tensors(const std::string& set) const {
  std::vector<ReferenceTensor> list;
  for (const auto& file : files_) {
    for (const auto& [name, info] : file->tensors()) {
      std::string inner = within(set, name);
      if (!prefix_.empty()) inner = name.starts_with(prefix_) ? within(set, name.substr(prefix_.size())) : "";
      if (set == sets_.front() && (!prefix_.empty() && name.starts_with(adapter_gradient))) inner = "grad." + name.substr(adapter_gradient.size());
      if (inner.empty() || is_input(inner)) continue;
      if (set.empty() && std::any_of(sets_.begin(), sets_.end(), [&](const std::string& s) { return !s.empty() && !within(s, name).empty(); }))
        continue;
      ReferenceTensor t;
      t.name = t.label = name;
      t.file = file.get();
      if (inner.rfind("grad.", 0) == 0) t.tap = "grad." + module_name(inner.substr(5));
      else if (inner.rfind("layer_", 0) == 0) t.tap = tap_of_flax(inner);
      else t.tap = inner;
      const bool twice = std::any_of(files_.begin(), files_.end(), [&](const auto& f) { return f != file && f->has(name); });
      if (twice) t.label += fmt::format(" ({})", std::filesystem::path(file->path()).filename().string());
      list.push_back(std::move(t));
    }
  }
  std::stable_sort(list.begin(), list.end(), [](const auto& a, const auto& b) { return order(a.tap) < order(b.tap); });
  return list;
}

std::vector<ReferenceTensor> Reference::strays() const {
  std::vector<ReferenceTensor> list;
  if (std::find(sets_.begin(), sets_.end(), "") != sets_.end()) return list;
  for (const auto& file : files_)
    for (const auto& [name, info] : file->tensors())
      if (name.starts_with(prefix_) && !(!prefix_.empty() && name.starts_with(adapter_gradient)) &&
          std::none_of(sets_.begin(), sets_.end(), [&, n = name.substr(prefix_.size())](const std::string& s) { return !within(s, n).empty(); }))
        list.push_back({name, name, "", file.get()});
  return list;
}

Tensor Reference::find(const std::string& set, const std::string& name) const {
  const std::string full = set.empty() ? name : set + "." + name;
  for (const auto& file : files_)
    if (file->has(full)) return file->load(full);
  return {};
}

Tensor Reference::mask(const std::string& set) const {
  if (const Tensor m = find(set, "attention_mask")) return m;
  return Tensor::full(find(set, "input_ids").shape(), 1, DType::i32);
}

Tokens Reference::tokens(const std::string& set) const {
  const Tensor ids = find(set, "input_ids"), m = mask(set);
  if (ids.rank() != 2) fail(Kind::file, "check: {}.input_ids has shape {}, expected [B, T]", set, to_string(ids.shape()));
  Tokens t = masked_tokens(ids, m);
  if (const Tensor given = find(set, "position_ids")) {
    if (!(given.shape() == ids.shape()))
      fail(Kind::file, "check: {}.position_ids has shape {}, input_ids {}", set, to_string(given.shape()), to_string(ids.shape()));
    const Tensor p = Tensor::empty(ids.shape(), DType::i32);
    int32_t* out = p.out().as<int32_t>();
    for (int64_t b = 0; b < ids.dim(0); ++b)
      for (int64_t i = 0; i < ids.dim(1); ++i) *out++ = m.at({b, i}) != 0 ? static_cast<int32_t>(given.at({b, i})) : -1;
    t.positions = p;
  }
  return t;
}

}  // namespace facet::app
