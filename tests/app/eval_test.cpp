// facet eval: accuracy beside loss, labels told apart, pass@k from more answers than k.
#include <nlohmann/json.hpp>

#include "app/answers.h"
#include "tests/app/trainers.h"

using namespace facet::test;
using facet::app::Answer, facet::app::PassRate, facet::app::pass_at, facet::app::pass_rate;
using nlohmann::json;

TEST_CASE("eval: pass@k is the share of all choices of k answers that hold a right one") {
  for (int64_t n = 1; n <= 9; ++n)
    for (int64_t right = 0; right <= n; ++right)
      for (int64_t k = 1; k <= n; ++k) {
        int64_t good = 0, all = 0;
        for (uint32_t choice = 0; choice < (1u << n); ++choice) {
          if (__builtin_popcount(choice) != k) continue;
          ++all;
          good += (choice & ((1u << right) - 1)) != 0;
        }
        INFO(n << " answers, " << right << " right, k " << k);
        CHECK(pass_at(n, right, k) == Approx(static_cast<double>(good) / static_cast<double>(all)).margin(1e-12));
      }
  // Two questions of four answers, one and two of them right; a verifier failed on one of the second's.
  std::vector<std::vector<Answer>> answers(2, std::vector<Answer>(4));
  answers[0][2].right = answers[1][0].right = answers[1][1].right = true;
  answers[1][3].error = "no verdict";
  const PassRate r = pass_rate(answers, {}, 2);
  CHECK(r.pass_k == Approx((0.5 + 1.0) / 2));
  CHECK(r.pass1 == Approx((1.0 / 4 + 2.0 / 3) / 2));
  CHECK(pass_rate(answers).pass_k == 1);
}

TEST_CASE("eval: loss, perplexity and accuracy; pass@k from more answers than k") {
  const Trainers t;
  REQUIRE(t.run({"eval", t / "m", "--data", t / "data/valid.jsonl", "--json", "-q"}) == 0);
  const json lm = json::parse(t.said());
  CHECK(lm.at("perplexity").get<double>() == Approx(std::exp(lm.at("loss").get<double>())));
  CHECK(lm.at("accuracy").get<double>() >= 0);
  CHECK(lm.at("accuracy").get<double>() <= 1);
  REQUIRE(t.run({"eval", t / "m", "--data", t / "data/valid.jsonl"}) == 0);
  CHECK_THAT(t.said(), Catch::Contains(", accuracy 0."));
  const Words drawn = {"eval", t / "m", "--data", t / "data/valid.jsonl", "--task", "verifier", "--verifier", "regex:[0-9]", "-n", "3", "--k", "2", "--samples", "5",
                       "--limit", "6"};
  Words as_json = drawn;
  as_json.insert(as_json.end(), {"--json", "-q"});
  REQUIRE(t.run(as_json) == 0);
  const json r = json::parse(t.said());
  CHECK(r.at("k") == 2);
  CHECK(r.at("samples") == 5);
  CHECK(r.at("pass_k").get<double>() >= r.at("pass1").get<double>());
  REQUIRE(t.run(drawn) == 0);
  CHECK_THAT(t.said(), Catch::Contains("pass@2 ") && Catch::Contains(", from 5 answers to each"));
  CHECK(t.run({"eval", t / "m", "--data", t / "data/valid.jsonl", "--task", "verifier", "--k", "5", "--samples", "2"}) == 2);
  CHECK_THAT(t.said(), Catch::Contains("--samples 2: pass@5 needs at least 5 answers"));
}

TEST_CASE("eval: classification by label tokens") {
  const Trainers t;
  // What stands before "=" decides: learned in a moment.
  std::string rows;
  for (int i = 0; i < 12; ++i)
    for (const char* side : {"2", "3"}) rows += "{\"prompt\": \"" + std::string(1 + i % 4, '7') + side + "=\", \"completion\": \"" + side + "\"}\n";
  t.write("sides.jsonl", rows);
  REQUIRE(t.run({"sft", t / "m", "--data", t / "sides.jsonl", "--out", t / "run", "--steps", "120", "--batch", "8", "--lr", "1e-2", "--threads", "1"}) == 0);
  const Words ask = {"eval", t / "run/final", "--data", t / "sides.jsonl", "--task", "classify"};
  const auto with = [&](const Words& more) {
    Words w = ask;
    w.insert(w.end(), more.begin(), more.end());
    return w;
  };
  REQUIRE(t.run(with({"--json", "-q"})) == 0);
  const json r = json::parse(t.said());
  CHECK(r.at("accuracy") == 1);
  CHECK(r.at("questions") == 24);
  CHECK(r.at("confusion") == json::parse("[[12,0],[0,12]]"));
  CHECK(r.at("labels").size() == 2);
  CHECK(r.at("labels")[0].at("text") == "2");
  CHECK(r.at("label_mass").get<double>() > 0.9);
  REQUIRE(t.run(ask) == 0);
  CHECK_THAT(t.said(), Catch::Contains("accuracy 1.000 (24 of 24), loss ") && Catch::Contains("expected") && Catch::Contains("chosen"));
  // Wrong answers land beside the diagonal: rows are what is expected, columns what was chosen.
  t.write("wrong.jsonl", "{\"prompt\": \"72=\", \"answer\": \"3\"}\n{\"prompt\": \"772=\", \"answer\": \"3\"}\n{\"prompt\": \"773=\", \"answer\": \"3\"}\n");
  REQUIRE(t.run({"eval", t / "run/final", "--data", t / "wrong.jsonl", "--task", "classify", "--labels", "2,3", "--json", "-q"}) == 0);
  const json wrong = json::parse(t.said());
  CHECK(wrong.at("confusion") == json::parse("[[0,0],[2,1]]"));
  CHECK(wrong.at("accuracy").get<double>() == Approx(1.0 / 3));
  // Errors.
  CHECK(t.run(with({"--labels", "2,33"})) == 2);
  CHECK_THAT(t.said(), Catch::Contains("the label \"33\" is 2 tokens (\"3\", \"3\"), and has to be one"));
  CHECK(t.run(with({"--labels", "2,5"})) == 4);
  CHECK_THAT(t.said(), Catch::Contains("sides.jsonl:2: the answer \"3\" is no label"));
  CHECK(t.run(with({"--labels", "2"})) == 2);
  CHECK_THAT(t.said(), Catch::Contains("1 label; at least 2"));
  CHECK(t.run({"eval", t / "run/final", "--data", t / "sides.jsonl", "--labels", "2,3"}) == 2);
  CHECK_THAT(t.said(), Catch::Contains("--labels has no effect without --task classify"));
}
