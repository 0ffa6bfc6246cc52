// The guard alone: what it calls a spike, what it never learns from, when a run is lost, and that it comes back to the bit.
#include "train/guard.h"

#include <catch2/catch.hpp>

#include <algorithm>
#include <cmath>

#include "tests/support/temp_folder.h"

using namespace facet;
using namespace facet::test;

namespace {

using Verdict = StepGuard::Verdict;

// Losses around 2 with a deviation of about 0.1, norms around 1; no randomness.
double usual_loss(int64_t step) { return 2 + 0.1 * std::sin(1.7 * static_cast<double>(step)) + 0.05 * std::cos(0.9 * static_cast<double>(step)); }
double usual_norm(int64_t step) { return 1 + 0.2 * std::sin(2.3 * static_cast<double>(step)); }

StepGuard fed(int64_t steps, StepGuard::Options o = {.spikes = true, .loss = true, .clip = 1}) {
  StepGuard g(o);
  for (int64_t s = 1; s <= steps; ++s) REQUIRE(g.judge(s, usual_loss(s), usual_norm(s)).verdict == Verdict::good);
  return g;
}

}  // namespace

TEST_CASE("guard: median and deviation of the last 128 values") {
  RecentValues v;
  CHECK(v.count() == 0);
  CHECK(v.mean() == 0);
  for (const double x : {5.0, 1.0, 3.0}) v.add(x);
  CHECK(v.median() == 3);
  CHECK(v.spread(3) == Approx(1.4826 * 2));
  CHECK(v.mean() == 3);
  for (int i = 0; i < 200; ++i) v.add(i);
  CHECK(v.count() == 128);
  CHECK(v.median() == 136);
  CHECK(v.list().front() == 72);
  CHECK(v.list().back() == 199);
}

TEST_CASE("guard: a loss six deviations above the median, or ten times the usual norm, is a spike; below, or early, it is not") {
  // median about 2, deviation about 0.11
  CHECK(fed(128).judge(129, 2.4, 1).verdict == Verdict::good);
  const auto loss = fed(128).judge(129, 3.2, 1);
  CHECK(loss.verdict == Verdict::spike);
  CHECK_THAT(loss.reason, Catch::StartsWith("loss 3.2 is above 1.999") && Catch::Contains("+ 6 x ") && Catch::Contains("of the last 128"));
  CHECK(fed(128).judge(129, 0.1, 1).verdict == Verdict::good);
  CHECK(fed(128).judge(129, 2, 9).verdict == Verdict::good);
  const auto norm = fed(128).judge(129, 2, 11);
  CHECK(norm.verdict == Verdict::spike);
  CHECK_THAT(norm.reason, Catch::StartsWith("gradient norm 11 is above 10 x "));
  CHECK(fed(63).judge(64, 50, 500).verdict == Verdict::good);
  CHECK(fed(64).judge(65, 50, 1).verdict == Verdict::spike);
  CHECK(fed(128, {.spikes = false, .loss = true, .clip = 1}).judge(129, 50, 500).verdict == Verdict::good);
  CHECK(fed(128, {.spikes = true, .loss = false, .clip = 1}).judge(129, 50, 1).verdict == Verdict::good);
  CHECK(fed(128, {.spikes = true, .loss = false, .clip = 1}).judge(129, 50, 500).verdict == Verdict::spike);
  // Below --clip nothing is odd; and losses that hardly differ have no spikes of a hundredth.
  CHECK(fed(128, {.spikes = true, .loss = true, .clip = 20}).judge(129, 2, 11).verdict == Verdict::good);
  StepGuard flat({.spikes = true, .loss = true, .clip = 1});
  for (int64_t s = 1; s <= 128; ++s) flat.judge(s, 0.001, 0.01);
  CHECK(flat.judge(129, 0.05, 0.9).verdict == Verdict::good);
  CHECK(flat.judge(130, 0.2, 0.9).verdict == Verdict::spike);
}

TEST_CASE("guard: steps without a gradient do not make every other one a spike") {
  StepGuard g({.spikes = true, .loss = false, .clip = 0});
  for (int64_t s = 1; s <= 600; ++s) CHECK(g.judge(s, 0, s % 5 == 0 ? 1 : 0).verdict == Verdict::good);
}

