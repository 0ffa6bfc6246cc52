// Checkpoints that were cut short, flipped or edited: every damage is noticed, what is left is used, and what does not fit is refused with
// both sides named.
#include <nlohmann/json.hpp>

#include "tensor/io/crc32c.h"
#include "tests/faults/faulty.h"

using namespace facet::test;
namespace fs = std::filesystem;
using Json = nlohmann::json;

namespace {

const char* const files[] = {"model.safetensors", "optimizer.safetensors", "manifest.json"};

void put(const std::string& path, const std::string& bytes) { std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes; }

// A run with two checkpoints, of which the newer is damaged.
struct Damaged : FaultyRun {
  std::string list = *this / "checkpoints", newest = list + "/step-3";
  Damaged() : FaultyRun("sft lora", 3, 1) {
    for (const auto& [name, files] : checkpoints) {
      if (name == "step-1") continue;
      fs::create_directories(list + "/" + name);
      for (const auto& [file, bytes] : files) put(list + "/" + name + "/" + file, bytes);
    }
  }
  // Whether the older checkpoint is used instead, and the note says which file it was.
  bool noticed(const std::string& file) const {
    std::string note;
    const auto found = facet::newest_checkpoint(list, [&](const std::string& s) { note += s; });
    return found && found->step == 2 && note.find(file) != std::string::npos && note.find("using step-2") != std::string::npos;
  }
};

void cut(size_t first, size_t page) {
  const Damaged d;
  for (const char* file : files) {
    const std::string path = d.newest + "/" + file, good = content_of(path);
    for (size_t n = 0; n < good.size() - 1; n += n < first ? 1 : page) {
      put(path, good.substr(0, n));
      INFO(file << " cut to " << n << " of " << good.size() << " bytes");
      REQUIRE(d.noticed(file));
    }
    put(path, good + "x");
    CHECK(d.noticed(file));
    put(path, good);
  }
}

void flip(int times) {
  const Damaged d;
  std::mt19937 random(day());
  for (int i = 0; i < times; ++i) {
    const char* file = files[random() % 3];
    const std::string path = d.newest + "/" + file, good = content_of(path);
    std::string bad = good;
    const size_t at = random() % bad.size();
    bad[at] = static_cast<char>(bad[at] ^ (1 << random() % 8));
    const int file_descriptor = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
    REQUIRE(::pwrite(file_descriptor, &bad[at], 1, static_cast<off_t>(at)) == 1);
    INFO(file << " byte " << at << ", flip " << i << ", seed " << day());
    // Between its words a manifest may hold any white space.
    const bool same = std::string(file) == "manifest.json" && Json::accept(bad) && Json::parse(bad) == Json::parse(good);
    if (!same) REQUIRE(d.noticed(file));
    REQUIRE(::pwrite(file_descriptor, &good[at], 1, static_cast<off_t>(at)) == 1);
    ::close(file_descriptor);
  }
}

}  // namespace

TEST_CASE("faults: checkpoints cut short, at some lengths", "[full]") { cut(64, 16384); }
TEST_CASE("faults: checkpoints cut short, at each of the first 256 bytes and every page", "[nightly]") { cut(256, 4096); }

TEST_CASE("faults: 2,000 flipped bits", "[full]") { flip(2000); }
TEST_CASE("faults: 100,000 flipped bits", "[nightly]") { flip(100000); }

TEST_CASE("faults: the flipped bit of a weight is told by its tensor's name", "[full]") {
  const Damaged d;
  const std::string path = d.newest + "/model.safetensors", good = content_of(path);
  uint64_t header = 0;
  std::memcpy(&header, good.data(), 8);
  const Json list = Json::parse(good.substr(8, header));
  for (const auto& [name, entry] : list.items()) {
    if (name == "__metadata__") continue;
    std::string bad = good;
    bad[8 + header + entry["data_offsets"][0].get<uint64_t>()] ^= 1;
    put(path, bad);
    CHECK(d.noticed("CRC of \"" + name + "\""));
  }
}

