#include "models/gemma/weights.h"

#include <fnmatch.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <set>

#include "models/gemma/hf_config.h"
#include "models/gemma/spelling.h"
#include "tensor/io/text.h"

namespace facet {

namespace {

namespace fs = std::filesystem;

std::string more(size_t others) { return others == 0 ? "" : fmt::format("; {} more", others); }

// The number of layers that names speak of, each with its number behind `before`.
template <class Places>
int64_t layers_in(const Places& places, std::string_view before) {
  int64_t most = 0;
  for (const auto& [name, place] : places) {
    int64_t i = -1;
    if (std::string_view(name).starts_with(before)) std::from_chars(name.data() + before.size(), name.data() + name.size(), i);
    most = std::max(most, i + 1);
  }
  return most;
}

class Finder {
 public:
  Finder(const TensorFiles& file, const GemmaConfig& c) : file_(file), c_(c), names_(spelled_names(file)) {
    map_.report.spelling = names_.spelling;
    map_.report.buffers_skipped = names_.aside;
  }

  WeightMap run() {
    const bool flax = names_.form == SpelledNames::Form::flax;
    flax ? find_in_tree() : find_by_name();
    for (const std::string& name : unknown_) map_.problems.push_back(fmt::format("\"{}\" is no weight of Gemma {}", printable(name), c_.generation));
    const int64_t layers = flax ? layers_in(names_.places, "transformer/layer_") : layers_in(map_.places, "layers.");
    if (layers != c_.layers) map_.problems.push_back(fmt::format("config: {} layers, weights hold {}; wrong config.json?", c_.layers, layers));
    flax ? check_tree() : check_shapes();
    if (map_.problems.empty()) check_head();
    map_.report.tensors = static_cast<int64_t>(weights_of(c_).size());
    return std::move(map_);
  }

 private:
  void place(const std::string& ours, const WeightPlace& p) {
    const auto [at, fresh] = map_.places.emplace(ours, p);
    if (!fresh) fail(Kind::file, "{}: \"{}\" and \"{}\" are the same weight", file_.path(), at->second.name, p.name);
  }

  void find_by_name() {
    for (const auto& [name, p] : names_.places) {
      if (name.ends_with(".self_attn.qkv_proj.weight")) {
        split(name, p);
        continue;
      }
      switch (role_of(name)) {
        case WeightRole::decoder: place(module_name(name), p); break;
        case WeightRole::head:
          if (c_.tied_head) map_.head = p.name;
          else place("lm_head.weight", p);
          break;
        case WeightRole::vision: ++map_.report.vision_skipped; break;
        case WeightRole::buffer: ++map_.report.buffers_skipped; break;
        case WeightRole::unknown: unknown_.push_back(p.name);
      }
    }
  }
  // gemma_pytorch's rows of q, then k, then v.
  void split(const std::string& name, const WeightPlace& p) {
    const int64_t q = c_.heads * c_.head_dim, kv = c_.kv_heads * c_.head_dim;
    if (!(p.info.shape == Shape{q + 2 * kv, c_.width})) {
      map_.problems.push_back(fmt::format("\"{}\": the config asks for {}, the file has {} {}", p.name, to_string(Shape{q + 2 * kv, c_.width}),
                                          to_string(p.info.shape), p.info.dtype));
      return;
    }
    const std::string before = module_name(name.substr(0, name.rfind("qkv_proj")));
    const std::pair<const char*, int64_t> parts[] = {{"q_proj.weight", q}, {"k_proj.weight", kv}, {"v_proj.weight", kv}};
    int64_t row = 0;
    for (const auto& [part, rows] : parts) {
      place(before + part, {p.name, rows_of(p.info, row, row + rows), Axes::same});
      row += rows;
    }
  }

