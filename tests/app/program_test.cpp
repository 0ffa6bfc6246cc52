// The program as a person meets it: exit codes, one line on standard error, nothing on it when all is well.
#include "app/program.h"


#include <algorithm>
#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include "tests/app/run.h"

using namespace facet::app;

TEST_CASE("program: help of every command mentions every option") {
  for (const Command& c : commands()) {
    INFO(c.name);
    CHECK_FALSE(c.summary.empty());
    const auto invocation = c.make();
    const Options& options = invocation->options();
    const std::string page = options.help(c.summary, c.details, true);
    for (const Option& o : options.list()) {
      INFO(o.name);
      CHECK(page.find("--" + o.name) != std::string::npos);
      CHECK_FALSE(o.help.empty());
      // a section named like an option would stand twice in the resolved config
      for (const Option& other : options.list()) CHECK((o.name != other.section || o.section == other.section));
    }
    for (const char* common : {"config", "set", "seed", "threads", "device", "dtype", "quiet", "verbose", "json", "offline", "help"})
      CHECK(options.find(common));
  }
  const Result overview = run_facet("--help");
  CHECK(overview.code == 0);
  for (const Command& c : commands()) CHECK(overview.out.find(c.name) != std::string::npos);
  CHECK(run_facet("").out == overview.out);
  const Result page = run_facet("env --help");
  CHECK(page.code == 0);
  CHECK(page.out.rfind("usage: facet env", 0) == 0);
}

TEST_CASE("program: usage errors are one line and exit code 2") {
  const char* wrong[][2] = {
      {"emv", "facet: command \"emv\" unknown, did you mean \"env\"?\n"},
      {"env --sede 1", "facet: --sede unknown, did you mean --seed?\n"},
      {"env --seed 1e-3x", "facet: --seed: \"1e-3x\" is not a number\n"},
      {"env --seed 1 --seed=2", "facet: --seed: given 2 times or as a list; expected one value\n"},
      {"env --threads 0", "facet: --threads: \"0\" is neither auto nor a number from 1 to 9999\n"},
      {"env --dtype f23", "facet: --dtype: \"f23\" is none of auto, f32, bf16, f64; did you mean f32?\n"},
      {"env --set see=1", "facet: --set see unknown, did you mean seed?\n"},
  };
  for (const auto& [args, message] : wrong) {
    INFO(args);
    const Result r = run_facet(args);
    CHECK(r.code == 2);
    CHECK(r.out.empty());
    CHECK(r.err == message);
  }
}

TEST_CASE("program: a device that is not there is exit code 5 and one line with the cause") {
  for (const char* words : {"env --device cuda", "conformance", "bench step --device cuda"}) {
    const Result r = run_facet(words);
    if (r.code == 0 && r.out.find("emulated") == std::string::npos) {
      WARN("this machine has a GPU");
      return;
    }
    INFO(words << ": " << r.err);
    CHECK(r.code == 5);
    CHECK(r.err.rfind("facet: --device cuda: ", 0) == 0);
    CHECK(std::count(r.err.begin(), r.err.end(), '\n') == 1);
    CHECK((r.err.find("--device cpu") != std::string::npos || r.err.find("nvcc") != std::string::npos));
  }
  const Result env = run_facet("env");
  CHECK(env.code == 0);
  CHECK_THAT(env.out, Catch::Contains("\ngpu              none: "));
}

TEST_CASE("program: a misspelt variable is named") {
  const Result r = run_facet("env --json", "FACET_SEDE=1");
  CHECK(r.code == 0);
  CHECK(r.err == "facet: warning: FACET_SEDE in the environment is no setting of any command, did you mean FACET_SEED?\n");
}

TEST_CASE("env: prints what an issue needs") {
  const Result r = run_facet("env --json --threads 3");
  CHECK(r.code == 0);
  CHECK(r.err.empty());
  const auto j = nlohmann::json::parse(r.out);
  for (const char* key : {"facet", "built with", "libraries", "cpu", "instruction set", "cores", "threads", "memory", "system"})
    CHECK_FALSE(j.at(key).get<std::string>().empty());
  CHECK(j.at("threads").get<std::string>() == "3 (as asked)");
  // Threads that wait for each other sleep soon; who asks for something else gets it.
  CHECK(j.at("turns of waiting").get<std::string>() == "1000");
  CHECK(run_facet("env", "GOMP_SPINCOUNT=7").out.find("turns of waiting 7\n") != std::string::npos);
  CHECK(run_facet("env", "OMP_WAIT_POLICY=active").out.find("turns of waiting active\n") != std::string::npos);
  CHECK(run_facet("env", "FACET_TIER=portable").out.find("portable (FACET_TIER)") != std::string::npos);
  CHECK(run_facet("--version").out.rfind("facet ", 0) == 0);
}
