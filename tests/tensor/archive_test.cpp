// Zip archives and NumPy's files: what NumPy wrote, what we write, and what was broken on purpose.
#include <catch2/catch.hpp>
#include <cmath>

#include "tensor/io/file.h"
#include "tensor/io/npy.h"
#include "tensor/io/text.h"
#include "tests/support/goldens.h"
#include "tests/support/temp_folder.h"
#include "tests/support/zip_maker.h"
#include "tests/tensor/says.h"

using namespace facet;
using namespace facet::test;
using Catch::Matchers::Contains;

namespace {

std::string npy(const std::string& dict, const std::string& data, int version = 1) {
  return "\x93NUMPY" + little(static_cast<uint64_t>(version), 2) + little(dict.size(), version == 1 ? 2 : 4) + dict + data;
}
std::string array(const std::string& descr, const std::string& shape, const std::string& data) {
  return npy("{'descr': '" + descr + "', 'fortran_order': False, 'shape': " + shape + ", }\n", data);
}

}  // namespace

TEST_CASE("npz: what NumPy wrote, packed or not", "[io]") {
  for (const char* file : {"files/arrays.npz", "files/packed.npz"}) {
    INFO(file);
    const TensorFiles f(golden_path(file));
    CHECK(std::string(f.format()) == "npz");
    REQUIRE(f.tensors().size() == 7);
    CHECK(f.load("a").to_vector() == std::vector<double>{0, 1, 2, 3, 4, 5});
    CHECK(f.load("columns").to_vector() == std::vector<double>{0, 1, 2, 3, 4, 5});
    CHECK(f.load("columns").shape() == Shape{2, 3});
    CHECK(f.load("tree/half").to_vector() == std::vector<double>{1, -2, 65504});
    CHECK(f.load("tree/long").to_vector() == std::vector<double>{0, 1, 2, 3});
    CHECK(f.load("bf16").dtype() == DType::bf16);
    CHECK(f.load("bf16").to_vector() == std::vector<double>{1, 1, 1});
    CHECK(f.load("scalar").item() == 0.5);
    CHECK(f.load("empty").shape() == Shape{0, 3});
    CHECK(f.same("a", "columns"));
  }
  const TensorFiles one(golden_path("files/columns.npy"));
  CHECK(std::string(one.format()) == "npy");
  const Tensor wide = Tensor::empty({2, 3}, DType::f64);
  one.load_into("array", wide);
  CHECK(wide.to_vector() == std::vector<double>{0, 1, 2, 3, 4, 5});
}

TEST_CASE("npz: what is written is read again", "[io]") {
  const TempFolder t;
  std::vector<TensorSpec> specs;
  std::map<std::string, Tensor> values;
  int64_t n = 0;
  for (const DType d : {DType::f32, DType::bf16, DType::f64, DType::i32})
    for (const Shape& s : {Shape{}, Shape{5}, Shape{0, 2}, Shape{2, 3, 4}}) {
      const std::string name = fmt::format("layer_{}/w", n++);
      values[name] = Tensor::arange(s.numel(), d).reshape(s);
      specs.push_back({name, d, s});
    }
  save_npz(t / "a.npz", specs, [&](const std::string& name) { return values.at(name); });
  const TensorFiles f(t / "a.npz");
  REQUIRE(f.tensors().size() == specs.size());
  for (const TensorSpec& s : specs) {
    INFO(s.name);
    CHECK(f.load(s.name).dtype() == s.dtype);
    CHECK(f.load(s.name).shape() == s.shape);
    CHECK(f.load(s.name).to_vector() == values.at(s.name).to_vector());
  }
  save_npy(t / "b.npy", values.at("layer_3/w").transpose(0, 2));
  CHECK(TensorFiles(t / "b.npy").load("array").to_vector() == values.at("layer_3/w").transpose(0, 2).to_vector());
  CHECK_THROWS_WITH(save_npz(t / "c.npz", {specs[0], specs[0]}, [&](const std::string& name) { return values.at(name); }), Contains("two tensors are called"));
}

