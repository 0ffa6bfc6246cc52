// Weights of any format and spelling to a folder as Hugging Face lays it out, or to NumPy's .npz. From one such folder to another only
// dtype and shards change, everything else travels along.
#include <nlohmann/json.hpp>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <optional>

#include "app/command.h"
#include "models/gemma/hf.h"
#include "models/gemma/spelling.h"
#include "tensor/io/durable.h"
#include "tensor/io/npy.h"
#include "tensor/io/safetensors.h"
#include "tensor/io/text.h"

namespace facet::app {
namespace {

namespace fs = std::filesystem;

// "5GB", "500 MB", "1048576"; 0 when it is no size.
uint64_t parse_bytes(const std::string& text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  std::string unit(end, text.data() + text.size());
  std::erase(unit, ' ');
  for (char& c : unit) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  const std::map<std::string, double> factors{{"", 1}, {"B", 1}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}};
  const auto factor = factors.find(unit);
  if (error != std::errc() || factor == factors.end() || !(value * factor->second >= 1) || value * factor->second > 1e15) return 0;
  return static_cast<uint64_t>(value * factor->second);
}

struct Settings : Common {
  std::string model, out, shard_size = "5GB", to = "hf";
  bool text_only = false;
  void declare(Options& o) {
    o.add("model", &model, "model folder or file of weights: safetensors, PyTorch (.pt, .bin, .ckpt), NumPy (.npz)").metavar("IN").positional().required();
    o.add("out", &out, "folder to make; must not hold anything yet").metavar("OUT").positional().required();
    o.add("to", &to, "hf: safetensors under Hugging Face's names; npz: one NumPy file with the same names").choices({"hf", "npz"});
    o.add("text-only", &text_only, "leave the image tower and its projector behind");
    o.add("shard-size", &shard_size, "largest file, e.g. 500MB").metavar("SIZE").alias({"max-shard-size"}).check(
        [](const std::string& v) { return parse_bytes(v) ? "" : "is no size such as 500MB or 5GB"; });
  }
};

// Types without a counterpart here are widened; F16 weights become f32 unless asked otherwise.
DType stored_dtype(const WeightPlace& p) {
  const std::string& d = p.info.dtype;
  if (d == "F32" || d == "F16") return DType::f32;
  if (d == "BF16") return DType::bf16;
  if (d == "F64") return DType::f64;
  if (d == "I32" || d == "I64") return DType::i32;
  fail(Kind::file, "tensor \"{}\" is {}; supported: F32 F16 BF16 F64 I32 I64", printable(p.name), printable(d));
}

// What is written: a name of the new folder, where its tensor lies, and the shape it will have.
struct Item {
  std::string name;
  WeightPlace place;
  Shape shape;
};

// Everything in the file under Hugging Face's names where these are its names already; else the model's weights by the config.
struct Plan {
  std::vector<Item> items;
  std::optional<GemmaConfig> config;  // read where names and shapes needed one
  std::string spelling;
  int64_t aside;  // tensors of a trainer

