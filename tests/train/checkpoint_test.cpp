#include "train/checkpoint.h"

#include <catch2/catch.hpp>

#include <cerrno>
#include <filesystem>
#include <fstream>

#include "tensor/io/crc32c.h"
#include "tensor/io/durable.h"
#include "tensor/io/json.h"
#include "tests/support/temp_folder.h"

using namespace facet;
namespace fs = std::filesystem;

namespace {

struct Folder : test::TempFolder {
  std::string path = TempFolder::path.string();
};

Snapshot snapshot(float value) {
  Snapshot s;
  s.files["model"] = {{"w", Tensor::full({4, 8}, value)}, {"b", Tensor::full({3}, value, DType::bf16)}};
  s.files["optimizer"] = {{"m.w", Tensor::full({4, 8}, value / 2)}};
  s.state = {{"tokens", "17"}};
  return s;
}

double restored(const FoundCheckpoint& found) {
  const Tensor w = Tensor::zeros({4, 8}), b = Tensor::zeros({3}, DType::bf16);
  restore_tensors(found, "model", {{"w", w}, {"b", b}});
  CHECK(w.at({0, 0}) == w.at({3, 7}));
  return w.at({1, 1});
}

}  // namespace

TEST_CASE("checkpoint: saved, found, restored; old ones go") {
  Folder dir;
  for (int i = 1; i <= 4; ++i) save_checkpoint(dir.path, i, snapshot(static_cast<float>(i)), 2);
  const auto found = newest_checkpoint(dir.path, {});
  REQUIRE(found);
  CHECK(found->step == 4);
  CHECK(found->state.at("tokens") == "17");
  CHECK(restored(*found) == 4);
  CHECK_FALSE(fs::exists(dir.path + "/step-2"));
  CHECK(fs::exists(dir.path + "/step-3"));
  std::ifstream latest(dir.path + "/LATEST");
  std::string name;
  latest >> name;
  CHECK(name == "step-4");
  CHECK(read_tensors(*found, "optimizer").size() == 1);
}

TEST_CASE("checkpoint: other shapes and names are refused with both sides shown") {
  Folder dir;
  save_checkpoint(dir.path, 1, snapshot(1), 2);
  const auto found = newest_checkpoint(dir.path, {});
  CHECK_THROWS_WITH(restore_tensors(*found, "model", {{"w", Tensor::zeros({8, 4})}, {"b", Tensor::zeros({3}, DType::bf16)}}),
                    Catch::Contains("[4, 8]") && Catch::Contains("[8, 4]"));
  CHECK_THROWS_AS(restore_tensors(*found, "model", {{"w", Tensor::zeros({4, 8})}}), Error);
}

TEST_CASE("checkpoint: any flipped bit and any truncation is noticed, the one before is used") {
  Folder dir;
  save_checkpoint(dir.path, 1, snapshot(1), 3);
  save_checkpoint(dir.path, 2, snapshot(2), 3);
  for (const char* file : {"model.safetensors", "optimizer.safetensors", "manifest.json"}) {
    const std::string path = dir.path + "/step-2/" + file;
    std::ifstream in(path, std::ios::binary);
    const std::string good(std::istreambuf_iterator<char>(in), {});
    const auto put = [&](const std::string& s) { std::ofstream(path, std::ios::binary | std::ios::trunc) << s; };
    const size_t stride = std::string(file) == "manifest.json" ? 1 : 7;  // the manifest has no part that may lie
    for (size_t i = 0; i < good.size(); i += stride) {
      INFO(file << " byte " << i);
      std::string bad = good;
      bad[i] = static_cast<char>(bad[i] ^ (1 << (i % 8)));
      put(bad);
      std::string note;
      const auto found = newest_checkpoint(dir.path, [&](const std::string& s) { note += s; });
      REQUIRE(found);
      // White space of the manifest may change without changing what it says.
      if (found->step == 2) {
        CHECK(restored(*found) == 2);
        CHECK(found->state == snapshot(2).state);
      } else {
        CHECK(note.find("using step-1") != std::string::npos);
      }
      if (std::string(file) != "manifest.json" && i > 400) CHECK(found->step == 1);
    }
    for (size_t n = 0; n < good.size(); n += 13) {
      put(good.substr(0, n));
      CHECK(newest_checkpoint(dir.path, {})->step == 1);
    }
    put(good);
    CHECK(newest_checkpoint(dir.path, {})->step == 2);
  }
}

TEST_CASE("checkpoint: a manifest that lists no files, or is of another shape, vouches for nothing") {
  Folder dir;
  const std::string path = save_checkpoint(dir.path, 1, snapshot(1), 1) + "/manifest.json";
  const Json good = read_json(path);
  const auto edit = [&](const char* part, const Json& value) {
    Json m = good;
    m[part] = value;
    m.erase("crc32c");
    const std::string body = m.dump();
    m["crc32c"] = fmt::format("{:08x}", crc32c(body.data(), body.size()));
    std::ofstream(path, std::ios::trunc) << m.dump();
  };
  edit("files", Json::object());
  CHECK_THROWS_WITH(restored(*newest_checkpoint(dir.path, {})), Catch::Contains("lists no model.safetensors"));
  CHECK_THROWS_WITH(read_tensors(*newest_checkpoint(dir.path, {}), "optimizer"), Catch::Contains("lists no optimizer.safetensors"));
  Json fewer = good.at("files");
  fewer.begin().value().erase(fewer.begin().value().begin());
  edit("files", fewer);
  CHECK_THROWS_WITH(newest_checkpoint(dir.path, {}), Catch::Contains(".safetensors: ") && Catch::Contains(", the manifest lists "));
  edit("state", Json::array());
  CHECK_THROWS_WITH(newest_checkpoint(dir.path, {}), Catch::Contains("\"state\" is array"));
  edit("files", nullptr);
  CHECK_THROWS_WITH(newest_checkpoint(dir.path, {}), Catch::Contains("\"files\" is null"));
}

TEST_CASE("checkpoint: a damaged one that is newer never pushes out the whole one that was just written") {
  Folder dir;
  save_checkpoint(dir.path, 4, snapshot(4), 1);
  save_checkpoint(dir.path, 7, snapshot(7), 2);
  fs::resize_file(dir.path + "/step-7/model.safetensors", 100);
  REQUIRE(newest_checkpoint(dir.path, {})->step == 4);
  save_checkpoint(dir.path, 5, snapshot(5), 1);  // stopped on the way to 7
  CHECK(newest_checkpoint(dir.path, {})->step == 5);
  CHECK_FALSE(fs::exists(dir.path + "/step-4"));
  CHECK_FALSE(fs::exists(dir.path + "/step-7"));
}

TEST_CASE("checkpoint: a failure at any call of the system leaves the checkpoint before or a whole new one") {
  for (int at = 1;; ++at) {
    Folder dir;
    save_checkpoint(dir.path, 1, snapshot(1), 1);
    int calls = 0;
    set_io_hook([&](const IoEvent&) { return ++calls == at ? ENOSPC : 0; });
    bool failed = false;
    try {
      save_checkpoint(dir.path, 2, snapshot(2), 1);
    } catch (const Error& e) {
      failed = true;
      CHECK(e.kind() == Kind::environment);
    }
    set_io_hook({});
    const auto found = newest_checkpoint(dir.path, {});
    INFO("call " << at);
    REQUIRE(found);
    CHECK(restored(*found) == static_cast<double>(found->step));
    if (!failed && calls < at) break;  // every call was tried
    clean_checkpoints(dir.path);
    REQUIRE(at < 200);
  }
}