TEST_CASE("tensor files: parts of the first axis", "[io]") {
  const TensorFiles f(golden_path("files/arrays.npz"));
  for (const char* name : {"a", "columns"}) {
    INFO(name);
    CHECK(f.load(rows_of(f.info(name), 1, 2), name).to_vector() == std::vector<double>{3, 4, 5});
    CHECK(f.load(entry_of(f.info(name), 1), name).shape() == Shape{3});
    CHECK(f.load(rows_of(f.info(name), 2, 2), name).numel() == 0);
    CHECK_THROWS_WITH(rows_of(f.info(name), 1, 3), Contains("rows 1 to 3"));
  }
  // A destination of any strides, converted in pieces of 4 MiB.
  const TempFolder t;
  const Tensor x = Tensor::arange(3 * 700'000, DType::f32).reshape({3, 700, 1000});
  save_npy(t / "x.npy", x);
  const Tensor to = Tensor::zeros({1000, 700, 3}, DType::f64);
  TensorFiles(t / "x.npy").load_into("array", to.transpose(0, 2));
  CHECK(to.transpose(0, 2).to_vector() == x.to_vector());
}

TEST_CASE("npy: broken headers are refused by name", "[io]") {
  const TempFolder t;
  const std::string data(24, 'd'), good = array("<f4", "(2, 3)", data);
  REQUIRE(says(t.write("good.npy", good)) == "");
  REQUIRE(says(t.write("good.npy", npy("{'shape':(6,),\"descr\":\"<f4\",'fortran_order':True}", data, 2))) == "");
  const std::pair<std::string, const char*> cases[] = {
      {array("<f4", "(2, 3)", data + "x"), "needs 24 bytes, 25 follow"},
      {array("<f4", "(2, 3)", data.substr(1)), "needs 24 bytes, 23 follow"},
      {array(">f4", "(2, 3)", data), "big-endian"},
      {array("|O", "(3,)", data), "Python objects"},
      {array("O", "(3,)", data), "Python objects"},
      {array("<U6", "()", data), "is not read"},
      {array("<M8", "(3,)", data), "is not read"},
      {array("<f3", "(8,)", data), "is not read"},
      {array("", "(6,)", data), "is not read"},
      {array("<f4", "(-6,)", data), "whole numbers"},
      {array("<f4", "(6.0,)", data), "expected ')'"},
      {array("<f4", "(x,)", data), "whole numbers"},
      {array("<f4", "6", data), "expected '('"},
      {array("<f4", "(2, 3", data), "whole numbers"},
      {array("<f4", "(2 3)", data), "expected ')'"},
      {array("<f4", "(1,1,1,1,1,1,1,1,6)", data), "more than 8 dimensions"},
      {array("<f4", "(4611686018427387904,)", data), "overflows"},
      {array("<f4", "(4294967296,4294967296)", data), "overflows"},
      {array("<f4", "(0,4294967296,4294967296)", ""), "overflows"},
      {array("<f4", "(99999999999999999999,)", data), "whole numbers"},
      {npy("{'descr': '<f4', 'fortran_order': 1, 'shape': (6,)}", data), "True or False"},
      {npy("{'descr': '<f4', 'fortran_order': False}", data), "are needed"},
      {npy("{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (6,)}", data), "stands twice"},
      {npy("{'descr': '<f4', 'fortran_order': False, 'shape': (6,), 'x': 1}", data), "unknown key 'x'"},
      {npy("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (6,)}", data), "expected '''"},
      {npy("{'descr': '<f4, 'fortran_order': False}", data), "is not read"},
      {npy("{'descr", data), "a string without end"},
      {npy("{'descr' '<f4'}", data), "expected ':'"},
      {npy("{'descr': '<f4', 'fortran_order': False, 'shape': (6,)} x", data), "the end of the header"},
      {npy("", data), "expected '{'"},
      {npy("__import__('os').system('x')", data), "expected '{'"},
      {npy(good.substr(10, good.size() - 34), data, 4), "format 4.0"},
      {npy(good.substr(10, good.size() - 34), data, 256 + 1), "format 1.1"},
      {"\x93NUMPY" + little(1, 2) + little(60000, 2) + "{}", "exceeds the array"},
      {"\x93NUMPY" + little(2, 2) + little(0xffffffff, 4) + "{}", "exceeds 1,048,576"},
      {"\x93NUMPY", "at least 12"},
      {"\x93NUMPX" + std::string(20, ' '), "header length"},
  };
  for (const auto& [bytes, words] : cases) {
    INFO(printable(bytes.substr(0, 120)));
    CHECK_THAT(says(t.write("broken.npy", bytes)), Contains(words));
    if (bytes.starts_with("\x93NUMPY") && bytes.size() > 12) CHECK_THAT(says(t.write("broken.npz", zip_of({stored("x.npy", bytes)}))), Contains(words));
  }
  for (size_t n = 0; n < good.size(); ++n) CHECK(says(t.write("cut.npy", good.substr(0, n))) != "");
}

TEST_CASE("zip: broken archives are refused by name", "[io]") {
  const TempFolder t;
  const std::string a = array("<f4", "(6,)", std::string(24, 'd')), b = array("<i4", "(2,)", "12345678");
  const ZipEntry x = stored("x.npy", a), y = stored("y.npy", b), packed = deflated("p.npy", a);
  const auto with = [](ZipEntry e, const std::function<void(ZipEntry&)>& change) {
    change(e);
    return e;
  };
  const std::string descriptor = "PK\7\10" + little(x.crc, 4) + little(x.size, 4) + little(x.size, 4);
  const auto streamed = [&](const std::string& after) {
    return with(x, [&](ZipEntry& e) { e.flags = e.local_flags = 8, e.local_crc = 0, e.after = after; });
  };
  // As some writers do: sizes unknown when the header was written.
  std::string stream = zip_of({streamed(descriptor), y});
  for (size_t i = 18; i < 26; ++i) stream[i] = 0;
  const std::string good = zip_of({x, packed, y}), end = good.substr(good.size() - 22);
  REQUIRE(says(t.write("good.npz", good)) == "");
  REQUIRE(says(t.write("stream.npz", stream)) == "");
  REQUIRE(says(t.write("empty.npz", zip_of({}))) == "");
  const auto patched = [&](size_t at, const std::string& bytes) { return std::string(good).replace(at, bytes.size(), bytes); };
  const size_t last = good.size() - 22;
  // With the records of archives beyond 4 GiB in front of the end record.
  const auto wide = [&](uint64_t record_at, uint64_t record_bytes, uint64_t entries) {
    const std::string none = little(0, 8);
    return good.substr(0, last) + "PK\6\6" + little(record_bytes, 8) + little(45, 2) + little(45, 2) + none + little(entries, 8) + little(entries, 8) +
           end.substr(12, 4) + none.substr(4) + end.substr(16, 4) + none.substr(4) + "PK\6\7" + little(0, 4) + little(record_at, 8) + little(1, 4) + end;
  };
  REQUIRE(says(t.write("wide.npz", wide(last, 44, 3))) == "");
  const std::pair<std::string, const char*> cases[] = {
      {wide(last + 1, 44, 3), "the zip64 record is said to be at byte"},
      {wide(last, 45, 3), "not the zip64 record the archive announces"},
      {wide(last, 44, 2), "the two end records differ"},
      {good + "x", "expected the end record"},
      {"x" + good, ""},
      {good.substr(0, last) + "PK\5\6" + little(1, 2) + end.substr(6), "several disks"},
      {good.substr(0, last) + "PK\5\6" + little(0, 2) + little(1, 2) + end.substr(8), "several disks"},
      {patched(last + 8, little(2, 2)), "several disks"},
      {patched(last + 8, little(2, 2) + little(2, 2)), "bytes behind the directory's entries"},
      {patched(last + 8, little(4, 2) + little(4, 2)), "remain (truncated?)"},
      {patched(last + 12, little(1, 4)), "does not end where"},
      {patched(last + 16, little(1, 4)), "does not end where"},
      {patched(last + 16, little(0xffffffff, 4)), "does not end where"},
      {patched(last + 20, little(1, 2)), "a comment"},
      {zip_of({x, x}), "two members are called \"x.npy\""},
      {zip_of({with(x, [](ZipEntry& e) { e.flags = e.local_flags = 1; })}), "is encrypted"},
      {zip_of({with(x, [](ZipEntry& e) { e.flags = e.local_flags = 1 << 6; })}), "flags 0x40"},
      {zip_of({with(x, [](ZipEntry& e) { e.flags = 8; })}), "differ"},
      {zip_of({with(x, [](ZipEntry& e) { e.method = e.local_method = 12; })}), "compression 12"},
      {zip_of({with(x, [](ZipEntry& e) { e.method = 8; })}), "differ"},
      {zip_of({with(x, [](ZipEntry& e) { e.local_method = 8; })}), "differ"},
      {zip_of({with(x, [](ZipEntry& e) { e.local_name = "y.npy"; })}), "differ"},
      {zip_of({with(x, [](ZipEntry& e) { e.local_crc ^= 1; })}), "differ"},
      {zip_of({with(x, [](ZipEntry& e) { e.local_size += 1; })}), "differ"},
      {zip_of({with(x, [](ZipEntry& e) { e.crc ^= 1, e.local_crc ^= 1; })}), "the file is damaged"},
      {zip_of({with(packed, [](ZipEntry& e) { e.crc ^= 1, e.local_crc ^= 1; })}), "the file is damaged"},
      {zip_of({with(x, [](ZipEntry& e) { e.size += 1, e.local_size += 1; })}), "is not packed, yet"},
      {zip_of({with(x, [](ZipEntry& e) { e.attributes = 0x10; })}), "\"x.npy\" is marked as a folder, yet has"},
      {zip_of({with(packed, [](ZipEntry& e) { e.name = e.local_name = "x.npy/"; })}), "is marked as a folder, yet has"},
      {zip_of({with(x, [](ZipEntry& e) { e.shift = 1; })}), "bytes before the first member"},
      {zip_of({x, with(y, [](ZipEntry& e) { e.shift = 1; })}), "belong to nothing"},
      {zip_of({x, with(y, [](ZipEntry& e) { e.shift = -1; })}), "reach into"},
      {zip_of({x, with(y, [&](ZipEntry& e) { e.shift = -static_cast<int64_t>(zip_of({x}).size()) + 22 + 51; })}), "reach into"},
      {zip_of({with(x, [](ZipEntry& e) { e.shift = 1 << 30; })}), "bytes before the first member"},
      {zip_of({with(x, [](ZipEntry& e) { e.after = "hidden"; }), y}), "belong to nothing"},
      {zip_of({x, with(y, [](ZipEntry& e) { e.after = "PK\3\4 one more"; })}), "belong to nothing"},
      {zip_of({streamed("")}), "differ"},
      {zip_of({with(x, [](ZipEntry& e) { e.name = e.local_name = ""; })}), "a member's name is empty"},
      {zip_of({with(x, [](ZipEntry& e) { e.name = e.local_name = "\xff.npy"; })}), "no text"},
      {zip_of({with(x, [](ZipEntry& e) { e.name = e.local_name = std::string("a\0.npy", 6); })}), "no text"},
      {zip_of({with(x, [](ZipEntry& e) { e.name = e.local_name = std::string(600, 'n') + ".npy"; })}), "longer than 576"},
      {zip_of({with(x, [](ZipEntry& e) { e.name = e.local_name = std::string(520, 'n') + ".npy"; })}), "has 520 bytes"},
      {zip_of({with(x, [](ZipEntry& e) { e.name = e.local_name = "x.txt"; })}), "is no array"},
      {zip_of({with(x, [](ZipEntry& e) { e.name = e.local_name = ".npy"; })}), "is no array"},
      {zip_of({with(packed, [](ZipEntry& e) { e.size += 1, e.local_size += 1; })}), "25 follow the header"},
      {zip_of({with(packed, [](ZipEntry& e) { e.data = e.data.substr(0, 10); })}), "end too early"},
      {zip_of({with(packed, [](ZipEntry& e) { e.data += "x"; })}), "behind the packed data"},
      {zip_of({with(packed, [](ZipEntry& e) { e.data[0] = '\7'; })}), "are damaged"},
      {zip_of({deflated("p.npy", array("<f4", "(5,)", std::string(24, 'd')))}), "needs 20 bytes, 24 follow"},
      {zip_of({with(deflated("p.npy", a + "more"), [&](ZipEntry& e) { e.size = e.local_size = a.size(); })}), "more than announced"},
      {zip_of({deflated("p.npy", array("<f4", "(10000000,)", std::string(40'000'000, '\0')))}), "without compression"},
      {"PK\3\4", "22"},
      {"PK\5\6", "22"},
  };
  for (const auto& [bytes, words] : cases) {
    INFO(words);
    CHECK_THAT(says(t.write("broken.npz", bytes)), Contains(words));
    CHECK(says(t / "broken.npz") != "");
  }
  for (const std::string& whole : {good, stream}) {
    for (size_t n = 0; n < whole.size(); ++n) CHECK(says(t.write("cut.npz", whole.substr(0, n))) != "");
    for (size_t i = 0; i < whole.size() * 8; ++i) {
      std::string bad = whole;
      bad[i / 8] = static_cast<char>(bad[i / 8] ^ 1 << i % 8);
      says(t.write("flip.npz", bad));  // refused or read: never anything else
    }
  }
}

TEST_CASE("npz: an archive of so many arrays that their number takes the records of large ones", "[io]") {
  const TempFolder t;
  std::vector<TensorSpec> specs(65'535, {"", DType::f32, {}});
  for (size_t i = 0; i < specs.size(); ++i) specs[i].name = std::to_string(i);
  save_npz(t / "many.npz", specs, [](const std::string& name) { return Tensor::scalar(std::stod(name), DType::f32); });
  const TensorFiles f(t / "many.npz");
  CHECK(f.tensors().size() == specs.size());
  CHECK(f.load("65534").item() == 65534);
  specs.push_back({"a", DType::f32, {}}), specs.push_back({"b", DType::f32, {}});
  CHECK_THROWS_WITH(save_npz(t / "more.npz", specs, [](const std::string&) { return Tensor::scalar(0, DType::f32); }), Contains("65537 tensors, at most 65536"));
}

TEST_CASE("files: what is asked of them must be there", "[io]") {
  const TempFolder t;
  const std::string path = t.write("three", "abc");
  CHECK_THROWS_WITH(read_file(path, 2), Contains("3 bytes, at most 2 are expected here"));
  uint8_t two[2];
  CHECK_THROWS_WITH(InputFile(path).read(2, two), Contains("bytes 2 to 4 asked for, the file has 3 (truncated?)"));
  // A folder in which any of several files may be meant.
  const std::string x = array("<f4", "(6,)", std::string(24, 'd'));
  std::filesystem::create_directory(t / "folder");
  t.write("folder/x.npy", x);
  t.write("folder/notes.txt", "");
  CHECK(says(t / "folder") == "");
  t.write("folder/y.npy", x);
  CHECK_THAT(says(t / "folder"), Contains("holds several files that could be the weights: notes.txt, x.npy, y.npy; name one"));
}
