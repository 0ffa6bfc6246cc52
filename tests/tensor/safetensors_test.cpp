// Safetensors against files the real library wrote, and against about eighty files broken on purpose.
#include <malloc.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cmath>
#include <filesystem>

#include "tensor/io/json.h"
#include "tensor/io/safetensors.h"
#include "tests/support/temp_folder.h"

using namespace facet;
using facet::test::TempFolder;
using Catch::Matchers::Contains;
namespace fs = std::filesystem;

namespace {

const std::string goldens = FACET_GOLDENS;

std::string little(uint64_t n) {
  std::string s;
  for (int i = 0; i < 8; ++i) s += static_cast<char>(n >> 8 * i);
  return s;
}
std::string file_of(const std::string& header, const std::string& data) { return little(header.size()) + header + data; }

std::string message_of(const std::string& path) {
  try {
    const Safetensors s(path);
    for (const auto& [name, info] : s.tensors()) s.bytes(name);
  } catch (const Error& e) {
    CHECK(e.kind() == Kind::file);
    CHECK_THAT(e.what(), Contains(fs::path(path).filename().string()));
    return e.what();
  }
  return "";
}

}  // namespace

TEST_CASE("safetensors: a checkpoint of the real library", "[io]") {
  const Safetensors s(goldens + "/gemma3-tiny");
  REQUIRE(s.tensors().size() == 7 * 13 + 2);
  REQUIRE(s.metadata().at("format") == "pt");
  const Tensor e = s.load("model.embed_tokens.weight");
  REQUIRE(e.shape() == Shape{512, 64});
  REQUIRE(e.dtype() == DType::f32);
  double sum = 0;
  for (double v : e.to_vector()) sum += v * v;
  CHECK(sum > 1);
  CHECK(std::isfinite(sum));
  Tensor other = Tensor::empty({512, 64}, DType::f64);
  s.load_into("model.embed_tokens.weight", other);
  CHECK(other.to_vector() == e.to_vector());
  CHECK_THROWS_WITH(s.load_into("model.norm.weight", other), Contains("expected [512, 64], found [64] F32"));
  CHECK_THROWS_WITH(s.load("nothing"), Contains("no tensor \"nothing\""));
}

TEST_CASE("safetensors: shards behind an index", "[io]") {
  const Safetensors s(goldens + "/gemma3-rope8");
  REQUIRE(s.files().size() == 5);
  REQUIRE(s.tensors().size() == 8 * 13 + 2);
  int64_t n = 0;
  for (const auto& [name, info] : s.tensors()) n += s.load(name).numel();
  CHECK(n == 212272);
  CHECK(s.load("model.norm.weight").dtype() == DType::bf16);
}

TEST_CASE("safetensors: types that change on loading", "[io]") {
  const TempFolder t;
  const std::string header = R"({"h":{"dtype":"F16","shape":[5],"data_offsets":[0,10]},"q":{"dtype":"I64","shape":[2],"data_offsets":[10,26]},)"
                             R"("u":{"dtype":"U8","shape":[],"data_offsets":[26,27]}})";
  const std::string half("\x00\x3c\x01\x00\x00\xc0\x00\x7c\xff\x7b", 10);  // 1, smallest, -2, inf, 65504
  const Safetensors s(t.write("x.safetensors", file_of(header, half + little(7) + little(uint64_t(-8)) + "A")));
  const std::vector<double> h = s.load("h").to_vector();
  CHECK(h == std::vector<double>{1, 0x1p-24, -2, INFINITY, 65504});
  CHECK(s.load("q").to_vector() == std::vector<double>{7, -8});  // at offset 10: copied, never read in place
  CHECK_THROWS_WITH(s.load("u"), Contains("is U8; loadable types"));
  CHECK(s.bytes("u") == std::vector<uint8_t>{'A'});
  const Safetensors big(t.write("y.safetensors", file_of(R"({"q":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}})", little(1ull << 31))));
  CHECK_THROWS_WITH(big.load("q"), Contains("2147483648 at index 0 does not fit"));
}

