// The benchmarks run and report what they promise; how fast is not asked here.
#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include "tests/app/run.h"

TEST_CASE("bench step: figures of a small step, time by kernel") {
  const Result r = run_facet("bench step --batch 4 --max-len 8 --steps 2 --threads 1 --profile --json");
  REQUIRE(r.code == 0);
  const auto out = nlohmann::json::parse(r.out);
  CHECK(out["tokens_per_step"] == 32);
  CHECK(out["system_allocations"] == 0);
  CHECK(out["tokens_per_s"].get<double>() > 0);
  CHECK(out["share_of_fma"].get<double>() > 0);
  double shares = out["outside_kernels"];
  double linear_calls = 0;
  for (const auto& k : out["kernels"]) {
    shares += k["share"].get<double>();
    if (k["name"] == "linear") linear_calls = k["calls_per_step"];
  }
  CHECK(shares == Approx(1));
  CHECK(linear_calls == 12);  // three blocks: q k v, o, gate up, down
}

TEST_CASE("bench step: with whole blocks recomputed a layer keeps one residual, however many there are") {
  for (const int layers : {3, 9}) {
    const Result r = run_facet("bench step --batch 4 --max-len 32 --steps 1 --threads 1 --recompute block --mem-report --json --set model.num_hidden_layers=" + std::to_string(layers));
    REQUIRE(r.code == 0);
    const auto memory = nlohmann::json::parse(r.out).at("memory");
    const int64_t residual = memory.at("residual");
    CHECK(memory.at("layers").size() == static_cast<size_t>(layers));
    for (const auto& kept : memory.at("layers")) {
      CHECK(kept.get<int64_t>() >= residual);
      CHECK(kept.get<int64_t>() < residual + 2048);  // nodes of the tape
    }
  }
  const auto all = nlohmann::json::parse(run_facet("bench step --batch 4 --max-len 32 --steps 1 --threads 1 --mem-report --json").out).at("memory");
  CHECK(all.at("layers")[1].get<int64_t>() > 8 * all.at("residual").get<int64_t>());
}

TEST_CASE("bench op: a chosen operation against its limit") {
  const Result r = run_facet("bench op --only demo --seconds 0.001 --threads 1 --json");
  REQUIRE(r.code == 0);
  const auto out = nlohmann::json::parse(r.out);
  CHECK(out.size() > 25);
  for (const auto& row : out) {
    INFO(row.dump());
    CHECK(row["model"] == "demo");
    CHECK(row["rate"].get<double>() > 0);
    CHECK(row["limit"].get<double>() > 0);
  }
  CHECK(run_facet("bench op nonsense").code == 2);
}

TEST_CASE("bench attn: memory grows with the length, and heads that share keys save what repeating them takes") {
  const Result r = run_facet("bench attn --preset gemma3-4b --max-len 256 --window 0 --rounds 1 --threads 1 --json");
  REQUIRE(r.code == 0);
  const auto out = nlohmann::json::parse(r.out);
  REQUIRE(out.at("lengths").size() == 3);
  for (const auto& row : out.at("lengths")) {
    CHECK(row.at("forward_s").get<double>() > 0);
    CHECK(row.at("backward_share_of_fma").get<double>() > 0);
  }
  CHECK(out.at("growth").at("memory").get<double>() < 2.2);
  const auto& heads = out.at("repeated_heads");
  // k, v and their gradients once more, for twice the heads: four tensors of [256, 8, 256] numbers.
  CHECK(heads.at("peak_bytes").get<double>() > heads.at("shared_peak_bytes").get<double>() + 3 * 256 * 8 * 256 * 4);
  CHECK(heads.at("largest_difference").get<double>() <= 1e-5);
  CHECK(run_facet("bench attn --preset gemma3-9b").code == 2);
}