TEST_CASE("guard: what is not finite is refused, never remembered, and does not blind it") {
  for (const double bad : {std::nan(""), HUGE_VAL, -HUGE_VAL})
    for (const bool in_loss : {true, false}) {
      StepGuard g = fed(128);
      const auto j = in_loss ? g.judge(129, bad, 1) : g.judge(129, 2, std::abs(bad));
      CHECK(j.verdict == Verdict::not_finite);
      CHECK(j.reason == (in_loss ? "the loss is not finite" : "the gradient norm is not finite"));
      CHECK(g.judge(130, 2, 1).verdict == Verdict::good);
      CHECK(g.judge(131, 3.2, 1).verdict == Verdict::spike);
    }
}

TEST_CASE("guard: ten steps that are not finite, in a row or among a thousand, end a run") {
  StepGuard row = fed(20);
  for (int64_t s = 21; s <= 30; ++s) {
    CHECK(row.lost(s - 1) == "");
    row.judge(s, NAN, 1);
  }
  CHECK(row.lost(30) == "10 steps in a row were not finite");
  StepGuard far({});
  for (int64_t s = 1; s <= 1200; ++s) {
    far.judge(s, s % 110 == 0 ? NAN : 2, 1);
    if (s < 1100) CHECK(far.lost(s) == "");
    if (s == 1100) CHECK(far.lost(s) == "10 of the last 1000 steps were not finite");
  }
  StepGuard rare({});
  for (int64_t s = 1; s <= 5000; ++s) {
    rare.judge(s, s % 112 == 0 ? NAN : 2, 1);
    CHECK(rare.lost(s) == "");
  }
}

TEST_CASE("guard: three spikes among twenty steps ask to go back to before the first") {
  const auto run = [](std::initializer_list<int64_t> spikes) {
    StepGuard g = fed(128);
    int64_t since = 0;
    for (int64_t s = 129; s <= 200; ++s) {
      const bool spike = std::find(spikes.begin(), spikes.end(), s) != spikes.end();
      g.judge(s, spike ? 5 : usual_loss(s), usual_norm(s));
      if (const int64_t first = g.spikes_since(s); first > 0 && since == 0) since = first;
    }
    return since;
  };
  CHECK(run({130, 140, 149}) == 130);
  CHECK(run({130, 140, 150}) == 0);
  CHECK(run({131, 145, 150, 163}) == 131);
}

TEST_CASE("guard: the share of clipped steps") {
  StepGuard g({.spikes = true, .loss = true, .clip = 1});
  for (int64_t s = 1; s <= 40; ++s) g.judge(s, 2, s % 4 == 0 ? 1.5 : 0.5);
  CHECK(g.clipped() == 0.25);
  StepGuard off({.spikes = true, .loss = true, .clip = 0});
  off.judge(1, 2, 100);
  CHECK(off.clipped() == 0);
}

TEST_CASE("guard: it goes on after a resume as if nothing had been") {
  StepGuard a = fed(150);
  a.judge(151, NAN, 1);
  a.judge(152, 9, 1);
  a.judge(153, 9, 1);
  Snapshot s;
  a.save(s);
  const FoundCheckpoint found{"here", 153, s.state, {}};
  StepGuard b({.spikes = true, .loss = true, .clip = 1});
  b.restore(found);
  Snapshot again;
  b.save(again);
  CHECK(again.state == s.state);
  CHECK(b.clipped() == a.clipped());
  for (StepGuard* g : {&a, &b}) {
    CHECK(g->judge(154, 2.4, 1).verdict == Verdict::good);
    CHECK(g->judge(155, 3.4, 1).verdict == Verdict::spike);
    CHECK(g->spikes_since(155) == 152);
  }
  FoundCheckpoint broken = found;
  broken.state["guard.losses"] = "0x1p+1,oops";
  CHECK_THROWS_WITH(b.restore(broken), Catch::Contains("here: the state's \"guard.losses\" is \"0x1p+1,oops\", expected numbers"));
  broken.state.erase("guard.losses");
  CHECK_THROWS_WITH(b.restore(broken), Catch::Contains("lacks \"guard.losses\""));
}
