#include "app/tensor_table.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cctype>

#include "tensor/io/durable.h"
#include "tensor/io/text.h"

namespace facet::app {
namespace {

// Tensors that differ in the layer number only share a row.
struct Row {
  std::string name;  // "model.layers.*.mlp.up_proj.weight"
  std::string dtype;
  Shape shape;
  int64_t first = -1, last = -1, count = 0;
  uint64_t bytes = 0;

  std::string shown() const {
    const size_t star = name.find('*');
    if (star == std::string::npos) return name;
    const std::string numbers = count == 1 ? std::to_string(first) : fmt::format("{{{}-{}}}", first, last);
    return name.substr(0, star) + numbers + name.substr(star + 1);
  }
};

// "a.12.b" to "a.*.b" and 12; names without a number between dots stay.
std::string without_number(const std::string& name, int64_t& number) {
  for (size_t at = name.find('.'); at != std::string::npos; at = name.find('.', at + 1)) {
    size_t end = at + 1;
    while (end < name.size() && std::isdigit(static_cast<unsigned char>(name[end]))) ++end;
    if (end == at + 1 || end - at > 7 || end == name.size() || name[end] != '.') continue;
    number = std::stoll(name.substr(at + 1, end - at - 1));
    return name.substr(0, at + 1) + "*" + name.substr(end);
  }
  return name;
}

std::vector<Row> rows_of(const TensorTable& s) {
  std::vector<Row> rows;
  std::map<std::string, size_t> known;
  for (const auto& [name, info] : s.file.tensors()) {
    if (name.find(s.match) == std::string::npos) continue;
    int64_t number = -1;
    const std::string general = s.all ? name : without_number(name, number);
    const auto [it, is_new] = known.try_emplace(general + "\n" + info.dtype + to_string(info.shape), rows.size());
    if (is_new) rows.push_back({general, info.dtype, info.shape, number, number, 0, 0});
    Row& r = rows[it->second];
    r.first = std::min(r.first, number);
    r.last = std::max(r.last, number);
    ++r.count;
    r.bytes += info.bytes;
  }
  return rows;
}

struct Sums {
  int64_t count = 0;
  uint64_t values = 0, bytes = 0;
  std::map<std::string, uint64_t> by_dtype;

  explicit Sums(const TensorTable& t) {
    for (const auto& [name, info] : t.file.tensors()) {
      if (name.find(t.match) == std::string::npos) continue;
      ++count;
      values += static_cast<uint64_t>(info.shape.numel());
      bytes += info.bytes;
      by_dtype[info.dtype] += info.bytes;
    }
  }
};

}  // namespace

nlohmann::ordered_json TensorTable::json() const {
  const Sums sums(*this);
  nlohmann::ordered_json out{{"path", file.path()}, {"format", file.format()}, {"files", file.files()}, {"tensors", sums.count}, {"values", sums.values}, {"bytes", sums.bytes}};
  out["metadata"] = file.metadata();
  for (const auto& [name, info] : file.tensors())
    if (name.find(match) != std::string::npos)
      out["list"].push_back({{"name", name}, {"dtype", info.dtype}, {"shape", std::vector<int64_t>(info.shape.begin(), info.shape.end())},
                             {"file", info.file}, {"begin", info.begin}, {"bytes", info.bytes}});
  return out;
}

void TensorTable::print(Console& console) const {
  const Sums sums(*this);
  const std::vector<Row> rows = rows_of(*this);
  size_t width = 8;
  for (const Row& r : rows) width = std::max(width, printable(r.shown()).size());
  for (const Row& r : rows)
    console.line("{:<{}}  {:<5} {:<18} {:>7} {:>10}", printable(r.shown()), width, r.dtype, to_string(r.shape),
                 r.count > 1 ? fmt::format("x {}", r.count) : "", human_bytes(r.bytes));
  std::string types;
  for (const auto& [dtype, n] : sums.by_dtype) types += fmt::format("{}{} {}", types.empty() ? "" : ", ", dtype, human_bytes(n));
  console.line("{} tensors, {} values, {} ({}) in {} file{}", grouped(static_cast<uint64_t>(sums.count)), grouped(sums.values),
               human_bytes(sums.bytes), types, file.files().size(), file.files().size() == 1 ? "" : "s");
  for (const auto& [key, value] : file.metadata()) console.line("metadata {}: {}", printable(key), printable(value));
}

}  // namespace facet::app
