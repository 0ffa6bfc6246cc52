#include "models/gemma/spelling.h"

#include <algorithm>
#include <charconv>

#include "tensor/error.h"
#include "tensor/io/text.h"

namespace facet {

namespace {

// The one table that every model has tells the spelling, and what stands before it what others put in front.
constexpr std::string_view flax_table = "embedder/input_embedding", hf_table = "embed_tokens.weight";
constexpr std::string_view torch_tables[] = {"text_token_embedder.weight", "embedder.weight"};
// What Hugging Face itself puts before a decoder's names.
constexpr std::string_view hf_prefixes[] = {"language_model.model.", "model.language_model.", "model.", ""};
constexpr std::string_view stacked = "stacked_layers/attention_type_";

bool ends_at_part(std::string_view name, std::string_view end, char separator) {
  return name.ends_with(end) && (name.size() == end.size() || name[name.size() - end.size() - 1] == separator);
}

// Without what torch.compile and data parallelism put around modules, wherever they did.
std::string unwrapped(const std::string& name) {
  std::string r;
  for (size_t at = 0; at <= name.size();) {
    const size_t end = std::min(name.find('.', at), name.size());
    const std::string_view part(name.data() + at, end - at);
    if (part != "_orig_mod" && part != "module") r += (r.empty() ? "" : ".") + std::string(part);
    at = end + 1;
  }
  return r;
}

std::string slashed(std::string name) {
  std::replace(name.begin(), name.end(), '.', '/');
  return name;
}

bool of_trainer(std::string_view name) { return name.find("opt_state") != name.npos || name.starts_with("collections/"); }

void replace_all(std::string& s, std::string_view from, std::string_view to) {
  for (size_t at = s.find(from); at != s.npos; at = s.find(from, at + to.size())) s.replace(at, from.size(), to);
}

// gemma_pytorch's name, without what stands before it, in Hugging Face's words.
std::string from_gemma_pytorch(std::string name) {
  for (const std::string_view t : torch_tables)
    if (name == t) return "model.embed_tokens.weight";
  if (name.starts_with("siglip_vision_model.")) return "vision_tower." + name;
  if (name.starts_with("mm_soft_embedding_norm.") || name.starts_with("mm_input_projection.")) return "multi_modal_projector." + name;
  replace_all(name, ".query_norm.", ".q_norm.");
  replace_all(name, ".key_norm.", ".k_norm.");
  return name;
}

class Speller {
 public:
  explicit Speller(const TensorFiles& file) : file_(file) {}

  SpelledNames run() {
    find_table();
    if (names_.form == SpelledNames::Form::flax) find_pattern();
    for (const auto& [name, info] : file_.tensors()) {
      if (names_.form == SpelledNames::Form::flax) place_flax(name, info);
      else place_torch(name, info);
    }
    return std::move(names_);
  }

 private:
  void add(std::string canonical, const std::string& name, const TensorInfo& info) {
    const auto [at, fresh] = names_.places.emplace(std::move(canonical), WeightPlace{name, info, Axes::same});
    if (!fresh) fail(Kind::file, "{}: \"{}\" and \"{}\" are the same weight", file_.path(), printable(at->second.name), printable(name));
  }

  // Sets form, spelling and what stands in front of the names.
  void find_table() {
    std::string first;
    for (const auto& [name, info] : file_.tensors()) {
      std::string before, spelling;
      SpelledNames::Form form = SpelledNames::Form::hugging_face;
      const std::string flat = slashed(name), plain = unwrapped(name);
      if (ends_at_part(flat, flax_table, '/')) {
        if (of_trainer(flat)) continue;
        form = SpelledNames::Form::flax;
        before = flat.substr(0, flat.size() - flax_table.size());
        spelling = "DeepMind";
      } else if (ends_at_part(plain, hf_table, '.')) {
        const std::string head = plain.substr(0, plain.size() - hf_table.size());
        const auto prefix = std::find_if(std::begin(hf_prefixes), std::end(hf_prefixes), [&](std::string_view p) {
          return head.ends_with(p) && (p.empty() || head.size() == p.size() || head[head.size() - p.size() - 1] == '.');
        });
        before = head.substr(0, head.size() - prefix->size());
        spelling = "Hugging Face";
      } else {
        const auto table = std::find_if(std::begin(torch_tables), std::end(torch_tables), [&](std::string_view t) { return ends_at_part(plain, t, '.'); });
        if (table == std::end(torch_tables)) continue;
        before = plain.substr(0, plain.size() - table->size());
        spelling = "gemma_pytorch";
      }
      if (!first.empty() && (before != before_ || spelling != names_.spelling))
        fail(Kind::file, "{}: holds two models, with the tables \"{}\" and \"{}\"; give a file of one", file_.path(), printable(first), printable(name));
      first = name;
      before_ = before;
      names_.form = form;
      names_.spelling = spelling;
    }
  }

