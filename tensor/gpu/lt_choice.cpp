#include "tensor/gpu/lt_choice.h"

#include <fmt/format.h>

#include <cctype>
#include <cstdlib>
#include <fstream>
#include <sstream>

#include "tensor/error.h"
#include "tensor/gpu/device_error.h"
#include "tensor/io/durable.h"

namespace facet::gpu {
namespace {

constexpr char magic[] = "facet cublaslt 1";
constexpr size_t most_bytes = size_t{16} << 20, most_workspace = size_t{1} << 32;

uint64_t checksum(std::string_view text) {
  uint64_t h = 1469598103934665603u;
  for (unsigned char c : text) h = (h ^ c) * 1099511628211u;
  return h;
}

}  // namespace

std::string lt_choices_path(const std::string& gpu, const std::string& version, const std::string& library) {
  std::string folder;
  if (const char* xdg = std::getenv("XDG_CACHE_HOME"); xdg && *xdg == '/') folder = xdg;
  else if (const char* home = std::getenv("HOME"); home && *home == '/') folder = std::string(home) + "/.cache";
  if (folder.empty()) return {};
  std::string name = gpu;
  for (char& c : name)
    if (!std::isalnum(static_cast<unsigned char>(c))) c = '-';
  return fmt::format("{}/facet/{}-{}-{}.txt", folder, library, name, version);
}

LtChoices::LtChoices(std::string path) : path_(std::move(path)) {
  try {
    if (!path_.empty()) map_ = read(path_);
  } catch (const Error& e) {
    warn(fmt::format("{}; products are measured anew", e.what()));
  }
}

const LtChoice* LtChoices::find(const LtKey& key) const {
  const auto it = map_.find(key);
  return it == map_.end() ? nullptr : &it->second;
}

void LtChoices::add(const LtKey& key, const LtChoice& choice) {
  map_[key] = choice;
  if (++unsaved_ >= 16) save();
}

// One line a choice: the key, then the algorithm in hexadecimal, workspace, seconds. The last line is the checksum of all before it.
LtChoices::Map LtChoices::read(const std::string& path) {
  Map map;
  std::ifstream in(path, std::ios::binary);
  if (!in) return map;
  std::string text(most_bytes + 1, 0);
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(in.gcount()));
  auto broken = [&](const char* why) { fail(Kind::file, "{}: {}", path, why); };
  if (text.size() > most_bytes) broken("is too large for a table of algorithms");
  const size_t last = text.rfind("end ");
  if (last == std::string::npos || (last > 0 && text[last - 1] != '\n')) broken("is cut off");
  if (text.substr(last) != fmt::format("end {:016x}\n", checksum(std::string_view(text).substr(0, last)))) broken("has a wrong checksum");
  std::istringstream lines(text.substr(0, last));
  std::string line;
  if (!std::getline(lines, line) || line != magic) broken("is not a table of algorithms of this version");
  while (std::getline(lines, line)) {
    std::istringstream words(line);
    LtKey key;
    LtChoice c;
    for (int64_t& x : key.v) words >> x;
    words >> std::hex;
    for (uint64_t& x : c.algorithm) words >> x;
    words >> std::dec >> c.workspace_bytes >> c.seconds;
    if (!words || c.workspace_bytes > most_workspace) broken("has a line that is no choice");
    map[key] = c;
  }
  return map;
}

void LtChoices::save() {
  if (path_.empty() || unsaved_ == 0) return;
  unsaved_ = 0;
  try {
    Map all;
    try {
      all = read(path_);
    } catch (const Error&) {  // whoever reads it first has warned
    }
    for (const auto& [key, choice] : map_) all[key] = choice;
    std::string text = fmt::format("{}\n", magic);
    for (const auto& [key, c] : all) {
      for (int64_t x : key.v) text += fmt::format("{} ", x);
      for (uint64_t x : c.algorithm) text += fmt::format("{:x} ", x);
      text += fmt::format("{} {:.4g}\n", c.workspace_bytes, c.seconds);
    }
    text += fmt::format("end {:016x}\n", checksum(text));
    make_folders(path_.substr(0, path_.rfind('/')));
    write_file_atomically(path_, text);
  } catch (const Error& e) {
    warn(fmt::format("measured products are not stored: {}", e.what()));
  }
}

}  // namespace facet::gpu
