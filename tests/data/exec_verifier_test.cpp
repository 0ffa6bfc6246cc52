// Rewards from programs: what they are told, and everything they can do wrong.
#include "data/exec_verifier.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <thread>

#include "tensor/parallel.h"
#include "tests/data/files.h"

using namespace facet;

namespace {

const Question question{.prompt = "2+2?", .ids = {}, .expected = "4", .row = R"({"question": "2+2?", "answer": "4", "level": 3, "completion": "old"})", .where = "t.jsonl:1", .line = 1};

std::vector<Verdict> judge(const std::string& command, size_t n = 3, double seconds = 5) {
  std::vector<Judged> answers;
  for (size_t i = 0; i < n; ++i) answers.push_back({&question, std::string(i, 'x')});
  return make_verifier("exec:" + command, {.seconds = seconds, .seconds_per_row = 0})->judge(answers);
}

double seconds_of(const std::function<void()>& f) {
  const auto begin = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

size_t open_files() {
  const std::filesystem::directory_iterator all("/proc/self/fd");
  return static_cast<size_t>(std::distance(begin(all), end(all)));
}

std::string content(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// Whether the process whose number a file holds is gone within a second; zombies of others count as gone.
bool gone(const std::string& path) {
  const std::string pid = content(path);
  REQUIRE(!pid.empty());
  for (int i = 0; i < 200; ++i) {
    std::ifstream stat("/proc/" + std::to_string(std::stoi(pid)) + "/stat");
    std::string number, name, state;
    if (!(stat >> number >> name >> state) || state == "Z") return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  ::kill(std::stoi(pid), SIGKILL);  // nobody else will
  return false;
}

void all_fail(const std::vector<Verdict>& verdicts, const std::string& part) {
  REQUIRE(!verdicts.empty());
  for (const Verdict& v : verdicts) {
    INFO(v.error << "  should hold  " << part);
    CHECK(v.error.find(part) != v.error.npos);
  }
}

}  // namespace

TEST_CASE("exec: rows go in, numbers come out", "[data]") {
  const Files files;
  const std::string copy = files.path("in");
  auto r = judge("tee '" + copy + "' | sed 's/.*/0.5/'");
  REQUIRE(r.size() == 3);
  for (const Verdict& v : r) {
    CHECK(v.error.empty());
    CHECK(v.reward == 0.5);
  }
  CHECK(content(copy).starts_with("{\"answer\":\"4\",\"completion\":\"\",\"level\":3,\"prompt\":\"2+2?\",\"question\":\"2+2?\"}\n"));
  r = judge("cat >/dev/null; printf ' 1 \\r\\n-2.5e-1\\n3'");  // spaces, line ends, no last one
  CHECK(r[0].reward == 1);
  CHECK(r[1].reward == -0.25);
  CHECK(r[2].reward == 3);
  CHECK(r[2].error.empty());
  CHECK(judge("cat", 0).empty());
  // Text that is no UTF-8 and text that holds lines and quotes arrive as JSON.
  const Judged odd[] = {{&question, "a\"\n\xff"}};
  CHECK(make_verifier("exec:tee '" + copy + "' | wc -l")->judge(odd)[0].reward == 1);
  CHECK(content(copy).find("\"completion\":\"a\\\"\\n\u00ef\u00bf\u00bd\"") == std::string::npos);
  CHECK(content(copy).find("a\\\"\\n\xef\xbf\xbd") != std::string::npos);
  // A prompt of messages stays one; a row without columns has its prompt.
  Question bare = question;
  bare.row = {};
  const Judged plain[] = {{&bare, "b"}};
  make_verifier("exec:cat > '" + copy + "'; echo 1")->judge(plain);
  CHECK(content(copy) == "{\"completion\":\"b\",\"prompt\":\"2+2?\"}\n");
}

TEST_CASE("exec: a line that is no number costs its row only", "[data]") {
  const auto r = judge("cat >/dev/null; printf '1\\nnan\\n\\ninf\\n1e999\\nnull\\n1 2\\n0x10\\n2\\n'", 9);
  CHECK(r[0].error.empty());
  CHECK(r[8].reward == 2);
  CHECK(r[8].error.empty());
  CHECK(r[1].error == "\"nan\" is no finite number");
  CHECK(r[2].error == "\"\" is no finite number");
  for (size_t i = 1; i < 8; ++i) CHECK(r[i].error.find("is no finite number") != std::string::npos);
  Rewards rewards;
  rewards.add(make_verifier("exec:cat >/dev/null; printf '1\\nnan\\n'"));
  const Judged two[] = {{&question, "a"}, {&question, "b"}};
  CHECK(rewards.judge(two)[1].error == "reward \"exec:cat >/dev/null; printf '1\\nnan\\n'\" raised at sample 2: \"nan\" is no finite number");
}

TEST_CASE("exec: programs that fail", "[data]") {
  all_fail(judge("cat >/dev/null; echo 1"), "1 line for 3 samples");
  all_fail(judge("cat >/dev/null; seq 4"), "4 lines for 3 samples");
  all_fail(judge("true"), "0 lines for 3 samples");
  all_fail(judge("cat >/dev/null; seq 3; exit 3"), "exit status 3");
  all_fail(judge("echo first >&2; echo 'cannot see' >&2; exit 1"), "exit status 1; it said: cannot see");
  all_fail(judge("/no/such/judge"), "exit status 127; it said: ");
  all_fail(judge("seq 3; kill -9 $$"), "killed by signal 9");
  all_fail(judge("seq 3; kill -SEGV $$"), "killed by signal 11");
}

TEST_CASE("exec: programs that never end are killed with their children", "[data]") {
  const Files files;
  const std::string pid = files.path("pid");
  const double took = seconds_of([&] {
    all_fail(judge("sleep 100", 1, 0.2), "no answer within 0.2 s, killed");
    all_fail(judge("trap '' TERM INT HUP; echo $$ > '" + pid + "'; seq 3; while :; do sleep 1; done", 3, 0.2), "killed");
    CHECK(gone(pid));
    all_fail(judge("seq 3; exec >&- 2>&-; sleep 100", 3, 0.2), "killed");  // closed its output, goes on
    all_fail(judge("while :; do echo noise >&2; done", 1, 0.2), "killed; it said: noise");
  });
  CHECK(took < 3);
  // A grandchild that holds the output open does not hold up the answer, and does not outlive it.
  CHECK(seconds_of([&] { CHECK(judge("sleep 100 & echo $! > '" + pid + "'; seq 3")[2].reward == 3); }) < 2);
  CHECK(gone(pid));
}

TEST_CASE("exec: what is left running ends with the trainer, even when that is killed", "[data]") {
  const Files files;
  const std::string pid = files.path("pid");
  const pid_t trainer = ::fork();
  if (trainer == 0) {
    judge("echo $$ > '" + pid + "'; while :; do sleep 1; done", 1, 60);
    ::_exit(0);
  }
  REQUIRE(trainer > 0);  // kill(-1) would mean everybody
  for (int i = 0; i < 400 && content(pid).empty(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  ::kill(trainer, SIGKILL);
  ::waitpid(trainer, nullptr, 0);
  CHECK(gone(pid));
}

TEST_CASE("exec: large inputs and outputs, closed ends, no descriptor left", "[data]") {
  const size_t before = open_files();
  std::vector<Judged> answers(400, {&question, std::string(10000, 'x')});  // 4 MB: no pipe holds that
  const auto all = [&](const std::string& command) { return make_verifier("exec:" + command)->judge(answers); };
  CHECK(all("wc -l | xargs seq")[399].reward == 400);
  CHECK(all("exec <&-; seq 400")[399].reward == 400);         // SIGPIPE would end this test
  CHECK(all("head -c 10 >/dev/null; seq 400")[7].reward == 8);
  CHECK(all("sed -u 's|.*|1|'")[399].error.empty());  // answers while it is told
  const double took = seconds_of([&] { all_fail(all("head -c 1000000000 /dev/zero"), "it wrote more than 91,136 bytes"); });
  CHECK(took < 2);
  all_fail(all("yes"), "it wrote more than 91,136 bytes");
  CHECK(all("head -c 10000000 /dev/zero >&2; seq 400")[0].reward == 1);  // errors are read and dropped
  for (int i = 0; i < 5; ++i) judge("exit 1"), judge("sleep 9", 1, 0.01);
  CHECK(open_files() == before);
  CHECK(::waitpid(-1, nullptr, WNOHANG) == -1);  // nor a child
  struct sigaction action {};
  ::sigaction(SIGPIPE, nullptr, &action);
  CHECK(action.sa_handler == SIG_DFL);
  sigset_t blocked;
  pthread_sigmask(SIG_SETMASK, nullptr, &blocked);
  CHECK(sigismember(&blocked, SIGPIPE) == 0);
}

TEST_CASE("exec: while the threads of the kernels exist", "[data]") {
  std::vector<double> sums(64);
  for (int round = 0; round < 3; ++round) {
    parallel_for(64, 1, 1 << 20, [&](int64_t a, int64_t b) {
      for (int64_t i = a; i < b; ++i) sums[static_cast<size_t>(i)] += 1;
    });
    CHECK(judge("cat >/dev/null; seq 3")[2].reward == 3);
  }
  CHECK(sums[63] == 3);
}
