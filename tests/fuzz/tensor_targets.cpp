// Files of tensors: safetensors and index, NumPy's, PyTorch's.
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "tensor/io/npy.h"
#include "tensor/io/safetensors.h"
#include "tests/fuzz/target.h"
#include "tests/support/temp_folder.h"
#include "tests/support/zip_maker.h"

namespace facet::fuzz {

namespace {

using test::deflated;
using test::stored;
using test::torch_of;
using test::zip_of;

const test::TempFolder& folder() {
  static const test::TempFolder one;
  return one;
}

std::string content_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// Values of types that are loaded as they are stored, which are those that can be written again.
std::vector<std::pair<std::string, Tensor>> values_of(const TensorFiles& file) {
  std::vector<std::pair<std::string, Tensor>> list;
  for (const auto& [name, info] : file.tensors()) {
    file.bytes(name);
    try {
      const Tensor t = file.load(name);
      if (info.dtype == safetensors_dtype(t.dtype()) && !name.empty() && name != "__metadata__") list.emplace_back(name, t);
    } catch (const Error&) {  // a type, or a value, that no tensor of ours takes
    }
  }
  return list;
}

void read_tensors(const std::string& path) {
  const TensorFiles file(path);
  const auto values = values_of(file);
  // Written and read again, in both formats that we write.
  const std::string st = folder() / "again.safetensors", npz = folder() / "again.npz";
  save_safetensors(st, values);
  std::vector<TensorSpec> specs;
  for (const auto& [name, t] : values) specs.push_back({name, t.dtype(), t.shape()});
  std::map<std::string, Tensor> by_name(values.begin(), values.end());
  save_npz(npz, specs, [&](const std::string& name) { return by_name.at(name); });
  for (const std::string& again : {st, npz}) {
    const TensorFiles second(again);
    demand(second.tensors().size() == values.size(), "written tensors are missing");
    for (const auto& [name, t] : values) {
      const auto a = second.bytes(name);
      const Tensor d = t.dense();
      demand(second.info(name).shape == t.shape() && second.info(name).dtype == safetensors_dtype(t.dtype()), "a written tensor has another shape or type");
      demand(a.size() == static_cast<size_t>(t.numel() * size_of(t.dtype())) && (a.empty() || std::memcmp(a.data(), d.view().data, a.size()) == 0),
             "a written tensor has other bytes");
    }
  }
}

std::vector<std::pair<std::string, Tensor>> example() {
  return {{"a", Tensor::arange(6, DType::f32).reshape({2, 3})}, {"b.c", Tensor::arange(3, DType::bf16)}, {"i", Tensor::arange(2, DType::i32)}};
}

std::string safetensors_example() {
  save_safetensors(folder() / "seed.safetensors", example(), {{"format", "pt"}});
  return content_of(folder() / "seed.safetensors");
}

std::string npy_of(const std::string& descr, const std::string& shape, const std::string& data, const char* fortran = "False") {
  std::string dict = "{'descr': '" + descr + "', 'fortran_order': " + fortran + ", 'shape': " + shape + ", }\n";
  return "\x93NUMPY" + test::little(1, 2) + test::little(dict.size(), 2) + dict + data;
}

std::string state_dict() {
  using namespace test::pickle;
  return program(dict({{"state_dict", dict({{"w", tensor("FloatStorage", "0", 6, 0, {2, 3}, {3, 1})}, {"t", tensor("FloatStorage", "0", 6, 0, {3, 2}, {1, 3})}})},
                       {"step", integer(3)}, {"b", tensor("BFloat16Storage", "1", 3, 1, {2}, {1})}}));
}
const std::vector<std::string>& storages() {
  static const std::vector<std::string> two = {std::string(24, 'd'), std::string(6, 'e')};
  return two;
}

}  // namespace

const Target safetensors = {
    "safetensors",
    [](const std::string& bytes) {
      if (bytes.empty() || bytes[0] != '{') return read_tensors(file_of(bytes));
      // An index over a good shard.
      static const bool made = (folder().write("s", safetensors_example()), true);
      (void)made;
      read_tensors(folder().write("i.json", bytes));
    },
    [] {
      return std::vector<std::string>{safetensors_example(), test::little(2, 8) + "{}", R"({"metadata":{"total_size":38},"weight_map":{"a":"s","b.c":"s","i":"s"}})"};
    }};

const Target npy = {
    "npy",
    [](const std::string& bytes) {
      read_tensors(file_of(bytes));
      // The same bytes as members of an archive, whose checksums a fuzzer cannot guess.
      if (!bytes.starts_with("PK")) read_tensors(file_of(zip_of({stored("x.npy", bytes), deflated("y/z.npy", bytes)})));
    },
    [] {
      const std::string a = npy_of("<f4", "(2, 3)", std::string(24, 'd')), b = npy_of("<V2", "(3,)", "abcdef"), c = npy_of("<i8", "(1, 2)", std::string(16, '\1'), "True");
      return std::vector<std::string>{a, b, c, zip_of({stored("a.npy", a), deflated("b.npy", b), stored("c/d.npy", c)})};
    }};

const Target torch = {"torch", [](const std::string& bytes) { read_tensors(file_of(bytes)); },
                      [] { return std::vector<std::string>{torch_of(state_dict(), storages())}; }};

const Target pickle = {"pickle", [](const std::string& bytes) { read_tensors(file_of(torch_of(bytes, storages()))); },
                       [] {
                         using namespace test::pickle;
                         return std::vector<std::string>{state_dict(), program(tensor("FloatStorage", "0", 6, 0, {6}, {1})),
                                                         program(global("collections", "OrderedDict") + ")R(" + text("w") + tensor("FloatStorage", "0", 6, 5, {}, {}) +
                                                                 "u}" + text("_metadata") + "Nsb")};
                       }};

}  // namespace facet::fuzz