  Plan(const TensorFiles& from, const std::string& path, bool text_only) {
    const SpelledNames names = spelled_names(from);
    spelling = names.spelling;
    aside = names.aside;
    if (spelling == "Hugging Face" && !text_only) {
      for (const auto& [name, p] : names.places) items.push_back({name, p, p.info.shape});
    } else {
      config = read_config(path, from);
      const WeightMap map = check_weights(from, *config);
      for (const WeightShape& w : weights_of(*config)) items.push_back({hf_name(w.name), map.places.at(w.name), w.shape});
    }
    if (spelling == "Hugging Face")  // in the order of the source files
      std::stable_sort(items.begin(), items.end(), [](const Item& a, const Item& b) {
        return std::pair(a.place.info.file, a.place.info.begin) < std::pair(b.place.info.file, b.place.info.begin);
      });
  }
};

// config.json with the new dtype under the key it has (older files: torch_dtype).
std::string with_dtype(const std::string& path, const std::string& dtype) {
  auto json = nlohmann::ordered_json::parse(read_file(path), nullptr, false);
  if (json.is_discarded() || !json.is_object()) fail(Kind::file, "{}: not a JSON object", path);
  const auto set = [&](auto& object) {
    for (const char* key : {"dtype", "torch_dtype"})
      if (object.contains(key)) object[key] = dtype;
  };
  set(json);
  for (const char* part : {"text_config", "vision_config"})
    if (json.contains(part) && json[part].is_object()) set(json[part]);
  return json.dump(2) + "\n";
}

// The files beside the weights: of a folder all of them, of a file those that belong to a model.
std::vector<std::string> companions(const std::string& path, std::string& folder) {
  if (fs::is_directory(path)) return folder = path, companion_files(path);
  folder = fs::absolute(path).parent_path().string();
  std::vector<std::string> names;
  for (const std::string& name : companion_files(folder))
    if (const auto& known = tokenizer_files(); name == "config.json" || name == "generation_config.json" || std::count(known.begin(), known.end(), name))
      names.push_back(name);
  return names;
}

int run(Settings& s, Options&, Console& console) {
  if (std::error_code error; fs::exists(s.out, error) && !fs::is_empty(s.out, error))
    fail(Kind::usage, "--out {}: exists and is not empty; choose another or remove it first", s.out);
  const TensorFiles from = open_weights(s.model);
  const Plan plan(from, s.model, s.text_only);
  const std::map<std::string, DType> wanted{{"f32", DType::f32}, {"bf16", DType::bf16}, {"f64", DType::f64}};
  const auto target = wanted.find(s.dtype);

  std::vector<TensorSpec> specs;
  std::map<std::string, const Item*> items;
  bool changed = false;
  for (const Item& item : plan.items) {
    DType dtype = stored_dtype(item.place);
    if (dtype != DType::i32 && target != wanted.end()) dtype = target->second;
    changed = changed || safetensors_dtype(dtype) != item.place.info.dtype;
    specs.push_back({item.name, dtype, item.shape});
    items[item.name] = &item;
  }
  const uint64_t bytes = bytes_of(specs);

  const fs::path parent = fs::absolute(s.out).lexically_normal().parent_path();
  make_folders(parent.string());
  check_free_space(s.out, parent.string(), bytes);
  StagedFolder folder(s.out);
  std::map<std::string, DType> dtype_of_name;
  for (const TensorSpec& t : specs) dtype_of_name[t.name] = t.dtype;
  int64_t done = 0;
  const auto source = [&](const std::string& name) {
    console.progress("convert", ++done, static_cast<int64_t>(specs.size()));
    const Item& item = *items.at(name);
    const Tensor t = Tensor::empty(item.shape, dtype_of_name.at(name));
    from.load_into(item.place.info, item.place.name, plan.config ? window_on(t, item.place.axes, *plan.config) : t);
    return t;
  };
  Metadata metadata = from.metadata();
  if (plan.config || from.format() != std::string_view("safetensors"))
    metadata.insert({{"format", "pt"}, {"facet.source", fmt::format("{}, {}, {}", fs::path(s.model).filename().string(), from.format(), plan.spelling)}});
  if (s.to == "npz") save_npz(folder.path() + "/model.npz", specs, source);
  else save_sharded(folder.path(), "model", specs, source, metadata, parse_bytes(s.shard_size));

  std::string beside;
  bool has_config = false;
  for (const std::string& name : companions(s.model, beside)) {
    has_config = has_config || name == "config.json";
    if (name == "config.json" && s.text_only) continue;  // of the text alone, below
    const std::string path = beside + "/" + name;
    const bool rewrite = changed && target != wanted.end() && name == "config.json";
    const std::map<std::string, std::string> spelled{{"f32", "float32"}, {"bf16", "bfloat16"}, {"f64", "float64"}};
    write_file_atomically(folder.path() + "/" + name,
                          rewrite ? with_dtype(path, spelled.at(s.dtype)) : read_file(path, uint64_t{1} << 30));
    console.detail("{}{}", name, rewrite ? " (dtype)" : "");
  }
  if (plan.config && (s.text_only || !has_config))
    write_file_atomically(folder.path() + "/config.json", hf_config_json(*plan.config, dtype_of_name.at(hf_name("embed_tokens.weight"))));
  folder.commit();
  if (plan.aside > 0) console.note("{} tensors that are a trainer's, not the model's, were left behind", plan.aside);
  console.note("{}: {} tensors, {}{}{}", s.out, specs.size(), human_bytes(bytes), changed ? "" : ", values unchanged",
               plan.spelling == "Hugging Face" ? "" : fmt::format(", from {}'s names", plan.spelling));
  return 0;
}

}  // namespace

Command convert_command() {
  return command<Settings>("convert", "Make a model folder of weights in any format, with another dtype or other shards",
                           "Reads Hugging Face's folders, PyTorch's files (no code in them is run), and DeepMind's trees and others as\n"
                           ".safetensors or .npz; tools/export_orbax.py makes such a file of an Orbax checkpoint.\n"
                           "--dtype auto keeps every value as it is (F16, which nothing here computes in, becomes f32).\n\n"
                           "  facet convert gemma-3-270m-it small --dtype bf16 --shard-size 500MB\n"
                           "  facet convert model.ckpt folder\n"
                           "  facet convert gemma-3-4b-it text --text-only",
                           run);
}

}  // namespace facet::app
