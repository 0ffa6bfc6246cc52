// Every call of the system that changes a run's folder: the process dies there, or the call fails.
#include "tests/faults/faulty.h"
#include "tests/faults/power_loss.h"

using namespace facet::test;

namespace {

const std::string changing_room = "create,write,make";  // the calls that a full disk refuses

// How many calls of these kinds a run makes to which nothing happens.
long calls_of(const FaultyRun& r, const std::string& kinds) {
  r.start_over();
  REQUIRE(r.go({{"RECORD", r / "record"}}) == 0);
  long n = 0;
  for (const Call& call : read_record(r / "record")) n += kinds.empty() ? call.judged() : ("," + kinds + ",").find("," + call.name + ",") != std::string::npos;
  std::filesystem::remove(r / "record");
  r.start_over();
  return n;
}

// Every `stride`th call; with a stride of one, all of them.
template <class F>
void at_calls(const FaultyRun& r, const std::string& kinds, long stride, F&& check) {
  const long calls = calls_of(r, kinds);
  REQUIRE(calls > 20);
  for (long at = 1 + static_cast<long>(day()) % stride; at <= calls; at += stride) {
    INFO(r.kind << ", call " << at << " of " << calls << " (" << (kinds.empty() ? "all" : kinds) << ")");
    r.start_over();
    check(std::to_string(at));
  }
}

void die(const std::string& kind, const std::string& how, long stride, int kept) {
  const FaultyRun r(kind, 3, kept);
  at_calls(r, how == "tear" ? "write" : "", stride, [&](const std::string& at) {
    Faults f = {{"AT", at}, {"DO", how}};
    if (how == "tear") f["CALLS"] = "write";
    REQUIRE(r.go(f) == 1000 + SIGKILL);
    CHECK(r.trouble() == "");
    CHECK(r.finish() == "");
  });
}

// A call that fails, once or from then on. The run may go on (exit code 0) or end (5, naming the place and the reason); a full
// disk may cost lines of metrics, which is said.
void fail_at(const std::string& kind, const std::string& kinds, bool lasting, int error, long stride) {
  const FaultyRun r(kind);
  at_calls(r, kinds, stride, [&](const std::string& at) {
    const int code = r.go({{"AT", at}, {"CALLS", kinds}, {"DO", (lasting ? "on:" : "once:") + std::to_string(error)}});
    const std::string said = r.said();
    INFO(said);
    CHECK((code == 0 || code == 5));
    if (code == 5) CHECK((said.find(std::strerror(error)) != std::string::npos && said.find(r / "disk") != std::string::npos));
    CHECK(said.find("This is a defect") == std::string::npos);
    CHECK(r.trouble() == "");
    // What cannot be removed stays until the next start.
    if (kinds.find("remove") == std::string::npos) CHECK(r.leftovers() == "");
    if (code == 0) return;
    std::string wrong = r.finish();
    if (const std::string lines = "metrics.jsonl differs; "; said.find("missing from here on") != std::string::npos && wrong.rfind(lines, 0) == 0)
      wrong.erase(0, lines.size());
    CHECK(wrong == "");
  });
}

// A call that was interrupted, or did less than asked, is no failure.
void go_on_at(const std::string& kind, const std::string& what, long stride) {
  const FaultyRun r(kind);
  const std::string kinds = what == "short" ? "write" : "create,write,rename,make";
  at_calls(r, kinds, stride, [&](const std::string& at) {
    CHECK(r.go({{"AT", at}, {"CALLS", kinds}, {"DO", what}}) == 0);
    INFO(r.said());
    CHECK(r.trouble() == "");
    CHECK(difference(r.want, results_of(r.folder())) == "");
  });
}

const std::string interrupted = "once:" + std::to_string(EINTR);

}  // namespace

TEST_CASE("faults: killed at a call, some of them", "[full]") {
  die("sft", "die", 40, 1);
  die("sft", "tear", 40, 2);
}
TEST_CASE("faults: killed at every call, every way to train", "[nightly]") {
  for (const char* kind : {"sft", "sft lora", "dpo cache", "grpo updates"})
    for (const int kept : {1, 2}) {
      die(kind, "die", 1, kept);
      die(kind, "tear", 1, kept);
    }
}

TEST_CASE("faults: a full or failing disk at a call, some of them", "[full]") {
  fail_at("sft", changing_room, true, ENOSPC, 40);
  fail_at("sft", changing_room, false, ENOSPC, 40);
  fail_at("sft", "sync,rename,exchange,remove", false, EIO, 12);
}
TEST_CASE("faults: a full or failing disk at every call, every way to train", "[nightly]") {
  for (const char* kind : {"sft", "sft lora", "dpo cache", "grpo updates"}) {
    for (const bool lasting : {false, true})
      for (const int error : {ENOSPC, EDQUOT}) fail_at(kind, changing_room, lasting, error, 1);
    for (const int error : {EIO, EROFS}) fail_at(kind, "sync,rename,exchange,remove", false, error, 1);
  }
}

TEST_CASE("faults: a disk with too little room for a checkpoint is said before one is begun", "[full]") {
  const FaultyRun r("sft");
  CHECK(r.go({{"FREE", "100000"}, {"RECORD", r / "record"}}) == 5);
  for (const std::string& part : Words{"warning: no checkpoint of step 1 (checkpoint needs ", ", 100.0 kB free in " + r / "disk/run/checkpoints", "training goes on"}) {
    INFO("missing: " << part << "\n" << r.said());
    CHECK(r.said().find(part) != std::string::npos);
  }
  for (const Call& call : read_record(r / "record")) CHECK(call.path.find("checkpoints/tmp.") == std::string::npos);
  CHECK(r.announced() == 0);
  CHECK(r.go({{"FREE", "100000000"}}) == 0);
  CHECK(difference(r.want, results_of(r.folder())) == "");
}

TEST_CASE("faults: interrupted and short calls are gone on with, some of them", "[full]") {
  go_on_at("sft", interrupted, 60);
  go_on_at("sft", "short", 40);
}
TEST_CASE("faults: interrupted and short calls are gone on with, all of them", "[nightly]") {
  for (const char* kind : {"sft", "dpo cache", "grpo updates"}) {
    go_on_at(kind, interrupted, 1);
    go_on_at(kind, "short", 1);
  }
}
