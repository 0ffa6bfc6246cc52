// Loss of power after every call of a run that was killed once and resumed: what may be left then holds the last checkpoint that was
// announced, or a newer one, whole; and goes on to the bytes of a run that had power all the time.
#include <set>

#include "tests/faults/faulty.h"
#include "tests/faults/power_loss.h"

using namespace facet::test;
namespace fs = std::filesystem;

namespace {

struct Count {
  int images = 0, resumed = 0;
};

size_t hash_of(const Disk::Image& image) {
  size_t hash = 0;
  for (const auto& [name, bytes] : image)
    for (const std::string* text : {&name, &bytes}) hash = hash * 0x9e3779b97f4a7c15u + std::hash<std::string>()(*text);
  return hash;
}

// Every `stride`th call, `chances` images by chance beside the three that are no chance; every `resume`th image is gone on with.
Count lose_power(const std::string& kind, int stride, int chances, int resume) {
  const FaultyRun r(kind, 4, 1);
  const Faults record = {{"RECORD", r / "record"}};
  Faults killed = record;
  killed.insert({{"DO", "die"}, {"AT", "300"}});
  REQUIRE(r.go(killed) == 1000 + SIGKILL);
  REQUIRE(r.announced() >= 1);
  REQUIRE(r.go(record) == 0);
  REQUIRE(difference(r.want, results_of(r.folder())) == "");

  Disk disk(r / "disk");
  std::mt19937 random(day());
  std::set<size_t> seen;  // by their hashes: the images themselves would fill the memory
  Count count;
  int64_t announced = 0, named = 0;
  const std::vector<Call> calls = read_record(r / "record");
  const std::vector<bool> distinct = distinct_moments(calls);
  int moments = 0;
  for (size_t n = 0; n < calls.size(); ++n) {
    const Call& call = calls[n];
    disk.apply(call);
    // A checkpoint is announced when LATEST is safe.
    if (call.name == "rename" && call.data.ends_with("/LATEST")) named = std::stoll(disk.content_of(call.data).substr(5));
    if (call.name == "sync" && named > announced) announced = named;
    if (!distinct[n] || ++moments % stride != static_cast<int>(day()) % stride) continue;
    for (int i = 0; i < 3 + chances; ++i) {
      const auto loss = static_cast<Disk::Loss>(std::min(i, 3));
      const Disk::Image image = disk.after(loss, random);
      if (!seen.insert(hash_of(image)).second) continue;
      INFO(kind << ", after call " << n << " (" << call.name << " " << call.path << "), loss " << static_cast<int>(loss) << ", seed " << day());
      restore(image, r / "disk");
      ++count.images;
      const std::string trouble = fs::exists(r.folder() + "/checkpoints") ? r.trouble(r.folder() + "/checkpoints", announced) : announced ? "no checkpoints" : "";
      REQUIRE(trouble == "");
      if (count.images % resume) continue;
      ++count.resumed;
      REQUIRE(r.finish() == "");
    }
  }
  return count;
}

}  // namespace

TEST_CASE("faults: a disk that forgets, forgets") {
  std::mt19937 random(1);
  Disk d("/r");
  const auto files = [&](Disk::Loss loss) { return d.after(loss, random); };
  using Image = Disk::Image;
  d.apply({"make", 0, 0, "/r/a", ""});
  d.apply({"create", 3, 0, "/r/a/tmp", ""});
  d.apply({"write", 3, 0, "", "text"});
  CHECK(files(Disk::Loss::everything) == Image{});
  CHECK(files(Disk::Loss::nothing) == Image{{"a/", ""}, {"a/tmp", "text"}});
  CHECK(files(Disk::Loss::contents) == Image{{"a/", ""}, {"a/tmp", ""}});
  d.apply({"sync", 3, 0, "", ""});
  CHECK(files(Disk::Loss::everything) == Image{});  // the content is safe, no name leads to it
  d.apply({"folder", 4, 0, "/r", ""});
  d.apply({"sync", 4, 0, "", ""});
  CHECK(files(Disk::Loss::everything) == Image{{"a/", ""}});
  d.apply({"folder", 5, 0, "/r/a", ""});
  d.apply({"sync", 5, 0, "", ""});
  d.apply({"rename", 0, 0, "/r/a/tmp", "/r/a/file"});
  d.apply({"write", 3, 4, "", " and more"});
  CHECK(files(Disk::Loss::everything) == Image{{"a/", ""}, {"a/tmp", "text"}});
  CHECK(files(Disk::Loss::nothing) == Image{{"a/", ""}, {"a/file", "text and more"}});
  CHECK(files(Disk::Loss::contents) == Image{{"a/", ""}, {"a/file", "text"}});
  std::set<Image> some;
  for (int i = 0; i < 200; ++i) some.insert(files(Disk::Loss::some));
  CHECK(some.size() > 8);  // either name, lengths from 4 to 13, zeros or the text
  CHECK(some.count({{"a/", ""}, {"a/tmp", "text and more"}}) == 1);
  CHECK(some.count({{"a/", ""}, {"a/file", std::string("text\0\0\0\0\0\0\0\0\0", 13)}}) == 1);
}

TEST_CASE("faults: power is lost, after some calls", "[full]") {
  const Count count = lose_power("sft", 12, 2, 40);
  WARN(count.images << " images, " << count.resumed << " of them resumed");
  CHECK(count.images > 60);
}
TEST_CASE("faults: power is lost, after every call", "[nightly]") {
  for (const std::string kind : {"sft", "sft lora", "dpo cache", "grpo updates"})
    DYNAMIC_SECTION(kind) {
      const Count count = lose_power(kind, 1, 8, 20);
      WARN(kind << ": " << count.images << " images, " << count.resumed << " of them resumed");
      CHECK(count.images > 1000);
    }
}
