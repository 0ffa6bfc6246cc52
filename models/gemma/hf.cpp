#include "models/gemma/hf.h"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <map>

#include "tensor/io/durable.h"
#include "tensor/io/text.h"

namespace facet {

namespace {

namespace fs = std::filesystem;

// Our names -> the file's, with what was set aside.
struct Found {
  std::map<std::string, std::string> decoder;
  std::string head;
  LoadReport report;
};

std::string more(size_t others) { return others == 0 ? "" : fmt::format("; {} more", others); }

// The number of layers the file's names speak of.
int64_t layers_in(const std::map<std::string, std::string>& decoder) {
  int64_t most = 0;
  for (const auto& [ours, theirs] : decoder) {
    int64_t i = -1;
    if (ours.starts_with("layers.")) std::from_chars(ours.data() + 7, ours.data() + ours.size(), i);
    most = std::max(most, i + 1);
  }
  return most;
}

Found find_weights(const Safetensors& file, const GemmaConfig& c) {
  Found found;
  std::vector<std::string> unknown;
  for (const auto& [name, info] : file.tensors()) {
    switch (role_of(name)) {
      case WeightRole::decoder: {
        const auto [at, fresh] = found.decoder.emplace(module_name(name), name);
        if (!fresh) fail(Kind::file, "{}: \"{}\" and \"{}\" are the same weight", file.path(), at->second, name);
        break;
      }
      case WeightRole::head:
        if (c.tied_head) found.head = name;
        else if (const auto [at, fresh] = found.decoder.emplace("lm_head.weight", name); !fresh)
          fail(Kind::file, "{}: \"{}\" and \"{}\" are the same weight", file.path(), at->second, name);
        break;
      case WeightRole::vision: ++found.report.vision_skipped; break;
      case WeightRole::buffer: ++found.report.buffers_skipped; break;
      case WeightRole::unknown: unknown.push_back(name);
    }
  }
  if (!unknown.empty())
    fail(Kind::file, "{}: \"{}\" is no weight of Gemma {}{}", file.path(), printable(unknown[0]), c.generation, more(unknown.size() - 1));
  if (const int64_t n = layers_in(found.decoder); n != c.layers)
    fail(Kind::file, "{}: config: {} layers, weights hold {}; wrong config.json?", file.path(), c.layers, n);

  std::vector<std::string> problems;
  auto expected = weights_of(c);
  const char* dtype = file.tensors().empty() ? "F32" : safetensors_dtype(stored_dtype(file));
  for (const WeightShape& w : expected) {
    const auto at = found.decoder.find(w.name);
    if (at == found.decoder.end()) {
      problems.push_back(fmt::format("missing \"{}\"; expected {} {}", hf_name(w.name), to_string(w.shape), dtype));
    } else if (const TensorInfo& info = file.info(at->second); !(info.shape == w.shape)) {
      problems.push_back(fmt::format("\"{}\": the config asks for {}, the file has {} {}", at->second, to_string(w.shape),
                                     to_string(info.shape), info.dtype));
    } else if (info.dtype != "F32" && info.dtype != "BF16" && info.dtype != "F64" && info.dtype != "F16") {
      problems.push_back(fmt::format("\"{}\" is {}; supported: F32 BF16 F16 F64", at->second, info.dtype));
    }
  }
  std::sort(expected.begin(), expected.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  for (const auto& [ours, theirs] : found.decoder) {
    const auto at = std::lower_bound(expected.begin(), expected.end(), ours, [](const auto& a, const auto& b) { return a.name < b; });
    if (at == expected.end() || at->name != ours)
      problems.push_back(fmt::format("\"{}\" is in the file, but this config has no such weight (Gemma {}?)", theirs, c.generation));
  }
  if (!problems.empty()) fail(Kind::file, "{}: model: {}{}", file.path(), problems[0], more(problems.size() - 1));

  if (!found.head.empty()) {
    const std::string& table = found.decoder.at("embed_tokens.weight");
    if (!file.same(found.head, table))
      fail(Kind::file, "{}: \"{}\" differs from \"{}\", but config.json ties them (tie_word_embeddings)", file.path(), found.head, table);
    found.report.has_head = true;
  }
  found.report.tensors = static_cast<int64_t>(expected.size());
  return found;
}

}  // namespace

DType stored_dtype(const Safetensors& file) {
  for (const auto& [name, info] : file.tensors())
    if (module_name(name) == "embed_tokens.weight") return info.dtype == "BF16" ? DType::bf16 : info.dtype == "F64" ? DType::f64 : DType::f32;
  return DType::f32;
}

LoadReport check_weights(const Safetensors& file, const GemmaConfig& c) { return find_weights(file, c).report; }

LoadReport load_hf(const std::string& path, const GemmaConfig& c, const NamedTensors& destinations) {
  const Safetensors file(path);
  const Found found = find_weights(file, c);
  if (destinations.size() != found.decoder.size())
    fail(Kind::usage, "load_hf: {} destinations for {} weights", destinations.size(), found.decoder.size());
  for (const auto& [name, tensor] : destinations) {
    const auto at = found.decoder.find(name);
    if (at == found.decoder.end()) fail(Kind::usage, "load_hf: this config has no weight \"{}\"", printable(name));
    file.load_into(at->second, tensor);
  }
  return found.report;
}

NamedTensors load_hf(const std::string& path, const GemmaConfig& c, LoadDType dtype) {
  const Safetensors file(path);
  const Found found = find_weights(file, c);
  NamedTensors list;
  for (const WeightShape& w : weights_of(c)) {
    const Tensor t = file.load(found.decoder.at(w.name));
    list.emplace_back(w.name, dtype == LoadDType::keep ? t : t.to(dtype == LoadDType::f32 ? DType::f32 : DType::bf16));
  }
  return list;
}

const std::vector<std::string>& tokenizer_files() {
  static const std::vector<std::string> names = {"tokenizer.model",         "tokenizer.json",    "tokenizer_config.json",
                                                 "special_tokens_map.json", "added_tokens.json", "chat_template.jinja"};
  return names;
}

std::vector<std::string> companion_files(const std::string& folder) {
  const auto holds_weights = [](const std::string& name) {
    const auto ends = [&](const char* end) { return name.ends_with(end); };
    const auto endings = {".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json", ".pt", ".pth", ".gguf"};
    return std::any_of(endings.begin(), endings.end(), ends);
  };
  std::vector<std::string> names;
  for (const fs::directory_entry& e : fs::directory_iterator(folder))
    if (const std::string name = e.path().filename().string(); e.is_regular_file() && name[0] != '.' && !holds_weights(name)) names.push_back(name);
  std::sort(names.begin(), names.end());
  return names;
}

void save_hf(const std::string& folder, const GemmaConfig& c, const NamedTensors& tensors, const SaveOptions& options) {
  std::map<std::string, Tensor> by_name;
  for (const auto& [name, tensor] : tensors) by_name[hf_name(name)] = tensor;
  std::vector<TensorSpec> specs;
  DType stored = DType::f32;
  for (const WeightShape& w : weights_of(c)) {
    const auto at = by_name.find(hf_name(w.name));
    if (at == by_name.end()) fail(Kind::usage, "save_hf: no tensor for \"{}\" {}", w.name, to_string(w.shape));
    if (!(at->second.shape() == w.shape))
      fail(Kind::usage, "save_hf: \"{}\": the config asks for {}, found {}", w.name, to_string(w.shape), to_string(at->second.shape()));
    if (specs.empty()) stored = at->second.dtype();
    specs.push_back({at->first, at->second.dtype(), w.shape});
  }
  if (specs.size() != tensors.size())
    fail(Kind::usage, "save_hf: {} tensors for the {} weights of this config", tensors.size(), specs.size());

  StagedFolder staged(folder);
  const auto at = [&](const std::string& name) { return (fs::path(staged.path()) / name).string(); };
  write_file_atomically(at("config.json"), hf_config_json(c, stored));
  write_file_atomically(at("generation_config.json"), generation_config_json(c, options.generation));
  if (!options.tokenizer_from.empty())
    for (const std::string& name : tokenizer_files()) {
      const fs::path source = fs::path(options.tokenizer_from) / name;
      std::error_code ignored;
      if (fs::exists(source, ignored)) write_file_atomically(at(name), read_file(source.string(), uint64_t{256} << 20));
    }
  save_sharded(staged.path(), "model", specs, [&](const std::string& name) { return by_name.at(name); }, {{"format", "pt"}},
               options.shard_bytes);
  if (options.more) options.more(staged.path());
  staged.commit(options.replace);
}

}  // namespace facet
