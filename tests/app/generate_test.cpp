// generate and chat as a person or a script meets them: prompts from everywhere, batches, streams, what filters cut, a full context.
#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include <fcntl.h>
#include <pty.h>

#include <algorithm>
#include <sstream>

#include "data/tokenizer.h"
#include "tensor/io/text.h"
#include "tests/app/run.h"

namespace {

const std::string model = FACET_GOLDENS "/gemma3-tiny";

std::vector<nlohmann::json> json_lines(const std::string& text) {
  std::vector<nlohmann::json> list;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) list.push_back(nlohmann::json::parse(line));
  return list;
}

// What a program writes, write by write: a pipe in packet mode keeps them apart.
std::vector<std::string> packets_of(std::vector<std::string> words) {
  int ends[2];
  REQUIRE(::pipe2(ends, O_DIRECT) == 0);
  words.insert(words.begin(), FACET_PROGRAM);
  std::vector<char*> argv;
  for (std::string& w : words) argv.push_back(w.data());
  argv.push_back(nullptr);
  const pid_t pid = ::fork();
  if (pid == 0) {
    ::dup2(ends[1], STDOUT_FILENO);
    ::execv(FACET_PROGRAM, argv.data());
    ::_exit(126);
  }
  ::close(ends[1]);
  std::vector<std::string> packets;
  char buffer[4096];
  for (ssize_t n; (n = ::read(ends[0], buffer, sizeof buffer)) > 0;) packets.emplace_back(buffer, static_cast<size_t>(n));
  ::close(ends[0]);
  int status = 0;
  ::waitpid(pid, &status, 0);
  CHECK(WEXITSTATUS(status) == 0);
  return packets;
}

}  // namespace

TEST_CASE("generate: prompts from the command line, standard input, a text file and rows get the same answers, alone and in a batch") {
  const std::vector<std::string> prompts = {"Hi", "What is the root of two? I would like to know it", "é"};
  const TempFile lines("p.txt", prompts[0] + "\n" + prompts[1] + "\n\n" + prompts[2] + "\n");
  const TempFile rows("p.jsonl", R"({"prompt":"Hi"}
{"prompt":"What is the root of two? I would like to know it"}
{"prompt":"é"}
)");
  for (const std::string how : {"", "--raw"}) {
    const std::string flags = "generate " + model + " --greedy -n 12 " + how;
    const auto from_lines = json_lines(run_facet(flags + " --prompts " + lines.path).out), from_rows = json_lines(run_facet(flags + " --prompts " + rows.path).out);
    REQUIRE(from_lines.size() == 3);
    CHECK(from_lines == from_rows);
    for (size_t i = 0; i < 3; ++i) {
      const TempFile input("in", prompts[i]);
      const auto alone = nlohmann::json::parse(run_facet(flags + " --json -p '" + prompts[i] + "'").out);
      CHECK(alone.at("completion") == from_lines[i].at("completion"));
      CHECK(alone.at("stop") == from_lines[i].at("stop"));
      CHECK(nlohmann::json::parse(run_facet(flags + " --json -p -", "", input.path).out) == alone);
    }
  }
  const auto with_tokens = json_lines(run_facet("generate " + model + " --greedy -n 3 --logprobs --prompts " + lines.path).out);
  CHECK(with_tokens[1].at("tokens").size() == 3);
  CHECK(with_tokens[1].at("tokens")[0].at("logprob") < 0);
  CHECK(run_facet("generate " + model + " --system x --prompts " + rows.path).err.find("\"system\"") != std::string::npos);
  CHECK(run_facet("generate " + model + " --prompts /nowhere.txt").code == 4);
}

TEST_CASE("generate: a seed replays on any number of threads and in any room; forbidden pieces never come") {
  const std::string base = "generate " + model + " -p Hi -n 24 --seed 5 --json ";
  const std::string first = run_facet(base + "--threads 1").out;
  CHECK(run_facet(base + "--threads 2").out == first);
  CHECK(run_facet(base + "--threads 3 --max-len 60").out == first);
  CHECK(run_facet(base + "--context 200").out == first);
  CHECK(run_facet("generate " + model + " -p Hi -n 24 --seed 6 --json").out != first);
  const std::string piece = nlohmann::json::parse(first).at("tokens")[0].at("piece");
  const auto without = nlohmann::json::parse(run_facet(base + "--forbid '" + piece + "'").out);
  for (const auto& t : without.at("tokens")) CHECK(t.at("piece") != piece);
  CHECK(run_facet("generate " + model + " -p Hi -n 24 --context 4").err.find("the context is 4") != std::string::npos);
}

TEST_CASE("generate: --logprobs shows what the filters left") {
  const Result cut = run_facet("generate " + model + " -p Hi -n 6 --top-k 7 --logprobs");
  CHECK(cut.out.find("       7  0.") != std::string::npos);
  CHECK(cut.out.find("the filters left 7.0 of 512 tokens, ") != std::string::npos);
  const auto j = nlohmann::json::parse(run_facet("generate " + model + " -p Hi -n 6 --top-k 7 --json").out).at("tokens");
  const auto plain = nlohmann::json::parse(run_facet("generate " + model + " -p Hi -n 6 --json").out).at("tokens");
  REQUIRE(j.size() == 6);
  for (const auto& t : j) {
    CHECK(t.at("kept") == 7);
    CHECK(t.at("mass") > 0);
    CHECK(t.at("mass") < 1);
  }
  CHECK_FALSE(plain[0].contains("kept"));
  CHECK(run_facet("generate " + model + " -p Hi -n 6 --greedy --top-k 7 --logprobs").out.find("filters") == std::string::npos);
}