TEST_CASE("faults: checkpoints of something else are refused, both sides named, and left alone", "[full]") {
  const FaultyRun r("sft lora", 3, 1);
  REQUIRE(r.go() == 0);
  const std::string checkpoint = r.folder() + "/checkpoints/step-3", manifest = checkpoint + "/manifest.json";
  const Json good = Json::parse(content_of(manifest));
  const auto write = [&](Json m) {
    m.erase("crc32c");
    // The order of the keys is the writer's own: alphabetical, as here.
    const std::string body = m.dump();
    m["crc32c"] = fmt::format("{:08x}", facet::crc32c(body.data(), body.size()));
    put(manifest, m.dump(1) + "\n");
  };
  int tried = 0;
  const auto refused = [&](const Words& with, int code, const Words& parts) {
    ++tried;
    const auto before = results_of(r.folder());
    Words more = r.more;
    more.insert(more.end(), with.begin(), with.end());
    CHECK(r.run(r.resumed(r.kind, "disk/run", more)) == code);
    INFO(r.said());
    for (const std::string& part : parts) {
      INFO("missing: " << part);
      CHECK(r.said().find(part) != std::string::npos);
    }
    CHECK(difference(before, results_of(r.folder())) == "");
  };
  write(good);
  REQUIRE(r.go() == 0);  // what is written here is read

  // Settings of the run, each changed on one side.
  for (const auto& [key, value] : good["state"].items()) {
    if (key.rfind("setting.", 0) != 0) continue;
    INFO(key);
    Json m = good;
    m["state"][key] = "another";
    write(m);
    refused({}, 2, {key.substr(8) + " was another, ", " now", "--allow-changed"});
    m["state"].erase(key);
    write(m);
    refused({}, 2, {key.substr(8) + " was not set, "});
  }
  // Counters, format, step.
  for (const char* name : {"tokens", "went_back_to"}) {
    Json m = good;
    m["state"][name] = "many";
    write(m);
    refused({}, 3, {name, "\"many\"", "expected a count"});
    m["state"].erase(name);
    write(m);
    refused({}, 3, {"the state lacks", name});
  }
  const auto edited = [&](const char* key, const Json& value, const Words& parts) {
    Json m = good;
    m[key] = value;
    write(m);
    refused({}, 3, parts);
  };
  edited("format", 2, {"format 2", "reads 1"});
  edited("step", 4, {"says step 4"});
  edited("files", Json::object(), {"manifest.json: lists no model.safetensors"});
  edited("files", 3, {"\"files\" is number"});
  edited("state", Json::array(), {"\"state\" is array"});
  Json m = good;
  m["files"]["model"]["another"] = "00000000";
  write(m);
  refused({}, 3, {"tensors, the manifest lists"});
  m = good;
  m["files"]["model"].begin().value() = "00000000";
  write(m);
  refused({}, 3, {"CRC of"});
  write(good);

  // Another base under the adapter; another shape of it.
  fs::rename(r / "m", r / "kept");
  Words other = r.init("m", FaultyRun::smallest());
  other.insert(other.end(), {"--seed", "9"});
  REQUIRE(r.run(other) == 0);
  refused({}, 2, {"frozen weights was ", " now"});
  fs::remove_all(r / "m");
  REQUIRE(r.run(r.init("m", FaultyRun::smallest(24))) == 0);
  refused({}, 2, {"model was ", " now"});
  fs::remove_all(r / "m");
  fs::rename(r / "kept", r / "m");
  refused({"--lora-rank", "2"}, 2, {"lora-rank was 4, 2 now"});
  refused({"--lora-rank", "2", "--allow-changed", "lora-rank"}, 3, {"this run expects"});
  CHECK(tried >= 30);
  CHECK(r.finish() == "");
}
