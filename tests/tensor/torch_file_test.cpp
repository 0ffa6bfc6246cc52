// PyTorch's files: what PyTorch wrote, and what was broken, or made to do harm, on purpose.
#include <catch2/catch.hpp>

#include "tensor/io/tensor_files.h"
#include "tensor/io/text.h"
#include "tests/support/goldens.h"
#include "tests/support/temp_folder.h"
#include "tests/support/zip_maker.h"
#include "tests/tensor/says.h"

using namespace facet;
using namespace facet::test;
using Catch::Matchers::Contains;

namespace {

}  // namespace

TEST_CASE("torch: what PyTorch wrote", "[io]") {
  const TensorFiles f(golden_path("files/torch.pt"));
  CHECK(std::string(f.format()) == "PyTorch");
  const auto values = [&](const char* name) { return f.load(std::string("model_state_dict.") + name).to_vector(); };
  CHECK(values("weight") == std::vector<double>{0, 1, 2, 3, 4, 5});
  CHECK(values("tied") == values("weight"));
  CHECK(values("rows") == std::vector<double>{3, 4, 5});
  CHECK(values("turned") == std::vector<double>{0, 3, 1, 4, 2, 5});
  CHECK(values("scalar") == std::vector<double>{0.5});
  CHECK(values("bf16") == std::vector<double>{1, 1, 1});
  CHECK(values("half") == std::vector<double>{1, -2, 65504});
  CHECK(values("long") == std::vector<double>{0, 1, 2, 3});
  CHECK(values("parameter") == std::vector<double>{1, 1});
  CHECK(f.info("model_state_dict.bf16").dtype == "BF16");
  CHECK(f.info("model_state_dict.freqs").dtype == "C64");
  CHECK(f.load("list.0").to_vector() == std::vector<double>{0});
  CHECK(f.tensors().size() == 11);
  CHECK_THAT(says(golden_path("files/old.pt")), Contains("before 1.6 is not supported"));
}

