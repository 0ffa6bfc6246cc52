// Durable writing under every single fault, and the safetensors writer on top of it.
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cerrno>
#include <filesystem>
#include <random>

#include "tensor/io/crc32c.h"
#include "tensor/io/cursor.h"
#include "tensor/io/durable.h"
#include "tensor/io/json.h"
#include "tensor/io/safetensors.h"
#include "tensor/io/text.h"
#include "tests/support/temp_folder.h"

using namespace facet;
using facet::test::TempFolder;
using Catch::Matchers::Contains;
namespace fs = std::filesystem;

namespace {

const std::string goldens = FACET_GOLDENS;

struct NoHook {
  ~NoHook() { set_io_hook({}); }
};

std::string content(const std::string& path) { return read_file(path); }

struct Stop {};  // what a hook throws in place of a dying process

}  // namespace

TEST_CASE("durable: a file is old or new under every fault at every call", "[io]") {
  const TempFolder t;
  const NoHook guard;
  const std::string path = t / "f";
  write_file_atomically(path, "old");
  const std::string fresh(100'000, 'n');
  int calls = 0;
  set_io_hook([&](const IoEvent&) { return ++calls, 0; });
  write_file_atomically(path, fresh);
  const int all = calls;
  REQUIRE(all == 6);  // create, write, sync, close, rename, sync folder
  for (const int fault : {ENOSPC, EDQUOT, EIO, EROFS, EACCES})
    for (int i = 1; i <= all; ++i) {
      set_io_hook({});
      write_file_atomically(path, "old");
      calls = 0;
      set_io_hook([&](const IoEvent&) { return ++calls == i ? fault : 0; });
      INFO("errno " << fault << " at call " << i);
      try {
        write_file_atomically(path, fresh);
        FAIL("no error");
      } catch (const Error& e) {
        CHECK(e.kind() == Kind::environment);
        CHECK_THAT(e.what(), Contains(std::strerror(fault)) && Contains(t.path.string()));
      }
      CHECK(content(path) == (i < 6 ? "old" : fresh));
      CHECK(t.entries() == 1);  // the temporary file is gone
    }
  // The process ends at call i: what is left is old or new, and the next start clears the rest.
  for (int i = 1; i <= all; ++i) {
    set_io_hook({});
    write_file_atomically(path, "old");
    const pid_t child = ::fork();
    if (child == 0) {
      int n = 0;
      set_io_hook([&n, i](const IoEvent&) -> int { return ++n == i ? (::_exit(9), 0) : 0; });
      write_file_atomically(path, fresh);
      ::_exit(0);
    }
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    REQUIRE(WEXITSTATUS(status) == 9);
    CHECK(content(path) == (i < 6 ? "old" : fresh));
    CHECK(remove_leftovers(t.path.string()) == (i > 1 && i < 6 ? 1 : 0));
    CHECK(t.entries() == 1);
  }
}

TEST_CASE("durable: interrupted and short writes go on", "[io]") {
  const TempFolder t;
  const NoHook guard;
  int n = 0;
  set_io_hook([&](const IoEvent& e) {
    if (e.call != IoCall::write) return 0;
    return ++n % 3 == 1 ? EINTR : n % 3 == 2 ? -7 : 0;
  });
  const std::string text = "a text that takes several writes to reach the disk";
  write_file_atomically(t / "f", text);
  CHECK(content(t / "f") == text);
  CHECK(n == 3);
  // What has got only half into a growing file before the disk was full is taken back.
  {
    GrowingFile log(t / "log");
    set_io_hook({});
    log.append("one line\n");
    n = 0;
    set_io_hook([&](const IoEvent& e) { return e.call != IoCall::write ? 0 : ++n == 1 ? -4 : ENOSPC; });
    CHECK_THROWS_WITH(log.append("another line\n"), Contains("log: cannot write: No space left on device"));
    CHECK(content(t / "log") == "one line\n");
    fs::remove(t / "log");
  }
  // An interrupted fsync is not repeated: nobody knows what it dropped.
  set_io_hook([](const IoEvent& e) { return e.call == IoCall::sync ? EINTR : 0; });
  CHECK_THROWS_AS(write_file_atomically(t / "f", "other"), Error);
  CHECK(content(t / "f") == text);
}

TEST_CASE("durable: a folder appears whole, and replaces only when told", "[io]") {
  const TempFolder t;
  const NoHook guard;
  const std::string target = t / "model";
  const auto write = [&](const std::string& text, bool replace) {
    StagedFolder s(target);
    write_file_atomically(s.path() + "/a", text);
    write_file_atomically(s.path() + "/b", text);
    s.commit(replace);
  };
  write_file_atomically(t / "file", "");
  CHECK_THROWS_WITH(make_folders(t / "file/below"), Contains("file: cannot make folder: Not a directory"));
  fs::remove(t / "file");
  fs::create_directory(target);  // an empty folder may be there
  write("1", false);
  CHECK(content(target + "/a") == "1");
  CHECK_THROWS_WITH(write("2", false), Contains("already exists"));
  CHECK(content(target + "/b") == "1");
  write("3", true);
  CHECK(content(target + "/b") == "3");
  CHECK(t.entries() == 1);
  // Stopped anywhere, the folder is the old or the new one.
  for (int i = 1;; ++i) {
    int n = 0;
    set_io_hook([&](const IoEvent&) -> int { return ++n >= i ? throw Stop{} : 0; });
    bool stopped = false;
    try {
      write("4", true);
    } catch (const Stop&) {
      stopped = true;
    }
    set_io_hook({});
    const std::string a = content(target + "/a");
    CHECK(a == content(target + "/b"));
    CHECK((a == "3" || a == "4"));
    for (const auto& e : fs::directory_iterator(t.path))
      if (e.path() != target) fs::remove_all(e.path());  // our own process lives, so remove_leftovers keeps them
    if (!stopped) break;
    write("3", true);
  }
  remove_durably(target);
  CHECK(t.entries() == 0);
  { StagedFolder given_up(t / "x/y/z"); }
  CHECK(fs::is_empty(t / "x/y"));
}

TEST_CASE("durable: space, names, checksums", "[io]") {
  const TempFolder t;
  const NoHook guard;
  CHECK(free_bytes(t.path.string()) > 0);
  CHECK_THROWS_WITH(check_free_space("checkpoint", t.path.string(), uint64_t{1} << 62), Contains("checkpoint needs 4.8 EB, "));
  CHECK(human_bytes(999) == "999 bytes");
  CHECK(human_bytes(3'100'000'000) == "3.1 GB");
  CHECK(grouped(9'999'999'999) == "9,999,999,999");
  CHECK(grouped(100) == "100");
  CHECK(printable("a\n\x1b[0m\xff\xc3\xa9") == "a\\x0a\\x1b[0m\\xff\xc3\xa9");
  // Vectors of RFC 3720, appendix B.4.
  CHECK(crc32c("123456789", 9) == 0xe3069283u);
  CHECK(crc32c(std::string(32, '\0').data(), 32) == 0x8a9136aau);
  CHECK(crc32c(std::string(32, '\xff').data(), 32) == 0x62a8ab43u);
  std::string bytes(1000, '\0');
  std::mt19937 random(1);
  for (char& c : bytes) c = static_cast<char>(random());
  for (size_t n : {0, 1, 3, 7, 8, 9, 15, 64, 999}) {
    for (size_t at : {0, 1, 5}) CHECK(crc32c(&bytes[at], n - (n == 999 ? 5 : 0)) == crc32c_by_table(&bytes[at], n - (n == 999 ? 5 : 0)));
    CHECK(crc32c(&bytes[n], 1000 - n, crc32c(bytes.data(), n)) == crc32c(bytes.data(), 1000));
  }
  const uint8_t few[3] = {1, 2, 3};
  Cursor c(few, "file", 100);
  CHECK(c.get<uint16_t>("a") == 0x201);
  CHECK_THROWS_WITH(c.get<uint32_t>("the count"), Contains("file: byte 102: the count needs 4 bytes, 1 remain"));
  CHECK(c.remaining() == 1);
}

TEST_CASE("safetensors: what is written is read back, and is the reference library's file", "[io]") {
  const TempFolder t;
  const NoHook guard;
  const Safetensors golden(goldens + "/gemma3-tiny/model.safetensors");
  std::vector<TensorSpec> specs;
  for (const auto& [name, info] : golden.tensors()) specs.push_back({name, DType::f32, info.shape});
  std::reverse(specs.begin(), specs.end());
  const auto source = [&](const std::string& name) { return golden.load(name); };
  const TensorSums sums = save_safetensors(t / "copy.safetensors", specs, source, golden.metadata());
  CHECK(content(t / "copy.safetensors") == content(goldens + "/gemma3-tiny/model.safetensors"));
  const std::vector<uint8_t> norm = golden.bytes("model.norm.weight");
  CHECK(sums.at("model.norm.weight") == crc32c(norm.data(), norm.size()));

  // Every dtype, odd names and metadata, views, empty tensors.
  const Tensor x = Tensor::from(std::vector<float>{1, 2, 3, 4, 5, 6}, {2, 3});
  const std::vector<std::pair<std::string, Tensor>> list = {{"f", x.transpose(0, 1)},
                                                            {"h", x.to(DType::bf16).slice(1, 1, 3)},
                                                            {"d", x.to(DType::f64)},
                                                            {"i \"\\\n\xc3\xa9", x.to(DType::i32)},
                                                            {"s", Tensor::scalar(7)},
                                                            {"none", Tensor::empty({0, 4})}};
  save_safetensors(t / "all.safetensors", list, {{"k\"", "v\n"}});
  const Safetensors all(t / "all.safetensors");
  REQUIRE(all.tensors().size() == list.size());
  CHECK(all.metadata().at("k\"") == "v\n");
  for (const auto& [name, tensor] : list) {
    CHECK(all.load(name).dtype() == tensor.dtype());
    CHECK(all.load(name).shape() == tensor.shape());
    CHECK(all.load(name).to_vector() == tensor.to_vector());
    CHECK((all.info(name).begin % static_cast<uint64_t>(size_of(tensor.dtype()))) == 0);
  }
  save_safetensors(t / "empty.safetensors", std::vector<std::pair<std::string, Tensor>>{});
  CHECK(Safetensors(t / "empty.safetensors").tensors().empty());

  CHECK_THROWS_WITH(save_safetensors(t / "bad", {{"a", DType::f32, {2}}}, [](const std::string&) { return Tensor::zeros({3}); }),
                    Contains("announced as f32 [2] and came as f32 [3]"));
  CHECK_THROWS_WITH(save_safetensors(t / "bad", {{"a", DType::f32, {2}}, {"a", DType::f32, {2}}}, {}), Contains("two tensors"));
  CHECK(!fs::exists(t / "bad"));
}

TEST_CASE("safetensors: shards", "[io]") {
  const TempFolder t;
  const NoHook guard;
  const Safetensors golden(goldens + "/gemma3-rope8");
  std::vector<TensorSpec> specs;
  for (const auto& [name, info] : golden.tensors()) specs.push_back({name, DType::bf16, info.shape});
  const auto source = [&](const std::string& name) { return golden.load(name); };
  save_sharded(t.path.string(), "model", specs, source, golden.metadata(), 100'000);
  const Safetensors again(t.path.string());
  CHECK(again.files().size() >= 5);
  REQUIRE(again.tensors().size() == golden.tensors().size());
  for (const auto& [name, info] : golden.tensors()) REQUIRE(again.bytes(name) == golden.bytes(name));
  for (const std::string& f : again.files()) CHECK(fs::file_size(f) < 104'000);
  const Json index = read_json(t / "model.safetensors.index.json");
  CHECK(index["metadata"]["total_size"] == 424544);
  CHECK(index["metadata"]["total_parameters"] == 212272);
}
