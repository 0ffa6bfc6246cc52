#include "train/checkpoint.h"

#include <algorithm>
#include <charconv>
#include <filesystem>

#include "tensor/io/crc32c.h"
#include "tensor/io/durable.h"
#include "tensor/io/file.h"
#include "tensor/io/json.h"
#include "tensor/io/safetensors.h"
#include "tensor/kernels/copy.h"

namespace facet {
namespace fs = std::filesystem;
namespace {

constexpr int format_version = 1;
constexpr const char* manifest_name = "manifest.json";

uint32_t sum_of(const Tensor& t) {
  return crc32c(t.view().data, static_cast<size_t>(t.numel() * size_of(t.dtype())));
}

std::string sum_text(uint32_t crc) { return fmt::format("{:08x}", crc); }

// The manifest without its own sum, as the bytes that the sum covers.
std::string body_of(Json manifest) {
  manifest.erase("crc32c");
  return manifest.dump();
}

// The step of a folder "step-N", or -1.
int64_t step_of(const fs::path& path) {
  const std::string name = path.filename().string();
  int64_t step = -1;
  if (name.rfind("step-", 0) != 0) return -1;
  const auto [end, error] = std::from_chars(name.data() + 5, name.data() + name.size(), step);
  return error == std::errc{} && end == name.data() + name.size() ? step : -1;
}

std::vector<std::pair<int64_t, std::string>> list_newest_first(const std::string& folder) {
  std::vector<std::pair<int64_t, std::string>> list;
  std::error_code error;
  for (fs::directory_iterator i(folder, error), end; !error && i != end; i.increment(error))
    if (const int64_t step = step_of(i->path()); step >= 0) list.emplace_back(step, i->path().string());
  std::sort(list.rbegin(), list.rend());
  return list;
}

FoundCheckpoint verify(const std::string& path, int64_t step) {
  const std::string name = path + "/" + manifest_name;
  const Json manifest = read_json(name);
  FoundCheckpoint found{path, step, {}};
  try {
    if (manifest.at("crc32c") != sum_text(crc32c(body_of(manifest).data(), body_of(manifest).size())))
      fail(Kind::file, "{}: its checksum differs", name);
    if (manifest.at("format") != format_version)
      fail(Kind::file, "{}: format {}, this build reads {}", name, manifest.at("format").dump(), format_version);
    if (manifest.at("step") != step) fail(Kind::file, "{}: says step {}", name, manifest.at("step").dump());
    for (const char* part : {"files", "state"})
      if (!manifest.at(part).is_object()) fail(Kind::file, "{}: not a manifest: \"{}\" is {}", name, part, manifest.at(part).type_name());
    for (const auto& [file, tensors] : manifest.at("files").items()) {
      found.files.insert(file);
      const Safetensors data(path + "/" + file + ".safetensors");
      if (data.tensors().size() != tensors.size())
        fail(Kind::file, "{}: {} tensors, the manifest lists {}", data.path(), data.tensors().size(), tensors.size());
      for (const auto& [tensor, sum] : tensors.items())
        if (sum_text(sum_of(data.load(tensor))) != sum) fail(Kind::file, "CRC of \"{}\" in {} differs", tensor, data.path());
    }
    for (const auto& [key, value] : manifest.at("state").items()) found.state[key] = value.get<std::string>();
  } catch (const Json::exception& e) {
    fail(Kind::file, "{}: not a manifest: {}", name, e.what());
  }
  return found;
}

Safetensors open_file(const FoundCheckpoint& found, const std::string& file) {
  if (!found.files.count(file)) fail(Kind::file, "{}/{}: lists no {}.safetensors", found.path, manifest_name, file);
  return Safetensors(found.path + "/" + file + ".safetensors");
}

}  // namespace

std::string save_checkpoint(const std::string& folder, int64_t step, const Snapshot& snapshot, int keep) {
  const std::string target = fmt::format("{}/step-{}", folder, step);
  uint64_t bytes = 0;
  for (const auto& [file, tensors] : snapshot.files)
    for (const auto& [name, t] : tensors) bytes += static_cast<uint64_t>(t.numel() * size_of(t.dtype()));
  check_free_space("checkpoint", folder, bytes);

  Json manifest = {{"format", format_version}, {"step", step}, {"state", Json::object()}, {"files", Json::object()}};
  for (const auto& [key, value] : snapshot.state) manifest["state"][key] = value;
  StagedFolder staged(target);
  for (const auto& [file, tensors] : snapshot.files) {
    const TensorSums sums = save_safetensors(staged.path() + "/" + file + ".safetensors", tensors);
    Json& list = manifest["files"][file] = Json::object();
    for (const auto& [name, sum] : sums) list[name] = sum_text(sum);
  }
  const std::string body = manifest.dump();
  manifest["crc32c"] = sum_text(crc32c(body.data(), body.size()));
  write_file_atomically(staged.path() + "/" + manifest_name, manifest.dump(1) + "\n");
  staged.commit(true);
  settle_checkpoints(folder, step, keep);
  return target;
}

void settle_checkpoints(const std::string& folder, int64_t step, int keep) {
  const std::string latest = folder + "/LATEST", name = fmt::format("step-{}\n", step);
  if (!fs::exists(latest) || read_file(latest) != name) write_file_atomically(latest, name);
  int kept = 0;
  for (const auto& [other, path] : list_newest_first(folder))
    if (other > step || ++kept > std::max(1, keep)) remove_durably(path);
}

FoundCheckpoint read_checkpoint(const std::string& path) {
  const fs::path folder = fs::path(path).has_filename() ? fs::path(path) : fs::path(path).parent_path();  // "step-4/" is "step-4"
  const int64_t step = step_of(folder);
  if (step < 0) fail(Kind::file, "{}: a checkpoint's folder is called step-N", path);
  return verify(folder.string(), step);
}

std::optional<std::string> newest_in(const std::string& folder) {
  const auto list = list_newest_first(folder);
  return list.empty() ? std::nullopt : std::optional(list.front().second);
}

std::optional<FoundCheckpoint> newest_checkpoint(const std::string& folder, const Note& note, int64_t at_most) {
  std::string broken;
  for (const auto& [step, path] : list_newest_first(folder)) {
    if (step > at_most) continue;
    try {
      FoundCheckpoint found = verify(path, step);
      if (!broken.empty() && note) note(fmt::format("{}; using step-{}", broken, step));
      return found;
    } catch (const Error& e) {
      if (e.kind() != Kind::file) throw;
      broken += fmt::format("{}step-{}: {}", broken.empty() ? "" : "; ", step, e.what());
    }
  }
  if (!broken.empty()) fail(Kind::file, "{}: no checkpoint verifies: {}", folder, broken);
  return std::nullopt;
}

void restore_tensors(const FoundCheckpoint& found, const std::string& file, const Snapshot::Tensors& into) {
  const Safetensors data = open_file(found, file);
  if (data.tensors().size() != into.size())
    fail(Kind::file, "{}: holds {} tensors, this model has {}; another model or adapter?", data.path(), data.tensors().size(), into.size());
  for (const auto& [name, t] : into) {
    const Tensor read = data.load(name);
    if (!(read.shape() == t.shape()) || read.dtype() != t.dtype())
      fail(Kind::file, "{}: \"{}\" is {}{}, this run expects {}{}", data.path(), name, name_of(read.dtype()), to_string(read.shape()),
           name_of(t.dtype()), to_string(t.shape()));
    t.set(read);
  }
}

Snapshot::Tensors read_tensors(const FoundCheckpoint& found, const std::string& file) {
  const Safetensors data = open_file(found, file);
  Snapshot::Tensors list;
  for (const auto& [name, info] : data.tensors()) list.emplace_back(name, data.load(name));
  return list;
}

void clean_checkpoints(const std::string& folder) { remove_leftovers(folder); }

}  // namespace facet
