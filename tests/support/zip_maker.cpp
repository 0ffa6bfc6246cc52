#include "tests/support/zip_maker.h"

#include <zlib.h>

namespace facet::test {

std::string little(uint64_t value, int bytes) {
  std::string s;
  for (int i = 0; i < bytes; ++i) s += static_cast<char>(value >> 8 * i);
  return s;
}

namespace {
uint32_t crc_of(const std::string& data) {
  return static_cast<uint32_t>(crc32_z(0, reinterpret_cast<const Bytef*>(data.data()), data.size()));
}
}  // namespace

ZipEntry stored(const std::string& name, const std::string& data) {
  return {.name = name, .data = data, .size = data.size(), .crc = crc_of(data)};
}

ZipEntry deflated(const std::string& name, const std::string& data) {
  z_stream s{};
  deflateInit2(&s, Z_BEST_COMPRESSION, Z_DEFLATED, -MAX_WBITS, 8, Z_DEFAULT_STRATEGY);
  std::string packed(deflateBound(&s, data.size()), '\0');
  s.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(data.data()));
  s.avail_in = static_cast<uInt>(data.size());
  s.next_out = reinterpret_cast<Bytef*>(packed.data());
  s.avail_out = static_cast<uInt>(packed.size());
  deflate(&s, Z_FINISH);
  packed.resize(packed.size() - s.avail_out);
  deflateEnd(&s);
  return {.name = name, .data = packed, .size = data.size(), .crc = crc_of(data), .method = 8};
}

std::string zip_of(const std::vector<ZipEntry>& entries) {
  std::string file, directory;
  for (const ZipEntry& e : entries) {
    const auto at = static_cast<int64_t>(file.size()) + e.shift;
    file += "PK\3\4" + little(20, 2) + little(e.local_flags, 2) + little(e.local_method, 2) + little(0, 4) + little(e.local_crc, 4) +
            little(e.data.size() + (e.local_size - e.size), 4) + little(e.local_size, 4) + little(e.local_name.size(), 2) + little(e.extra.size(), 2) +
            e.local_name + e.extra + e.data + e.after;
    directory += "PK\1\2" + little(20, 2) + little(20, 2) + little(e.flags, 2) + little(e.method, 2) + little(0, 4) + little(e.crc, 4) +
                 little(e.data.size(), 4) + little(e.size, 4) + little(e.name.size(), 2) + std::string(8, '\0') +
                 little(e.attributes, 4) + little(static_cast<uint64_t>(at), 4) + e.name;
  }
  return file + directory + "PK\5\6" + little(0, 4) + little(entries.size(), 2) + little(entries.size(), 2) + little(directory.size(), 4) +
         little(file.size(), 4) + little(0, 2);
}

namespace pickle {

std::string text(const std::string& s) { return "X" + little(s.size(), 4) + s; }
std::string integer(int64_t v) {
  return v >= 0 && v < 256 ? "K" + little(static_cast<uint64_t>(v), 1) : std::string("\x8a\x08") + little(static_cast<uint64_t>(v), 8);
}
std::string global(const std::string& module, const std::string& name) { return "c" + module + "\n" + name + "\n"; }
std::string tuple(const std::vector<std::string>& items) {
  std::string s = "(";
  for (const std::string& i : items) s += i;
  return s + "t";
}
std::string dict(const std::vector<std::pair<std::string, std::string>>& items) {
  std::string s = "}(";
  for (const auto& [key, value] : items) s += text(key) + value;
  return s + "u";
}
std::string tensor(const std::string& type, const std::string& key, int64_t elements, int64_t offset, const std::vector<int64_t>& size,
                   const std::vector<int64_t>& stride) {
  const auto integers = [](const std::vector<int64_t>& list) {
    std::vector<std::string> items;
    for (int64_t v : list) items.push_back(integer(v));
    return tuple(items);
  };
  const std::string storage = tuple({text("storage"), global("torch", type), text(key), text("cpu"), integer(elements)}) + "Q";
  const std::string hooks = global("collections", "OrderedDict") + ")R";
  return global("torch._utils", "_rebuild_tensor_v2") + tuple({storage, integer(offset), integers(size), integers(stride), "\x89", hooks}) + "R";
}
std::string program(const std::string& value) { return "\x80\x02" + value + "."; }

}  // namespace pickle

std::string torch_of(const std::string& pickle, const std::vector<std::string>& storages) {
  std::vector<ZipEntry> entries = {stored("model/data.pkl", pickle), stored("model/byteorder", "little")};
  for (size_t i = 0; i < storages.size(); ++i) entries.push_back(stored("model/data/" + std::to_string(i), storages[i]));
  entries.push_back(stored("model/version", "3\n"));
  return zip_of(entries);
}

std::string torch_of(const std::map<std::string, Tensor>& tensors, const std::string& below) {
  std::vector<std::pair<std::string, std::string>> items;
  std::vector<std::string> storages;
  for (const auto& [name, t] : tensors) {
    const Tensor x = t.to(DType::f32).dense();
    const Shape stride = dense_strides(x.shape());
    items.emplace_back(name, pickle::tensor("FloatStorage", std::to_string(storages.size()), x.numel(), 0, {x.shape().begin(), x.shape().end()},
                                            {stride.begin(), stride.end()}));
    storages.emplace_back(reinterpret_cast<const char*>(x.data<float>().data()), static_cast<size_t>(x.numel()) * 4);
  }
  std::string value = pickle::dict(items);
  if (!below.empty()) {
    const std::string moment = pickle::tensor("FloatStorage", "0", static_cast<int64_t>(storages[0].size() / 4), 0, {2}, {1});
    value = pickle::dict({{below, value}, {"step", pickle::integer(3)}, {"optimizer", moment}});
  }
  return torch_of(pickle::program(value), storages);
}

}  // namespace facet::test
