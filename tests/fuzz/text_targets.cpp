// Text that strangers write: configs, datasets, manifests of checkpoints, settings.
#include <cstring>
#include <filesystem>
#include <fstream>

#include "app/options.h"
#include "data/jsonl.h"
#include "data/prepared.h"
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

namespace {

// Prepared tokens of a data file that need not exist, as its owner would ask for them.
constexpr const char* prepared_for = "tokenizer 1\n";
std::string prepared_source() { return folder() / "data.jsonl"; }
std::string prepared_bytes() { return read_file(prepared_path(prepared_source())); }
Dataset read_prepared_bytes() {
  std::string why_not;
  auto d = read_prepared(prepared_source(), prepared_for, 512, why_not);
  if (!d) fail(Kind::file, "{}", why_not);
  for (int64_t i = 0; i < d->size(); ++i) {
    const auto [ids, mask, line] = (*d)[i];
    for (size_t k = 0; k < ids.size(); ++k) demand(ids[k] >= 0 && ids[k] < 512 && mask[k] <= 1, "prepared tokens hold what is none");
    if (d->task() == Task::prompt) demand(d->row(i).find('\n') == std::string::npos, "a prepared row is several lines");
  }
  return std::move(*d);
}

std::string prepared_of(Task task) {
  Dataset d(task, prepared_source());
  for (int64_t i = 0; i < 4; ++i) {
    Example e;
    for (int32_t id = 0; id < 3 + i; ++id) e.add(2 + id, id > 1);
    d.add(e, i + 1);
    if (task == Task::prompt) d.add_row("{\"prompt\":" + std::to_string(i) + "}");
  }
  write_prepared(d, prepared_for);
  return prepared_bytes();
}

// With the sum it should have. Damage that the sum tells of is tests/data/prepared_test.cpp's.
std::string with_prepared_sum(std::string bytes) {
  if (bytes.size() < 16) return bytes;
  const uint32_t sum = crc32c(bytes.data() + 16, bytes.size() - 16);
  std::memcpy(bytes.data() + 12, &sum, sizeof sum);
  return bytes;
}

}  // namespace

const Target prepared = {"prepared",
                         [](const std::string& bytes) {
                           std::ofstream(prepared_path(prepared_source()), std::ios::binary) << with_prepared_sum(bytes);
                           write_prepared(read_prepared_bytes(), prepared_for);
                           const std::string once = prepared_bytes();
                           write_prepared(read_prepared_bytes(), prepared_for);
                           demand(prepared_bytes() == once, "prepared tokens written again are others");
                         },
                         [] {
                           return std::vector<std::string>{prepared_of(Task::chat), prepared_of(Task::preference), prepared_of(Task::prompt), prepared_of(Task::document)};
                         }};

}  // namespace facet::fuzz