  void check_shapes() {
    std::set<std::string_view> expected;
    const auto weights = weights_of(c_);
    const char* dtype = file_.tensors().empty() ? "F32" : safetensors_dtype(stored_dtype(file_));
    for (const WeightShape& w : weights) {
      expected.insert(w.name);
      const auto at = map_.places.find(w.name);
      if (at == map_.places.end())
        map_.problems.push_back(fmt::format("model: missing \"{}\"; expected {} {}", hf_name(w.name), to_string(w.shape), dtype));
      else if (const WeightPlace& p = at->second; !(p.info.shape == w.shape))
        map_.problems.push_back(fmt::format("model: \"{}\": the config asks for {}, the file has {} {}", p.name, to_string(w.shape),
                                            to_string(p.info.shape), p.info.dtype));
      else check_dtype(p);
    }
    for (const auto& [ours, p] : map_.places)
      if (!expected.count(ours))
        map_.problems.push_back(fmt::format("model: \"{}\" is in the file, but this config has no such weight (Gemma {}?)", p.name, c_.generation));
  }
  void check_dtype(const WeightPlace& p) {
    const std::string& d = p.info.dtype;
    if (d != "F32" && d != "BF16" && d != "F64" && d != "F16")
      map_.problems.push_back(fmt::format("model: \"{}\" is {}; supported: F32 BF16 F16 F64", p.name, d));
  }

  void find_in_tree() {
    const auto lookup = [&](const std::string& flat) -> const WeightPlace* {
      const auto at = names_.places.find(flat);
      if (at == names_.places.end()) return nullptr;
      used_.insert(at->first);
      return &at->second;
    };
    for (const WeightShape& w : weights_of(c_)) {
      WeightPlace p;
      if (const std::string problem = find_flax(c_, w.name, lookup, p); !problem.empty()) tree_problems_.push_back("model: " + problem);
      else place(w.name, p);
    }
    for (const auto& [flat, p] : names_.places) {
      if (used_.count(flat)) continue;
      if (is_flax_vision(flat)) ++map_.report.vision_skipped;
      else if (!flat.starts_with("transformer/layer_")) unknown_.push_back(p.name);
      else extra_.push_back(p.name);
    }
  }
  void check_tree() {
    map_.problems.insert(map_.problems.end(), tree_problems_.begin(), tree_problems_.end());
    for (const auto& [ours, p] : map_.places) check_dtype(p);
    for (const std::string& name : extra_)
      map_.problems.push_back(fmt::format("model: \"{}\" is in the file, but this config has no such weight (Gemma {}?)", name, c_.generation));
  }

  void check_head() {
    if (map_.head.empty()) return;
    const std::string& table = map_.places.at("embed_tokens.weight").name;
    if (!file_.same(map_.head, table))
      map_.problems.push_back(fmt::format("\"{}\" differs from \"{}\", but config.json ties them (tie_word_embeddings)", map_.head, table));
    map_.report.has_head = true;
  }