TEST_CASE("safetensors: broken headers are refused by name", "[io]") {
  const TempFolder t;
  const std::string data(64, 'x');
  const std::string x = R"("x":{"dtype":"F32","shape":[4,4],"data_offsets":[0,64]})";
  struct Broken {
    std::string header, data, says;
  };
  const auto one = [](const std::string& dtype, const std::string& shape, const std::string& offsets) {
    return "{\"x\":{\"dtype\":" + dtype + ",\"shape\":" + shape + ",\"data_offsets\":" + offsets + "}}";
  };
  const std::vector<Broken> cases = {
      {"[]", "", "expected '{'"},
      {" {}", "", "expected '{'"},
      {"{ ", "", "not JSON"},
      {"{}x", "", "not JSON"},
      {"{}", "x", "the tensors end at byte 10"},
      {"{" + x + "," + x + "}", data, "duplicate tensor name \"x\""},
      {"{\"x\":1}", data, "must be an object, found a number"},
      {"{\"x\":null}", data, "found null"},
      {"{\"x\":[]}", data, "found a list"},
      {"{\"x\":{}}", data, "needs dtype, shape and data_offsets"},
      {R"({"x":{"dtype":"F32","shape":[4,4]}})", data, "needs dtype, shape and data_offsets"},
      {R"({"x":{"dtype":"F32","data_offsets":[0,64]}})", data, "needs dtype, shape and data_offsets"},
      {R"({"x":{"shape":[16],"data_offsets":[0,64]}})", data, "needs dtype, shape and data_offsets"},
      {R"({"x":{"dtype":"F32","dtype":"F32","shape":[16],"data_offsets":[0,64]}})", data, "duplicate field \"dtype\""},
      {R"({"x":{"dtype":"F32","shape":[16],"shape":[16],"data_offsets":[0,64]}})", data, "duplicate field \"shape\""},
      {R"({"x":{"dtype":"F32","shape":[16],"data_offsets":[0,64],"more":1}})", data, "unknown field \"more\""},
      {one("\"F33\"", "[16]", "[0,64]"), data, "unknown dtype \"F33\""},
      {one("\"f32\"", "[16]", "[0,64]"), data, "unknown dtype"},
      {one("\"\"", "[16]", "[0,64]"), data, "unknown dtype"},
      {one("7", "[16]", "[0,64]"), data, "cannot be a number"},
      {one("null", "[16]", "[0,64]"), data, "cannot be null"},
      {one("\"F32\"", "16", "[0,64]"), data, "cannot be a number"},
      {one("\"F32\"", "[-16]", "[0,64]"), data, "found a negative number"},
      {one("\"F32\"", "[16.0]", "[0,64]"), data, "found a fraction"},
      {one("\"F32\"", "[[16]]", "[0,64]"), data, "found a list"},
      {one("\"F32\"", "[\"16\"]", "[0,64]"), data, "found a string"},
      {one("\"F32\"", "[{}]", "[0,64]"), data, "found an object"},
      {one("\"F32\"", "[1,1,1,1,1,1,1,1,16]", "[0,64]"), data, "more than 8 dimensions"},
      {one("\"F32\"", "[18446744073709551616]", "[0,64]"), data, "found a fraction"},
      {one("\"F32\"", "[18446744073709551615]", "[0,64]"), data, "is too large"},
      {one("\"F32\"", "[4611686018427387904]", "[0,64]"), data, "overflows"},
      {one("\"F32\"", "[4294967296,4294967296]", "[0,64]"), data, "overflows"},
      {one("\"F32\"", "[4294967296,4294967296,0]", "[0,0]"), "", "overflows"},
      {one("\"F32\"", "[0,4294967296,4294967296]", "[0,0]"), "", "overflows"},
      {one("\"F32\"", "[4,4]", "[0,60]"), data, "needs 64 bytes, offsets give 60"},
      {one("\"BF16\"", "[4,4]", "[0,64]"), data, "needs 32 bytes, offsets give 64"},
      {one("\"F32\"", "[]", "[0,64]"), data, "needs 4 bytes"},
      {one("\"F32\"", "[17]", "[0,68]"), data, "leave the 64 data bytes"},
      {one("\"F32\"", "[16]", "[64,0]"), data, "leave the 64 data bytes"},
      {one("\"F32\"", "[16]", "[18446744073709551552,0]"), data, "leave the 64 data bytes"},
      {one("\"F32\"", "[16]", "[0,18446744073709551615]"), data, "leave the 64 data bytes"},
      {one("\"F32\"", "[16]", "[0]"), data, "two whole numbers"},
      {one("\"F32\"", "[16]", "[0,64,64]"), data, "more than two"},
      {one("\"F32\"", "[16]", "[-1,64]"), data, "negative"},
      {one("\"F32\"", "[16]", "[0,6.4e1]"), data, "fraction"},
      {one("\"F32\"", "[16]", "{}"), data, "cannot be an object"},
      {one("\"F32\"", "[8]", "[0,32]"), data, "the tensors end at byte"},
      {one("\"F32\"", "[8]", "[32,64]"), data, "a hole in the data"},
      {R"({"x":{"dtype":"U8","shape":[40],"data_offsets":[0,40]},"y":{"dtype":"U8","shape":[40],"data_offsets":[24,64]}})", data, "an overlap in the data"},
      {R"({"x":{"dtype":"U8","shape":[64],"data_offsets":[0,64]},"y":{"dtype":"U8","shape":[64],"data_offsets":[0,64]}})", data, "an overlap in the data"},
      {R"({"x":{"dtype":"U8","shape":[20],"data_offsets":[0,20]},"y":{"dtype":"U8","shape":[40],"data_offsets":[24,64]}})", data, "a hole in the data"},
      {"{\"__metadata__\":1," + x + "}", data, "found a number"},
      {"{\"__metadata__\":{\"a\":1}," + x + "}", data, "must be a string, found a number"},
      {"{\"__metadata__\":{\"a\":{}}," + x + "}", data, "must be a string, found an object"},
      {"{\"__metadata__\":{\"a\":\"b\",\"a\":\"b\"}," + x + "}", data, "duplicate key in __metadata__"},
      {"{\"__metadata__\":{},\"__metadata__\":{}," + x + "}", data, "duplicate key \"__metadata__\""},
      {"{\"" + std::string(513, 'n') + "\":{}}", data, "has 513 bytes"},
      {"{\"\xff\":{}}", data, "UTF-8"},
      {"{\"\xc0\x80\":{}}", data, "UTF-8"},
      {"{\"\\ud800\":{}}", data, "not JSON"},
      {"{\"\\x\":{}}", data, "not JSON"},
      {std::string("{\"a\0\":{}}", 9), data, "not JSON"},
      {"{" + x + ",}", data, "not JSON"},
      {"{" + x + "}\n#", data, "not JSON"},
      {"{" + x + "}" + std::string("\0#", 2), data, "not JSON: a NUL byte"},
      {"{" + x + "}" + std::string(1, '\0'), data, "not JSON: a NUL byte"},
      {"{x:1}", data, "not JSON"},
      {"{\"a\":" + std::string(100'000, '[') + "}", data, "found a list"},
      {"{\"a\":" + std::string("{\"dtype\":{") + "}}}", data, "cannot be an object"},
      {"{\"x\":{\"dtype\":\"F32\",\"shape\":[1e999],\"data_offsets\":[0,64]}}", data, "not JSON"},
      {"{\"x\":{\"dtype\":\"F32\",\"shape\":[NaN],\"data_offsets\":[0,64]}}", data, "not JSON"},
  };
  CHECK(cases.size() >= 60);
  for (const Broken& c : cases) {
    INFO(c.header.substr(0, 200));
    CHECK_THAT(message_of(t.write("broken.safetensors", file_of(c.header, c.data))), Contains(c.says));
  }
  for (uint64_t n : {uint64_t{0}, uint64_t{1}, uint64_t{3}, uint64_t{99'999'999'999}, ~uint64_t{0}, ~uint64_t{7}}) {
    INFO("header length " << n);
    CHECK(message_of(t.write("length.safetensors", little(n) + "{}")) != "");
  }
  CHECK(message_of((t.path / "missing.safetensors").string()) != "");
  fs::create_directory(t.path / "folder.safetensors");
  CHECK_THAT(message_of((t.path / "folder.safetensors").string()), Contains("found: nothing"));
}

TEST_CASE("safetensors: every truncation and every flipped header byte", "[io]") {
  const TempFolder t;
  const std::string header = R"({"__metadata__":{"k":"v"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"b":{"dtype":"I32","shape":[1],"data_offsets":[24,28]}})";
  const std::string good = file_of(header, std::string(28, 'd'));
  REQUIRE(message_of(t.write("g.safetensors", good)) == "");
  for (size_t n = 0; n < good.size(); ++n) CHECK(message_of(t.write("cut.safetensors", good.substr(0, n))) != "");
  for (size_t i = 0; i < 8 + header.size(); ++i)
    for (int bit = 0; bit < 8; ++bit) {
      std::string bad = good;
      bad[i] = static_cast<char>(bad[i] ^ 1 << bit);
      message_of(t.write("flip.safetensors", bad));  // accepted (a renamed tensor) or refused with Error; never anything else
    }
}

TEST_CASE("safetensors: broken indexes", "[io]") {
  const TempFolder t;
  const auto shard = [](const std::string& name) { return file_of("{\"" + name + "\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", "x"); };
  t.write("s1", shard("a"));
  t.write("s2", shard("b"));
  t.write("s3", shard("a"));
  const auto says = [&](const std::string& json) {
    try {
      Safetensors(t.write("i.json", json));
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  CHECK(says(R"({"weight_map":{"a":"s1","b":"s2"}})") == "");
  CHECK_THAT(says(R"({"weight_map":{"a":"s1","b":"s2"}})" + std::string("\0{}", 3)), Contains("byte 34: a NUL byte"));
  CHECK_THAT(says(R"({"weight_map":{"a":"s1","b":"s1"}})"), Contains("in no shard"));
  CHECK_THAT(says(R"({"weight_map":{"a":"s2","b":"s1"}})"), Contains("should be in s2"));
  t.write("s4", file_of(R"({"c":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"d":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})", "xy"));
  CHECK_THAT(says(R"({"weight_map":{"c":"s4"}})"), Contains("tensor \"d\" of") && Contains("s4 is not listed"));
  CHECK_THAT(says(R"({"weight_map":{"a":"s1","b":"s2","c":"s3"}})"), Contains("also in another shard"));
  CHECK_THAT(says(R"({"weight_map":{"a":"s1"},"weight_map":{}})"), Contains("duplicate key"));
  CHECK_THAT(says(R"({"weight_map":{"a":"s1","a":"s1"}})"), Contains("duplicate key"));
  CHECK_THAT(says(R"({"weight_map":{"a":"../s1"}})"), Contains("not a plain file name"));
  CHECK_THAT(says(R"({"weight_map":{"a":"/etc/passwd"}})"), Contains("not a plain file name"));
  CHECK_THAT(says(R"({"weight_map":{"a":""}})"), Contains("not a plain file name"));
  CHECK_THAT(says(R"({"weight_map":{"a":".."}})"), Contains("not a plain file name"));
  CHECK_THAT(says(R"({"weight_map":{"a":1}})"), Contains("found number"));
  CHECK_THAT(says(R"({"weight_map":[]})"), Contains("weight_map"));
  CHECK_THAT(says("[]"), Contains("weight_map"));
  CHECK_THAT(says(R"({"weight_map":{"a":"s9"}})"), Contains("index names s9, not found in"));
  CHECK_THAT(says("{\"weight_map\":" + std::string(70, '[')), Contains("deeper than 64"));
}

TEST_CASE("safetensors: hostile headers cost little memory", "[io]") {
  const TempFolder t;
  const auto repeat = [](const std::string& s, size_t bytes) {
    std::string r;
    while (r.size() < bytes) r += s;
    return r;
  };
  const auto numbered = [](const char* format, int n) {
    std::string r;
    for (int i = 0; i < n; ++i) r += fmt::format(fmt::runtime(format), i);
    r.pop_back();
    return r;
  };
  const size_t n = 12 << 20;
  const std::string entry = "\"{:x}\":{{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}},";
  const std::pair<const char*, std::string> files[] = {
      {"h0.safetensors", file_of("{\"" + std::string(n, 'a') + "\":{}}", "")},
      {"h1.safetensors", file_of("{\"a\":" + std::string(n, '1') + "}", "")},
      {"h2.safetensors", file_of("{" + std::string(n, ' ') + "}", "")},
      {"h3.safetensors", file_of("{\"a\":" + repeat("[", n) + "}", "")},
      {"h4.safetensors", file_of("{\"a\":{\"dtype\":\"U8\",\"shape\":[" + repeat("1,", n) + "1]}}", "")},
      {"h5.safetensors", file_of("{" + numbered(entry.c_str(), 65'536) + "}", "")},
      {"h6.safetensors", file_of("{" + numbered(entry.c_str(), 200'000) + "}", "")},
      {"h7.safetensors", file_of("{\"__metadata__\":{" + numbered("\"{:x}\":\"\",", 1'000'000) + "}}", "")},
      {"h8.safetensors", little(99'999'999) + "{}"},
      {"i0.json", "{\"weight_map\":{" + numbered("\"{:x}\":\"s\",", 500'000) + "}}"},
      {"i1.json", "{\"weight_map\":{" + numbered("\"{0:x}\":\"{0:x}\",", 100'000) + "}}"},
      {"i2.json", "{\"weight_map\":" + repeat("[0,", n / 2)},
      {"i3.json", "{\"weight_map\":[" + repeat("0,", n / 2)},
  };
  for (const auto& [name, bytes] : files) {
    INFO(name);
    const std::string path = t.write(name, bytes);
    ::malloc_trim(0);
    const pid_t child = ::fork();
    if (child == 0) {  // more than the bound and the system refuses
      std::ifstream statm("/proc/self/statm");
      size_t pages = 0;
      statm >> pages;
      const rlim_t limit = pages * static_cast<size_t>(::sysconf(_SC_PAGESIZE)) + (16 << 20) + 2 * bytes.size();
      const rlimit r{limit, limit};
      ::setrlimit(RLIMIT_AS, &r);
      int code = 0;
      try {
        Safetensors s(path);
      } catch (const Error&) {
        code = 1;
      } catch (...) {
        code = 2;
      }
      ::_exit(code);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    REQUIRE(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == (std::string(name) == "h5.safetensors" ? 0 : 1));
  }
}
