// Commands that compute on the GPU where they are told to: what they say is true is asked elsewhere, here they run and say so.
#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include "tests/app/run.h"
#include "tests/app/trace_spans.h"
#include "tests/support/temp_folder.h"

namespace {

/// What a command prints with --json, on the emulated GPU.
nlohmann::json told(const std::string& command) {
  const Result r = run_facet(command + " --device cuda --json --quiet --threads 1", "FACET_GPU=emulated");
  INFO(command << "\n" << r.err);
  REQUIRE(r.code == 0);
  return nlohmann::json::parse(r.out);
}

}  // namespace

TEST_CASE("program: every operation of a step against the GPU's limits", "[full]") {
  const auto rows = told("bench op --only \"demo rms_norm\" --seconds 0.001");
  CHECK(rows.size() == 2);
  for (const auto& row : rows) {
    CHECK(row["rate"].get<double>() > 0);
    CHECK(row["limit"].get<double>() > 0);
    CHECK(row["share"].get<double>() == Approx(row["rate"].get<double>() / row["limit"].get<double>()));
  }
}

TEST_CASE("program: benchmarks compute on the GPU", "[full]") {
  const char* small = " --set model.num_hidden_layers=1 --set model.hidden_size=32 --set model.intermediate_size=32 --set model.max_position_embeddings=80";
  for (const std::string command : {"bench step --batch 2 --max-len 8 --steps 1", "bench adapter --batch 2 --max-len 8 --rounds 1",
                                    "bench infer --preset tiny --prompt 8 --rounds 1", "bench rollout --prompts 2 --group 2 --rows 4 --max-new 2 --decode 2 --rounds 1"})
    CHECK(told(command + small)["device"] == "cuda");
}

TEST_CASE("program: generation waits for the GPU for its tokens and for nothing else", "[full]") {
  const std::string generate = std::string("generate ") + FACET_GOLDENS + "/gemma3-tiny -p Hello -n 12 --quiet --device cuda";
  const Result strict = run_facet(generate + " --assert-no-sync", "FACET_GPU=emulated"), free = run_facet(generate, "FACET_GPU=emulated");
  INFO(strict.err);
  CHECK(strict.code == 0);
  CHECK(strict.out == free.out);
}

TEST_CASE("program: a run goes on where it was begun, on another device only when told", "[full]") {
  const facet::test::TempFolder temp;
  std::ofstream(temp / "a.txt") << "one two three four five six seven";
  const auto sft = [&](const std::string& more) {
    return run_facet(std::string("sft --model ") + FACET_GOLDENS + "/gemma3-tiny --data " + (temp / "a.txt") + " --max-len 8 --batch 1 --steps 2 --save-every 1 " +
                         "--sample-every 9 --eval-every 9 --quiet --threads 1 --out " + (temp / "run") + " " + more,
                     "FACET_GPU=emulated");
  };
  REQUIRE(sft("").code == 0);
  std::filesystem::remove_all(temp / "run/checkpoints/step-2");
  const Result refused = sft("--resume --device cuda");
  CHECK(refused.code == 2);
  CHECK_THAT(refused.err, Catch::Contains("resume: device was not set, cuda now") && Catch::Contains("--allow-changed device accepts it (no longer bitwise)"));
  CHECK(sft("--resume --device cuda --allow-changed device").code == 0);
}

TEST_CASE("program: a trace has the device's time of every span, also of passes that are replayed", "[full]") {
  const facet::test::TempFolder temp;
  for (const char* emulator : {"forward", "deferred"}) {
    INFO(emulator);
    const std::string path = temp / "trace.json";
    const Result r = run_facet("bench step --batch 2 --max-len 8 --steps 3 --threads 1 --device cuda --set model.num_hidden_layers=1 --profile " + path,
                               std::string("FACET_GPU=emulated FACET_EMULATOR=") + emulator);
    INFO(r.err);
    REQUIRE(r.code == 0);
    const auto spans = facet::test::spans_of(path);
    for (const char* kind : {"step", "phase"}) CHECK(count(spans, kind) == count(spans, kind, "", 2));
    CHECK(count(spans, "operation") >= count(spans, "operation", "", 2));  // not of what is recorded to be replayed
    CHECK(count(spans, "phase", "optimizer", 2) == 3);
    CHECK(seconds(spans, "phase", 2) > 0);
    CHECK(seconds(spans, "phase", 2) <= seconds(spans, "step", 2));
    double host_end = 0, device_end = 0;
    for (const auto& s : spans) (s.row == 1 ? host_end : device_end) = std::max(s.row == 1 ? host_end : device_end, s.end);
    CHECK(std::abs(host_end - device_end) < 1e6);  // one clock: within a second
  }
}
