// What happens to a run from outside, at moments that nobody chose.
#include "tests/faults/faulty.h"

using namespace facet::test;
namespace fs = std::filesystem;

namespace {

void sleep_ms(unsigned n) { std::this_thread::sleep_for(std::chrono::milliseconds(n)); }

// Kills the run again and again; when it comes to its end all the same, that is looked at and another begins.
void kill_at_random(const std::string& kind, int kills, int kept) {
  const FaultyRun r(kind, 12, kept);
  std::mt19937 random(day());
  int ends = 0, since = 0;  // kills since the last end: the longer it takes, the longer it may
  for (int i = 0; i < kills;) {
    INFO(kind << ", kill " << i << ", seed " << day());
    Process p(r.command(), r / "log");
    sleep_ms(static_cast<unsigned>(random()) % (60 + 10 * static_cast<unsigned>(since)));
    p.kill(SIGKILL);
    const int code = p.wait();
    INFO(p.said());
    REQUIRE((code == 0 || code == 1000 + SIGKILL));
    i += code != 0;
    since = code != 0 ? since + 1 : 0;
    if (fs::exists(r.folder() + "/checkpoints")) REQUIRE(r.trouble() == "");
    if (code != 0) continue;
    ++ends;
    REQUIRE(difference(r.want, results_of(r.folder())) == "");
    r.start_over();
  }
  CHECK(r.finish() == "");
  if (kills >= 100) CHECK(ends > 0);
}

// Asks to stop, often twice. Before a run can be asked, the signal ends it as it ends any process.
void signal_at_random(const std::string& kind, int signals) {
  const FaultyRun r(kind, 12, 2);
  std::mt19937 random(day());
  for (int i = 0; i < signals; ++i) {
    const int signal = std::array{SIGINT, SIGTERM, SIGUSR1}[random() % 3], asked = signal == SIGINT ? 130 : 75;
    const bool twice = random() % 3 == 0;
    INFO(kind << ", signal " << signal << (twice ? " twice" : "") << ", number " << i << ", seed " << day());
    Process p(r.command(), r / "log");
    sleep_ms(static_cast<unsigned>(random() % 90));
    p.kill(signal);
    if (twice) sleep_ms(static_cast<unsigned>(random() % 4)), p.kill(signal);
    const auto begin = std::chrono::steady_clock::now();
    const int code = p.wait();
    CHECK(std::chrono::steady_clock::now() - begin < std::chrono::seconds(30));
    INFO(p.said());
    CHECK((code == 0 || code == asked || code == 1000 + signal || (twice && code == 128 + signal)));
    if (fs::exists(r.folder() + "/checkpoints")) REQUIRE(r.trouble() == "");
    if (code == asked && signal != SIGINT) CHECK(r.announced() > 0);
    if (code == 0) {
      REQUIRE(difference(r.want, results_of(r.folder())) == "");
      r.start_over();
    }
  }
  CHECK(r.finish() == "");
}

void start_two(const std::string& kind, int times) {
  const FaultyRun r(kind, 6, 1);
  for (int i = 0; i < times; ++i) {
    INFO(kind << ", time " << i);
    r.start_over();
    const Words w = r.command();
    Process one(w, r / "one"), two(w, r / "two");
    const int a = one.wait(), b = two.wait();
    INFO(one.said() << two.said());
    CHECK((a == 0) + (b == 0) == 1);
    const Process& loser = a == 0 ? two : one;
    // Too late altogether, or while the other one was there.
    if (std::max(a, b) == 5) CHECK(loser.said().find("locked by pid") != std::string::npos);
    else CHECK((std::max(a, b) == 2 && loser.said().find("already holds a run") != std::string::npos));
    CHECK(difference(r.want, results_of(r.folder())) == "");
  }
}

}  // namespace

TEST_CASE("faults: killed at random, 15 times", "[full]") { kill_at_random("sft", 15, 1); }
TEST_CASE("faults: killed at random, 150 times, and every way to train", "[nightly]") {
  kill_at_random("sft", 150, 1);
  for (const char* kind : {"sft lora", "dpo cache", "grpo updates"}) kill_at_random(kind, 50, 2);
}

TEST_CASE("faults: asked to stop at random, 15 times", "[full]") { signal_at_random("sft", 15); }
TEST_CASE("faults: asked to stop at random, 100 times, and every way to train", "[nightly]") {
  signal_at_random("sft", 100);
  for (const char* kind : {"sft lora", "dpo cache", "grpo updates"}) signal_at_random(kind, 50);
}

TEST_CASE("faults: two trainers in one folder, 5 times", "[full]") { start_two("sft", 5); }
TEST_CASE("faults: two trainers in one folder, 20 times", "[nightly]") {
  for (const char* kind : {"sft", "grpo updates"}) start_two(kind, 20);
}
