// What is in any file of tensors that we read, or in a checkpoint of a run.
#include <nlohmann/json.hpp>

#include <filesystem>

#include "app/command.h"
#include "app/tensor_table.h"
#include "tensor/io/text.h"
#include "train/checkpoint.h"

namespace facet::app {
namespace {
namespace fs = std::filesystem;

struct Settings : Common {
  std::string file, match;
  bool all = false;
  void declare(Options& o) {
    o.add("file", &file, "safetensors, .index.json, .npz, .npy or PyTorch file; or a checkpoint's folder").metavar("FILE|DIR").positional().required();
    o.add("match", &match, "only tensors whose name holds this text").metavar("TEXT");
    o.add("all", &all, "every tensor on its own line instead of one line for equal layers");
  }
};

// A checkpoint's folder, or that of a run's checkpoints: then the newest is meant.
std::string checkpoint_of(const std::string& path) {
  if (fs::exists(fs::path(path) / "manifest.json")) return path;
  for (const std::string& folder : {path, path + "/checkpoints"})
    if (const auto newest = newest_in(folder)) return *newest;
  return {};
}

int run(Settings& s, Options&, Console& console) {
  const std::string checkpoint = fs::is_directory(s.file) ? checkpoint_of(s.file) : "";
  if (checkpoint.empty()) {
    const TensorFiles file(s.file);
    const TensorTable table{file, s.match, s.all};
    if (console.json()) console.line("{}", table.json().dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
    else console.line("{}: {}", file.path(), file.format()), table.print(console);
    return 0;
  }
  const FoundCheckpoint found = read_checkpoint(checkpoint);
  nlohmann::ordered_json out{{"path", found.path}, {"step", found.step}, {"state", found.state}};
  if (!console.json()) {
    console.line("{}: step {}, every checksum is right", found.path, found.step);
    for (const auto& [name, value] : found.state) console.line("  {:<28} {}", printable(name), printable(value));
  }
  for (const std::string& name : found.files) {
    const TensorFiles file(found.path + "/" + name + ".safetensors");
    const TensorTable table{file, s.match, s.all};
    if (console.json()) out["parts"][name] = table.json();
    else console.line("\n{}", file.path()), table.print(console);
  }
  if (console.json()) console.line("{}", out.dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
  return 0;
}

}  // namespace

Command inspect_file_command() {
  return command<Settings>("inspect file", "List what is in a file of tensors, or in a checkpoint: names, types, shapes, sizes, metadata",
                           "Of files the headers are read; of a checkpoint everything, since its checksums are verified.\n\n"
                           "  facet inspect file taps.npz\n"
                           "  facet inspect file runs/book/checkpoints/step-400 --match embed",
                           run);
}

}  // namespace facet::app
