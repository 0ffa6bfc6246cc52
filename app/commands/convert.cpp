// One model folder to another: dtype and shards change, everything else travels along.
#include <nlohmann/json.hpp>

#include <algorithm>
#include <charconv>
#include <filesystem>

#include "app/command.h"
#include "models/gemma/hf.h"
#include "tensor/io/durable.h"
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
  std::string model, out, shard_size = "5GB";
  void declare(Options& o) {
    o.add("model", &model, "folder with config.json and .safetensors files, or one .safetensors file").metavar("IN").positional().required();
    o.add("out", &out, "folder to make; must not hold anything yet").metavar("OUT").positional().required();
    o.add("shard-size", &shard_size, "largest file, e.g. 500MB").metavar("SIZE").alias({"max-shard-size"}).check(
        [](const std::string& v) { return parse_bytes(v) ? "" : "is no size such as 500MB or 5GB"; });
  }
};

// Types without a counterpart here are widened; F16 weights become f32 unless asked otherwise.
DType stored_dtype(const std::string& name, const TensorInfo& info) {
  if (info.dtype == "F32" || info.dtype == "F16") return DType::f32;
  if (info.dtype == "BF16") return DType::bf16;
  if (info.dtype == "F64") return DType::f64;
  if (info.dtype == "I32" || info.dtype == "I64") return DType::i32;
  fail(Kind::file, "tensor \"{}\" is {}; supported: F32 F16 BF16 F64 I32 I64", printable(name), printable(info.dtype));
}

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

int run(Settings& s, Options&, Console& console) {
  if (std::error_code error; fs::exists(s.out, error) && !fs::is_empty(s.out, error))
    fail(Kind::usage, "--out {}: exists and is not empty; choose another or remove it first", s.out);
  const Safetensors from(s.model);
  const std::map<std::string, DType> wanted{{"f32", DType::f32}, {"bf16", DType::bf16}, {"f64", DType::f64}};
  const auto target = wanted.find(s.dtype);

  std::vector<std::pair<std::pair<uint32_t, uint64_t>, TensorSpec>> placed;  // in the order of the source files
  uint64_t bytes = 0;
  bool changed = false;
  for (const auto& [name, info] : from.tensors()) {
    DType dtype = stored_dtype(name, info);
    if (dtype != DType::i32 && target != wanted.end()) dtype = target->second;
    changed = changed || safetensors_dtype(dtype) != info.dtype;
    bytes += static_cast<uint64_t>(info.shape.numel() * size_of(dtype));
    placed.push_back({{info.file, info.begin}, {name, dtype, info.shape}});
  }
  std::sort(placed.begin(), placed.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<TensorSpec> specs;
  for (auto& [unused, spec] : placed) specs.push_back(std::move(spec));

  const fs::path parent = fs::absolute(s.out).lexically_normal().parent_path();
  make_folders(parent.string());
  check_free_space(s.out, parent.string(), bytes);
  StagedFolder folder(s.out);
  std::map<std::string, DType> dtype_of_name;
  for (const TensorSpec& t : specs) dtype_of_name[t.name] = t.dtype;
  int64_t done = 0;
  const auto source = [&](const std::string& name) {
    console.progress("convert", ++done, static_cast<int64_t>(specs.size()));
    return from.load(name).to(dtype_of_name.at(name));
  };
  save_sharded(folder.path(), "model", specs, source, from.metadata(), parse_bytes(s.shard_size));

  if (fs::is_directory(s.model))
    for (const std::string& name : companion_files(s.model)) {
      const std::string path = s.model + "/" + name;
      const bool rewrite = changed && target != wanted.end() && name == "config.json";
      const std::map<std::string, std::string> spelled{{"f32", "float32"}, {"bf16", "bfloat16"}, {"f64", "float64"}};
      write_file_atomically(folder.path() + "/" + name,
                            rewrite ? with_dtype(path, spelled.at(s.dtype)) : read_file(path, uint64_t{1} << 30));
      console.detail("{}{}", name, rewrite ? " (dtype)" : "");
    }
  folder.commit();
  console.note("{}: {} tensors, {}{}", s.out, specs.size(), human_bytes(bytes), changed ? "" : ", values unchanged");
  return 0;
}

}  // namespace

Command convert_command() {
  return command<Settings>("convert", "Copy a model folder with another dtype or other shards",
                           "--dtype auto keeps every value as it is (F16, which nothing here computes in, becomes f32).\n\n"
                           "  facet convert gemma-3-270m-it small --dtype bf16 --shard-size 500MB",
                           run);
}

}  // namespace facet::app
