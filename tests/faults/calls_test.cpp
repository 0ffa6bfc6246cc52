// Every call of the system that changes a run's folder: the process dies there, or the call fails.
#include "tests/faults/faulty.h"
#include "tests/faults/power_loss.h"

using namespace facet::test;

namespace {

int tried = 0;  // by a test that leaves out nothing, for its last line
const std::string changing_room = "create,write,make";  // the calls that a full disk refuses

// The calls of these kinds that a run makes to which nothing happens, by their numbers among them.
std::vector<long> calls_of(const FaultyRun& r, const std::string& kinds) {
  r.start_over();
  REQUIRE(r.go({{"RECORD", r / "record"}}) == 0);
  const std::vector<Call> record = read_record(r / "record");
  const std::vector<bool> distinct = distinct_moments(record);
  std::vector<long> numbers;
  long n = 0;
  for (size_t i = 0; i < record.size(); ++i) {
    const bool counts = kinds.empty() ? record[i].judged() : ("," + kinds + ",").find("," + record[i].name + ",") != std::string::npos;
    if (counts && (++n, distinct[i])) numbers.push_back(n);
  }
  std::filesystem::remove(r / "record");
  r.start_over();
  return numbers;
}

// Every `stride`th call; with a stride of one, all of them.
template <class F>
void at_calls(const FaultyRun& r, const std::string& kinds, size_t stride, F&& check) {
  const std::vector<long> calls = calls_of(r, kinds);
  REQUIRE(calls.size() > 20);
  for (size_t i = day() % stride; i < calls.size(); i += stride) {
    INFO(r.kind << ", call " << calls[i] << " of " << calls.back() << " (" << (kinds.empty() ? "all" : kinds) << ")");
    r.start_over();
    check(std::to_string(calls[i]));
    if (stride == 1) ++tried;
  }
}

void die(const std::string& kind, const std::string& how, size_t stride, int kept) {
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
void fail_at(const std::string& kind, const std::string& kinds, bool lasting, int error, size_t stride) {
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
void go_on_at(const std::string& kind, const std::string& what, size_t stride) {
  const FaultyRun r(kind);
  const std::string kinds = what == "short" ? "write" : "create,write,rename,make";
  at_calls(r, kinds, stride, [&](const std::string& at) {
    CHECK(r.go({{"AT", at}, {"CALLS", kinds}, {"DO", what}}) == 0);
    INFO(r.said());
    CHECK(r.trouble() == "");
    CHECK(difference(r.want, results_of(r.folder())) == "");
  });
}

// Every way to train, each a section of its own: `test_faults NAME -c KIND` runs one.
void each_kind(const std::function<void(const std::string&)>& check) {
  for (const std::string kind : {"sft", "sft lora", "dpo cache", "grpo updates"})
    DYNAMIC_SECTION(kind) {
      tried = 0;
      check(kind);
      WARN(kind << ": " << tried << " runs");
    }
}

const std::string interrupted = "once:" + std::to_string(EINTR);

}  // namespace

TEST_CASE("faults: killed at a call, some of them", "[full]") {
  die("sft", "die", 20, 1);
  die("sft", "tear", 15, 2);
}
TEST_CASE("faults: killed at every call, every way to train", "[nightly]") {
  each_kind([](const std::string& kind) {
    for (const int kept : {1, 2}) {
      die(kind, "die", 1, kept);
      die(kind, "tear", 1, kept);
    }
  });
}

TEST_CASE("faults: a full or failing disk at a call, some of them", "[full]") {
  fail_at("sft", changing_room, true, ENOSPC, 15);
  fail_at("sft", changing_room, false, ENOSPC, 15);
  fail_at("sft", "sync,rename,exchange,remove", false, EIO, 12);
}
TEST_CASE("faults: a full or failing disk at every call, every way to train", "[nightly]") {
  each_kind([](const std::string& kind) {
    for (const bool lasting : {false, true})
      for (const int error : {ENOSPC, EDQUOT}) fail_at(kind, changing_room, lasting, error, 1);
    for (const int error : {EIO, EROFS}) fail_at(kind, "sync,rename,exchange,remove", false, error, 1);
  });
}

TEST_CASE("faults: a disk with too little room for a checkpoint is said before one is begun", "[full]") {
  const FaultyRun r("sft");
  CHECK(r.go({{"FREE", "10000"}, {"RECORD", r / "record"}}) == 5);
  for (const std::string& part : Words{"warning: no checkpoint of step 1 (checkpoint needs ", ", 10.0 kB free in " + r / "disk/run/checkpoints", "training goes on"}) {
    INFO("missing: " << part << "\n" << r.said());
    CHECK(r.said().find(part) != std::string::npos);
  }
  for (const Call& call : read_record(r / "record")) CHECK(call.path.find("checkpoints/tmp.") == std::string::npos);
  CHECK(r.announced() == 0);
  CHECK(r.go({{"FREE", "100000000"}}) == 0);
  CHECK(difference(r.want, results_of(r.folder())) == "");
}

TEST_CASE("faults: interrupted and short calls are gone on with, some of them", "[full]") {
  go_on_at("sft", interrupted, 20);
  go_on_at("sft", "short", 15);
}
TEST_CASE("faults: interrupted and short calls are gone on with, all of them", "[nightly]") {
  each_kind([](const std::string& kind) {
    go_on_at(kind, interrupted, 1);
    go_on_at(kind, "short", 1);
  });
}
