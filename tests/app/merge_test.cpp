// facet merge: what it writes, what it says, and what it refuses.
#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include "tests/app/run.h"

using Catch::Contains;

namespace {
const std::string base = FACET_GOLDENS "/gemma3-tiny", adapter = FACET_GOLDENS "/gemma3-tiny-lora";
}

TEST_CASE("merge: there and back") {
  TempFile scratch("x", "");
  const std::string out = scratch.folder + "/out";
  const Result text = run_facet("merge --base " + base + " --adapter " + adapter + " --out " + out);
  REQUIRE(text.code == 0);
  CHECK_THAT(text.out, Contains("49 matrices") && Contains("worst") && Contains("of 64 greedy choices agree"));
  const Result json =
      run_facet("merge --json --base " + base + " --adapter " + adapter + " --out " + scratch.folder + "/json");
  REQUIRE(json.code == 0);
  const auto report = nlohmann::json::parse(json.out);
  CHECK(report["total"]["ulps"] <= 0.5);
  CHECK(report["logits"]["largest"].get<double>() <= 1e-4);
  CHECK(report["logits"]["of_effect"].get<double>() <= 1e-4);
  CHECK(report["modules"].size() == 49);
  const Result silent = run_facet("merge --check no --json --base " + base + " --adapter " + adapter + " --out " +
                                  scratch.folder + "/silent");
  REQUIRE(silent.code == 0);
  CHECK_FALSE(nlohmann::json::parse(silent.out).contains("logits"));

  const Result exact =
      run_facet("merge --unmerge --model " + out + " --base " + base + " --out " + scratch.folder + "/exact");
  CHECK(exact.code == 0);
  CHECK_THAT(exact.out, Contains("byte for byte"));
  const Result near = run_facet("merge --unmerge --json --model " + out + " --adapter " + adapter + " --out " +
                                scratch.folder + "/near");
  REQUIRE(near.code == 0);
  const auto back = nlohmann::json::parse(near.out);
  CHECK(back["exact"] == false);
  CHECK(back["total"]["ulps"].get<double>() <= 1.0001);
}

TEST_CASE("merge: bad input") {
  TempFile scratch("x", "");
  const std::string out = scratch.folder + "/out";
  const auto refused = [&](const std::string& args, int code, const std::string& part) {
    const Result r = run_facet("merge " + args + " --out " + out);
    INFO(args << "\n" << r.err);
    CHECK(r.code == code);
    CHECK_THAT(r.err, Contains(part));
    CHECK(r.out.empty());
    CHECK_FALSE(std::filesystem::exists(out));
  };
  refused("--base " + base, 2, "--adapter is needed");
  refused("--adapter " + adapter, 2, "--base is needed");
  refused("--unmerge --base " + base, 2, "--unmerge needs --model");
  refused("--unmerge --model " + base, 2, "either --base or --adapter");
  refused("--model " + base + " --base " + base + " --adapter " + adapter, 2, "--model belongs to --unmerge");
  refused("--unmerge --model " + base + " --base " + base, 3, "no record of a merge");
  refused("--base " + base + " --adapter " + base, 3, "no adapter_config.json");
  refused("--base /nowhere --adapter " + adapter, 3, "/nowhere");
  refused("--base " FACET_GOLDENS "/gemma3-rope8 --adapter " + adapter, 3, "hidden 48");
  const Result full = run_facet("merge --base " + base + " --adapter " + adapter + " --out " + scratch.folder);
  CHECK(full.code == 2);
  CHECK_THAT(full.err, Contains("exists and is not empty"));
}