  void place_torch(const std::string& name, const TensorInfo& info) {
    std::string plain = unwrapped(name);
    if (!plain.starts_with(before_)) {
      ++names_.aside;
      return;
    }
    plain.erase(0, before_.size());
    add(names_.spelling == "gemma_pytorch" ? from_gemma_pytorch(std::move(plain)) : std::move(plain), name, info);
  }

  // "stacked_layers/attention_type_2/attn/..": the kind, and what follows it from its slash on.
  static bool parse_stacked(std::string_view name, int64_t& kind, std::string_view& rest) {
    if (!name.starts_with(stacked)) return false;
    name.remove_prefix(stacked.size());
    const auto [end, failed] = std::from_chars(name.data(), name.data() + name.size(), kind);
    rest = name.substr(static_cast<size_t>(end - name.data()));
    return failed == std::errc() && kind >= 0 && kind < 512 && rest.starts_with('/');
  }

  // As many kinds of layers as the pattern of attention has: the largest number + 1.
  void find_pattern() {
    for (const auto& [name, info] : file_.tensors()) {
      const std::string flat = slashed(name);
      int64_t kind = 0;
      std::string_view rest;
      if (flat.starts_with(before_) && parse_stacked(std::string_view(flat).substr(before_.size()), kind, rest)) kinds_ = std::max(kinds_, kind + 1);
    }
    names_.spelling = kinds_ > 0                        ? "DeepMind, stacked"
                      : before_.ends_with("transformer/") ? "DeepMind, flat"
                      : before_.empty()                   ? "DeepMind, nested"
                                                          : "DeepMind, nested below " + before_.substr(0, before_.size() - 1);
  }

  void place_flax(const std::string& name, const TensorInfo& info) {
    std::string flat = slashed(name);
    if (!flat.starts_with(before_)) {
      // The image tower of flat files stands beside "transformer".
      if (is_flax_vision(flat)) add(flat, name, info);
      else ++names_.aside;
      return;
    }
    flat.erase(0, before_.size());
    // Nested trees have no leaf below the weights of the mlp.
    if (flat.ends_with("/mlp/gating_einsum") || flat.ends_with("/mlp/linear")) flat += "/w";
    int64_t kind = 0;
    std::string_view rest;
    if (!parse_stacked(flat, kind, rest)) return add("transformer/" + flat, name, info);
    if (info.shape.rank == 0) fail(Kind::file, "{}: \"{}\" has no axis of layers", file_.path(), printable(name));
    if (info.shape[0] > 512) fail(Kind::file, "{}: \"{}\": {} layers", file_.path(), printable(name), info.shape[0]);
    for (int64_t i = 0; i < info.shape[0]; ++i)
      add(fmt::format("transformer/layer_{}{}", i * kinds_ + kind, rest), name, entry_of(info, i));
  }

  const TensorFiles& file_;
  SpelledNames names_;
  std::string before_;
  int64_t kinds_ = 0;
};

}  // namespace

SpelledNames spelled_names(const TensorFiles& file) { return Speller(file).run(); }

bool is_flax_vision(std::string_view flat) {
  for (const std::string_view part : {"SigLiPFromPatches_0/", "vision_encoder/", "embedder/mm_input_projection", "embedder/mm_soft_embedding_norm"})
    if (flat.find(part) != flat.npos) return true;
  return false;
}

}  // namespace facet
