#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include "tests/app/run.h"

TEST_CASE("data make: the same options, the same bytes, usable at once") {
  TempFile scratch("x", "");
  const auto slurp = [](const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return std::string{std::istreambuf_iterator<char>(file), {}};
  };
  const std::string a = scratch.folder + "/a", b = scratch.folder + "/b", c = scratch.folder + "/c";
  REQUIRE(run_facet("data make radicals -n 50 --valid 10 --test 10 " + a).code == 0);
  REQUIRE(run_facet("data make radicals -n 50 --valid 10 --test 10 --out " + b).code == 0);
  REQUIRE(run_facet("data make radicals -n 50 --valid 10 --test 10 --seed 2 --primes 2,3 --demos clean --split length --out " + c).code == 0);
  CHECK_FALSE(slurp(a + "/train.jsonl").empty());
  CHECK(slurp(a + "/train.jsonl") == slurp(b + "/train.jsonl"));
  CHECK(slurp(a + "/train.jsonl") != slurp(c + "/train.jsonl"));
  const auto j = nlohmann::json::parse(run_facet("data stats --json " + a).out);
  CHECK(j.at("train").at("examples") == 50);
  CHECK(j.at("valid").at("examples") == 10);
  REQUIRE(run_facet("data make prose -n 5000 " + scratch.folder + "/prose").code == 0);
  CHECK(slurp(scratch.folder + "/prose/train.txt").size() >= 5000);
  REQUIRE(run_facet("data make dialogues " + scratch.folder + "/dialogues").code == 0);
  CHECK(run_facet("data check " + scratch.folder + "/dialogues/dialogues.jsonl").code == 0);
}

TEST_CASE("data make: options of another kind are refused") {
  CHECK(run_facet("data make prose --primes 2").err == "facet: --primes is for radicals, not for prose\n");
  CHECK(run_facet("data make radicals --primes 2,4").err == "facet: --primes: \"4\" is no prime below 10000\n");
  CHECK(run_facet("data make radicles").err.find("did you mean radicals?") != std::string::npos);
  CHECK(run_facet("data make radicals --min-factors 5 --max-factors 3").code == 2);
}
