// Text that strangers write: configs, datasets, manifests of checkpoints, settings.
#include <filesystem>
#include <fstream>

#include "app/options.h"
#include "data/jsonl.h"
#include "models/gemma/hf_config.h"
#include "tensor/io/crc32c.h"
#include "tensor/io/durable.h"
#include "tensor/io/json.h"
#include "tensor/io/safetensors.h"
#include "tests/fuzz/target.h"
#include "tests/support/temp_folder.h"
#include "train/checkpoint.h"

namespace facet::fuzz {

namespace {

const test::TempFolder& folder() {
  static const test::TempFolder one;
  return one;
}

std::string golden(const char* name) { return read_file(std::string(FACET_GOLDENS) + "/" + name); }

// A good checkpoint, and its manifest as it was written.
struct Checkpoint {
  std::string path = folder() / "checkpoints", manifest;
  Checkpoint() {
    make_folders(path);
    Snapshot s;
    s.files["model"] = {{"w", Tensor::arange(3, DType::f32)}};
    s.state = {{"cursor", "7"}};
    save_checkpoint(path, 1, s, 2);
    manifest = read_file(path + "/step-1/manifest.json");
  }
};
const Checkpoint& checkpoint() {
  static const Checkpoint one;
  return one;
}

// A manifest with the sum it should have, which a fuzzer cannot guess.
std::string with_sum(const std::string& bytes) {
  try {
    Json j = parse_json(bytes, "manifest");
    if (!j.is_object()) return bytes;
    j.erase("crc32c");
    const std::string body = j.dump();
    j["crc32c"] = fmt::format("{:08x}", crc32c(body.data(), body.size()));
    return j.dump();
  } catch (const std::exception&) {
    return bytes;
  }
}

}  // namespace

const Target config = {"config",
                       [](const std::string& bytes) {
                         const GemmaConfig c = parse_hf_config(bytes, "config.json");
                         const std::string text = hf_config_json(c, DType::bf16);
                         demand(hf_config_json(parse_hf_config(text, "again"), DType::bf16) == text, "a written config reads as another");
                       },
                       [] {
                         std::vector<std::string> list;
                         for (const char* name : {"gemma3-tiny", "gemma3-rope8", "gemma2-tiny", "gemma1-tiny", "siglip-tiny"})
                           list.push_back(golden((std::string(name) + "/config.json").c_str()));
                         return list;
                       }};

const Target jsonl = {"jsonl",
                      [](const std::string& bytes) {
                        LineReader lines(file_of(bytes));
                        std::string line;
                        while (lines.next(line)) {
                          const Json j = parse_json(line, lines.where(), Kind::data, {.place = "column"});
                          demand(parse_json(j.dump(), "again") == j, "a written line reads as another");
                        }
                      },
                      [] {
                        return std::vector<std::string>{
                            "{\"messages\":[{\"role\":\"user\",\"content\":\"hi \\u00e9\\ud83d\\ude00\"},{\"role\":\"assistant\",\"content\":\"x\"}]}\n",
                            "\xef\xbb\xbf{\"prompt\":\"a\",\"completion\":\"b\"}\r\n\n{\"text\":[1,-2.5e3,true,null,{}]}"};
                      }};

const Target manifest = {"manifest",
                         [](const std::string& bytes) {
                           const std::string& path = checkpoint().path;
                           std::ofstream(path + "/step-1/manifest.json", std::ios::binary) << with_sum(bytes);
                           std::string said;
                           const auto found = newest_checkpoint(path, [&](const std::string& note) { said = note; });
                           if (!found) fail(Kind::file, "no checkpoint: {}", said);
                           for (const auto& [name, tensor] : read_tensors(*found, "model")) demand(name == "w", "a checkpoint holds what was never saved");
                         },
                         [] { return std::vector<std::string>{checkpoint().manifest}; }};

const Target yaml = {"yaml",
                     [](const std::string& bytes) {
                       const auto once = app::read_config(file_of(bytes)), twice = app::read_config(file_of(bytes, 1));
                       demand(once.size() == twice.size(), "a config reads as two");
                       for (size_t i = 0; i < once.size(); ++i) demand(once[i].key == twice[i].key && once[i].values == twice[i].values, "a config reads as two");
                     },
                     [] {
                       return std::vector<std::string>{"lr: 1e-3\ntrain:\n  batch: 8  # rows\n  stop: [a, \"b c\", 'd']\nmodel: {sliding_window: 9}\n", "---\nset:\n  model.x: ~\n...\n"};
                     }};

}  // namespace facet::fuzz