  const TensorFiles& file_;
  const GemmaConfig& c_;
  SpelledNames names_;
  WeightMap map_;
  std::set<std::string> used_;
  std::vector<std::string> unknown_, extra_, tree_problems_;
};

void load_place(const TensorFiles& file, const WeightPlace& p, const GemmaConfig& c, const Tensor& to) {
  file.load_into(p.info, p.name, window_on(to, p.axes, c));
}

DType dtype_in(const TensorInfo& info) { return info.dtype == "BF16" ? DType::bf16 : info.dtype == "F64" ? DType::f64 : DType::f32; }

}  // namespace

TensorFiles open_weights(const std::string& path) {
  std::error_code ignored;
  const fs::path folder(path);
  if (!fs::exists(folder / "config.json", ignored))
    for (const char* other : {"adapter_config.json", "final"})  // an adapter, a run: read_hf_config says what it is and what to do
      if (fs::exists(folder / other, ignored)) read_hf_config(path);
  return TensorFiles(path);
}

WeightMap find_weights(const TensorFiles& file, const GemmaConfig& c) { return Finder(file, c).run(); }

DType stored_dtype(const TensorFiles& file) {
  const SpelledNames names = spelled_names(file);
  for (const auto& [name, p] : names.places)
    if (module_name(name) == "embed_tokens.weight" || name == "transformer/embedder/input_embedding") return dtype_in(p.info);
  return DType::f32;
}

WeightMap check_weights(const TensorFiles& file, const GemmaConfig& c) {
  WeightMap map = find_weights(file, c);
  if (!map.problems.empty()) fail(Kind::file, "{}: {}{}", file.path(), map.problems[0], more(map.problems.size() - 1));
  return map;
}

GemmaConfig read_config(const std::string& path, const TensorFiles& file) {
  std::error_code ignored;
  const fs::path folder = fs::is_directory(path, ignored) ? fs::path(path) : fs::path(path).parent_path();
  if (fs::exists(folder / "config.json", ignored)) return read_hf_config(folder.empty() ? "." : folder.string());
  for (const std::string& name : preset_names())
    if (find_weights(file, preset(name)).problems.empty()) return preset(name);
  if (!fs::is_directory(path, ignored))
    fail(Kind::file, "{}: no config.json beside it, and its weights have the shapes of no released size; put the model's config.json there "
         "(facet init --out DIR --preset NAME --set model.KEY=VALUE writes one)", path);
  return read_hf_config(folder.empty() ? "." : folder.string());  // which says what is missing
}

LoadReport load_weights(const TensorFiles& file, const WeightMap& map, const GemmaConfig& c, const NamedTensors& destinations) {
  if (destinations.size() != map.places.size())
    fail(Kind::usage, "load_weights: {} destinations for {} weights", destinations.size(), map.places.size());
  for (const auto& [name, tensor] : destinations) {
    const auto at = map.places.find(name);
    if (at == map.places.end()) fail(Kind::usage, "load_weights: this config has no weight \"{}\"", printable(name));
    load_place(file, at->second, c, tensor);
  }
  return map.report;
}

LoadReport load_weights(const std::string& path, const GemmaConfig& c, const NamedTensors& destinations) {
  const TensorFiles file = open_weights(path);
  return load_weights(file, check_weights(file, c), c, destinations);
}

NamedTensors load_weights(const std::string& path, const GemmaConfig& c, LoadDType dtype) {
  const TensorFiles file = open_weights(path);
  const WeightMap map = check_weights(file, c);
  NamedTensors list;
  for (const WeightShape& w : weights_of(c)) {
    const Tensor t = load_weight(file, map.places.at(w.name), w, c);
    list.emplace_back(w.name, dtype == LoadDType::keep ? t : t.to(dtype == LoadDType::f32 ? DType::f32 : DType::bf16));
  }
  return list;
}

Tensor load_weight(const TensorFiles& file, const WeightPlace& p, const WeightShape& w, const GemmaConfig& c) {
  const Tensor t = Tensor::empty(w.shape, dtype_in(p.info));
  load_place(file, p, c, t);
  return t;
}

Restored restore_weights(const TensorFiles& file, const GemmaConfig& c, const NamedTensors& destinations, const std::vector<std::string>& patterns) {
  const WeightMap map = find_weights(file, c);
  const auto wanted = [&](const std::string& name) {
    return std::any_of(patterns.begin(), patterns.end(), [&](const std::string& p) { return ::fnmatch(p.c_str(), name.c_str(), 0) == 0; });
  };
  Restored r;
  std::set<std::string> read;
  for (const auto& [name, tensor] : destinations) {
    if (!wanted(name)) continue;
    const auto at = map.places.find(name);
    if (at == map.places.end()) {
      r.missing.push_back(name);
    } else if (const Tensor window = window_on(tensor, at->second.axes, c); !(window.shape() == at->second.info.shape)) {
      r.missing.push_back(fmt::format("{}: {} here, {} there", name, to_string(window.shape()), to_string(at->second.info.shape)));
    } else {
      load_place(file, at->second, c, tensor);
      read.insert(at->second.name);
      r.loaded.push_back(name);
    }
  }
  for (const auto& [name, info] : file.tensors())
    if (!read.count(name)) r.skipped.push_back(printable(name));
  return r;
}

}  // namespace facet