TEST_CASE("generate: every token is written when it is drawn, and no write splits a character") {
  const auto tokenizer = facet::Tokenizer::load(model);
  for (const std::string seed : {"1", "2", "3"}) {
    const std::string flags = " -p Hi -n 40 --temp 1.5 --seed " + seed;
    // What each token adds to the text; one that ends no character adds nothing, those after it do.
    facet::StreamDecoder decoder(tokenizer);
    std::vector<std::string> want;
    const auto answer = nlohmann::json::parse(run_facet("generate " + model + flags + " --json").out);
    for (const auto& t : answer.at("tokens")) {
      const auto id = t.at("id").get<int32_t>();
      const bool stop = std::ranges::count(tokenizer.stop_ids(), id) > 0;
      if (const std::string piece = stop ? "" : decoder.push(id); !piece.empty()) want.push_back(piece);
    }
    if (const std::string rest = decoder.finish(); !rest.empty()) want.push_back(rest);
    want.push_back("\n");
    CHECK(want.size() > 8);
    const auto packets = packets_of({"generate", model, "-p", "Hi", "-n", "40", "--temp", "1.5", "--seed", seed});
    CHECK(packets == want);
    for (const std::string& p : packets) CHECK(facet::invalid_utf8(p) == std::string::npos);
  }
}

TEST_CASE("chat: a line can be edited on a terminal") {
  std::ifstream program(FACET_PROGRAM, std::ios::binary);
  if (std::string{std::istreambuf_iterator<char>(program), {}}.find("libreadline") == std::string::npos) {
    WARN("built without readline");
    return;
  }
  int terminal = -1;
  const pid_t pid = ::forkpty(&terminal, nullptr, nullptr, nullptr);
  if (pid == 0) {
    ::execl(FACET_PROGRAM, FACET_PROGRAM, "chat", model.c_str(), "--greedy", "-n", "8", nullptr);
    ::_exit(126);
  }
  std::string shown;
  const auto read_until = [&](const std::string& text) {  // or the end
    char buffer[4096];
    for (ssize_t n; text.empty() || shown.find(text) == std::string::npos; shown.append(buffer, static_cast<size_t>(n)))
      if ((n = ::read(terminal, buffer, sizeof buffer)) <= 0) return;
  };
  const auto type = [&](const std::string& keys) { REQUIRE(::write(terminal, keys.data(), keys.size()) == static_cast<ssize_t>(keys.size())); };
  read_until("> ");
  type("ii\x01h\x05\x7f\n");  // to the front, an h, to the end, one back: hi
  type("/quit\n");
  read_until("");
  ::close(terminal);
  int status = 0;
  ::waitpid(pid, &status, 0);
  CHECK(WEXITSTATUS(status) == 0);
  std::erase(shown, '\r');
  const TempFile hi("in", "hi\n");
  CHECK(shown.find(run_facet("chat " + model + " --greedy -n 8", "", hi.path).out) != std::string::npos);
}

TEST_CASE("chat: a transcript; what no longer fits is said") {
  const TempFile two("in", "hi\nagain\n");
  const Result r = run_facet("chat " + model + " --greedy -n 8", "", two.path);
  CHECK(r.code == 0);
  CHECK(r.err.empty());
  // The same conversation in one go: the second answer is that to the whole template.
  const std::string first = nlohmann::json::parse(run_facet("generate " + model + " --greedy -n 8 --json -p hi").out).at("completion");
  CHECK(r.out.starts_with(first + "\n"));
  CHECK(run_facet("chat " + model + " --greedy -n 8", "", two.path).out == r.out);
  const Result counted = run_facet("chat -v " + model + " --greedy -n 8", "", two.path);
  CHECK(counted.out.find(" tokens computed before the answer") != std::string::npos);

  const TempFile many("in", "one\ntwo\nthree\nfour\nfive\n");
  const Result full = run_facet("chat " + model + " --greedy -n 8 --context 70", "", many.path);
  CHECK(full.code == 0);
  CHECK(full.err.find("facet: warning: the conversation no longer fits into 70 tokens (--context): the answer is given without the oldest message and its answer, ") != std::string::npos);
  const std::string together = run_facet("chat " + model + " --greedy -n 8 --context 70 2>&1 <" + many.path + " |cat").out;
  const std::string last = together.substr(together.rfind('\n', together.size() - 2) + 1);
  CHECK_FALSE(last.starts_with("facet: warning"));  // the answer comes after it
  const TempFile endless("in", std::string(300, 'x') + "\nhi\n");
  const Result long_message = run_facet("chat " + model + " --greedy -n 8 --context 70", "", endless.path);
  CHECK(long_message.err.find("this message alone makes") != std::string::npos);
  CHECK(long_message.out == first + "\n");
}