TEST_CASE("torch: pickles that do more than describe tensors are refused by name", "[io]") {
  using namespace facet::test::pickle;
  const TempFolder t;
  const std::string data(24, 'd');
  const std::string good = tensor("FloatStorage", "0", 6, 0, {2, 3}, {3, 1});
  const auto file = [&](const std::string& value) { return torch_of(program(value), {data}); };
  const auto on = [&](int64_t elements, int64_t offset, const std::vector<int64_t>& size, const std::vector<int64_t>& stride) {
    return file(dict({{"x", tensor("FloatStorage", "0", elements, offset, size, stride)}}));
  };
  REQUIRE(says(t.write("good.pt", file(dict({{"x", good}})))) == "");
  REQUIRE(says(t.write("good.pt", file(good))) == "");
  REQUIRE(says(t.write("good.pt", on(6, 5, {}, {}))) == "");
  REQUIRE(says(t.write("good.pt", on(6, 0, {6, 2}, {1, 0}))) == "");  // expanded
  const std::string rebuild = global("torch._utils", "_rebuild_tensor_v2"), hooks = global("collections", "OrderedDict") + ")R";
  const std::string storage = tuple({text("storage"), global("torch", "FloatStorage"), text("0"), text("cpu"), integer(6)}) + "Q";
  const auto rebuilt = [&](const std::vector<std::string>& arguments) { return file(rebuild + tuple(arguments) + "R"); };
  const std::string two = tuple({integer(2)}), one = tuple({integer(1)}), no = "\x89", zero = integer(0);
  std::string deep = good;
  for (int i = 0; i < 70; ++i) deep = tuple({deep});
  // Pairs of pairs: 2^30 paths through 30 values.
  std::string wide = "]q" + little(0, 1);
  for (int i = 1; i < 30; ++i) {
    const std::string before = "h" + little(static_cast<uint64_t>(i - 1), 1);
    wide = wide + before + "\x86q" + little(static_cast<uint64_t>(i), 1);  // (x, x)
  }
  const std::pair<std::string, const char*> cases[] = {
      {file(global("os", "system") + tuple({text("touch /tmp/x")}) + "R"), "\"os.system\" - not a tensor file, refused"},
      {file(global("posix", "system") + tuple({text("true")}) + "R"), "\"posix.system\""},
      {file(global("builtins", "eval") + tuple({text("1")}) + "R"), "\"builtins.eval\""},
      {file(global("__builtin__", "getattr")), "\"__builtin__.getattr\""},
      {file(global("torch", "load")), "\"torch.load\""},
      {file(global("torch.storage", "_load_from_bytes")), "\"torch.storage._load_from_bytes\""},
      {file(global("torch._utils", "_rebuild_tensor")), "refused"},
      {file(dict({{"x\xf9", good}})), "a text that is no UTF-8"},
      {file(global("numpy.core.multiarray", "_reconstruct")), "refused"},
      {file(global("argparse", "Namespace") + ")\x81"), "\"argparse.Namespace\""},
      {file(global("collections", "defaultdict")), "refused"},
      {file(global("torch", "Float\nStorage")), "\"torch.Float\" - not a tensor file"},
      {file(global("", "")), "not a tensor file"},
      {file("cos"), "a name without end"},
      {file("c" + std::string(300, 'm') + "\nx\n"), "a name without end"},
      {file("\x8c\x02os"), "instruction 0x8c"},
      {file("ios\nsystem\n"), "instruction 0x69"},
      {file("oos"), "instruction 0x6f"},
      {file("\x82\x01"), "instruction 0x82"},
      {file("\x93"), "instruction 0x93"},
      {file("\x97"), "instruction 0x97"},
      {file("F1.0\n"), "instruction 0x46"},
      {file("P1\n"), "instruction 0x50"},
      {file("0"), "instruction 0x30"},
      {file("2"), "instruction 0x32"},
      {file("1"), "instruction 0x31"},
      {file(""), "STOP with something else than one value"},
      {file("NN"), "STOP with something else"},
      {file("(N"), "STOP with something else"},
      {file("t"), "no MARK"},
      {file("\x85"), "the stack is empty"},
      {file("(\x85t"), "the stack is empty"},
      {file("R"), "the stack is empty"},
      {file("NNR"), "a call of something that has no name"},
      {file(global("torch", "Size") + "NR"), "a call of something that has no name"},
      {file("NNs"), "the stack is empty"},
      {file("NNNs"), "expected a dict"},
      {file("}(Nu"), "a key without a value"},
      {file("NNa"), "expected a list"},
      {file("}Na"), "expected a list"},
      {file("NNb"), "expected a dict to give a state"},
      {file("Nq\1"), "memo 1 before 0"},
      {file("q"), "the stack is empty"},
      {file("h" + little(0, 1)), "memo 0 of 0"},
      {file("j" + little(0xffffffff, 4)), "memo 4294967295 of 0"},
      {file("\x8a\x09" + std::string(9, '\1')), "an integer of 9 bytes"},
      {file("X" + little(0xffffffff, 4)), "a text of"},
      {file("X" + little(100, 4) + "x"), "needs 100 bytes"},
      {file(hooks + "." + "N"), "bytes behind the pickle"},
      {file(global("collections", "OrderedDict") + tuple({"]"}) + "R"), "made of arguments"},
      {torch_of("\x80\x04N.", {}), "protocol 2"},
      {torch_of("", {}), "truncated"},
      {torch_of(std::string("\x80\x02", 2), {}), "truncated"},
      {torch_of(program("}"), {}), "without a tensor"},
      {torch_of(std::string("\x80\x02") + std::string(150'000, 'N') + ".", {}), "more than 100,000 values on the stack"},
      {torch_of(std::string("\x80\x02") + std::string(20'000, '(') + ".", {}), "more than 10,000 marks"},
      {file(deep), "nested deeper than 64"},
      {file("]q" + little(0, 1) + "h" + little(0, 1) + "a"), "nested deeper than 64"},  // a list that holds itself
      {file(wide), "more than 200,000 values"},
      {file(dict({{"x", good}, {"x", good}})), "duplicate tensor name \"x\""},
      {file(dict({{std::string(600, 'n'), good}})), "more than 512 bytes"},
      // Views
      {on(6, 0, {7}, {1}), "leaves its storage of 6"},
      {on(6, 6, {1}, {1}), "leaves its storage"},
      {on(6, 1, {2, 3}, {3, 1}), "leaves its storage"},
      {on(6, 0, {2, 3}, {4, 1}), "leaves its storage"},
      {on(6, 0, {2, 3}, {3}), "1 strides for shape"},
      {on(6, -1, {1}, {1}), "the offset must be a whole number"},
      {on(6, 0, {-1}, {1}), "its size must be a whole number"},
      {on(6, 0, {2}, {-1}), "its stride must be a whole number"},
      {on(6, 0, {1, 1, 1, 1, 1, 1, 1, 1, 1}, {1, 1, 1, 1, 1, 1, 1, 1, 1}), "more than 8 dimensions"},
      {on(6, 0, {int64_t{1} << 32, int64_t{1} << 32}, {0, 0}), "overflows"},
      {on(6, 0, {2, 2}, {INT64_MAX, INT64_MAX}), "leaves its storage"},
      {on(6, 0, {3}, {INT64_MAX}), "leaves its storage"},
      {on(6, 0, {5}, {INT64_MAX}), "its strides overflow"},
      {on(6, 0, {1'000'000}, {0}), "more than twice the"},
      {on(7, 0, {6}, {1}), "its storage of 7 F32"},
      {on(INT64_MAX, 0, {6}, {1}), "its storage of"},
      {file(tensor("FloatStorage", "1", 6, 0, {6}, {1})), "\"model/data/1\" is not in the archive"},
      {file(tensor("FloatStorage", "../x", 6, 0, {6}, {1})), "is not in the archive"},
      {file(tensor("DoubleStorage", "0", 6, 0, {6}, {1})), "needs another size"},
      {file(tensor("Size", "0", 6, 0, {6}, {1})), "is no type of storage"},
      {rebuilt({"N", zero, two, one, no, hooks}), "it has no storage"},
      {rebuilt({"NQ", zero, two, one, no, hooks}), "it has no storage"},
      {rebuilt({storage, zero, two, one, no}), "5 arguments"},
      {rebuilt({storage, "N", two, one, no, hooks}), "the offset must be a whole number"},
      {rebuilt({storage, zero, "N", one, no, hooks}), "its size must be a tuple"},
      {rebuilt({storage, zero, two, integer(1), no, hooks}), "its stride must be a tuple"},
      // Archives
      {zip_of({stored("model/data.pkl", program(good)), stored("model/byteorder", "big"), stored("model/data/0", data)}), "byte order \"big\""},
      {zip_of({stored("model/data.pkl", program(good)), stored("model/.data/serialization_id", "12\xff"), stored("model/data/0", data)}), "serialization_id\" is no text"},
      {zip_of({stored("model/data.pkl", program(good)), stored("other/data/0", data)}), "is not below \"model/\""},
      {zip_of({deflated("model/data.pkl", program(good)), stored("model/data/0", data)}), "is packed"},
      {zip_of({stored("model/data.pkl", program(good)), stored("model/constants.pkl", ""), stored("model/data/0", data)}), "TorchScript"},
      {zip_of({stored("model/x/data.pkl", program(good)), stored("model/data/0", data)}), "is no array"},
      {std::string("\x80\x02\x8a\x0al\xfc\x9c\x46\xf9 j\xa8P\x19.", 14), "a bare pickle"},
      {std::string(257, 'x') + "ustar" + std::string(300, 'x'), "a tar archive"},
      {"GGUF\3" + std::string(30, '\0'), "GGUF files are not read"},
  };
  CHECK(std::size(cases) >= 90);
  // Other spellings of the same: a number of two bytes, sizes as torch.Size.
  const auto spelled = [&](const std::string& from, const std::string& to) {
    REQUIRE(good.find(from) != good.npos);
    return file(std::string(good).replace(good.find(from), from.size(), to));
  };
  const std::string sizes = tuple({integer(2), integer(3)});
  CHECK(says(t.write("good.pt", spelled("K\6tQ", std::string("M\6\0tQ", 5)))) == "");
  CHECK(says(t.write("good.pt", spelled(sizes, global("torch", "Size") + tuple({sizes}) + "R"))) == "");
  for (const auto& [bytes, words] : cases) {
    INFO(words);
    CHECK_THAT(says(t.write("broken.pt", bytes)), Contains(words));
    CHECK(says(t / "broken.pt") != "");
  }
  std::string beside = zip_of({stored("model/data.pkl", program(good)), stored("model/.data/serialization_id", "12345"), stored("model/data/0", data)});
  REQUIRE(says(t.write("beside.pt", beside)) == "");
  beside[beside.find("12345") + 2] ^= 1;
  CHECK_THAT(says(t.write("beside.pt", beside)), Contains("the file is damaged"));
  // A checksum that is wrong in a storage is found when its tensor is read.
  std::string damaged = file(good);
  damaged[damaged.find(data) + 3] ^= 1;
  CHECK_THAT(says(t.write("damaged.pt", damaged)), Contains("the file is damaged"));

  const std::string whole = file(dict({{"x", good}}));
  for (size_t n = 0; n < whole.size(); ++n) CHECK(says(t.write("cut.pt", whole.substr(0, n))) != "");
  // Every bit of the pickle, its checksum put right.
  const std::string p = program(dict({{"x", good}}));
  for (size_t i = 0; i < p.size() * 8; ++i) {
    std::string bad = p;
    bad[i / 8] = static_cast<char>(bad[i / 8] ^ 1 << i % 8);
    says(t.write("flip.pt", torch_of(bad, {data})));
  }
}

TEST_CASE("torch: a safetensors file whose header has the length of a pickle's first bytes", "[io]") {
  const TempFolder t;
  std::string header = R"({"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})";
  header.resize(0x280, ' ');
  const std::string file = little(header.size(), 8) + header + "x";
  REQUIRE(file.starts_with("\x80\x02"));
  CHECK(says(t.write("x.safetensors", file)) == "");
}
