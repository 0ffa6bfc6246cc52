// Where the tokens of sampled completions lie in the rows that learn from them.
#include "train/policy_batch.h"

#include <algorithm>
#include <catch2/catch.hpp>

using namespace facet;

namespace {

const std::vector<int32_t> p0 = {1, 10, 11}, p1 = {1}, c0 = {20, 21}, c1 = {22}, c2 = {23, 24, 25}, c3 = {26};
const std::vector<PolicySequence> four = {{p0, c0, 0, 0, 0}, {p0, c1, 2, 0, 1}, {p1, c2, 3, 1, 2}, {p1, c3, 6, 1, 3}};

std::vector<int> row(const Tensor& t, int64_t r) {
  std::vector<int> v;
  for (int64_t i = 0; i < t.dim(1); ++i) v.push_back(static_cast<int>(t.at({r, i})));
  return v;
}
using Row = std::vector<int>;

}  // namespace

TEST_CASE("policy batch: a completion a row, padded") {
  const auto batches = policy_batches(four, {.pad_id = 9});
  REQUIRE(batches.size() == 1);
  const PolicyBatch& b = batches[0];
  CHECK((row(b.tokens.ids, 0) == Row{1, 10, 11, 20}));
  CHECK((row(b.tokens.ids, 1) == Row{1, 10, 11, 9}));
  CHECK((row(b.tokens.ids, 2) == Row{1, 23, 24, 9}));
  CHECK((row(b.tokens.positions, 1) == Row{0, 1, 2, -1}));
  CHECK((row(b.labels, 0) == Row{-1, -1, 20, 21}));
  CHECK((row(b.labels, 2) == Row{23, 24, 25, -1}));
  CHECK((b.which == std::vector<int64_t>{-1, -1, 0, 1, -1, -1, 2, -1, 3, 4, 5, -1, 6, -1, -1, -1}));
  CHECK(!b.tokens.segments);
  CHECK(b.computed == 4 + 3 + 3 + 1);
}

TEST_CASE("policy batch: several completions a row are documents") {
  const auto batches = policy_batches(four, {.row_len = 7});
  REQUIRE(batches.size() == 1);
  const PolicyBatch& b = batches[0];
  REQUIRE(b.tokens.ids.dim(0) == 2);
  CHECK((row(b.tokens.ids, 0) == Row{1, 10, 11, 20, 1, 10, 11}));
  CHECK((row(b.tokens.segments, 0) == Row{1, 1, 1, 1, 2, 2, 2}));
  CHECK((row(b.tokens.positions, 0) == Row{0, 1, 2, 3, 0, 1, 2}));
  CHECK((row(b.labels, 1) == Row{23, 24, 25, 26, -1, -1, -1}));
  CHECK((row(b.tokens.segments, 1) == Row{1, 1, 1, 2, -1, -1, -1}));
  CHECK(b.computed == 11);
}

TEST_CASE("policy batch: a prompt once, its completions behind it") {
  const auto batches = policy_batches(four, {.share_prompts = true});
  REQUIRE(batches.size() == 1);
  const PolicyBatch& b = batches[0];
  REQUIRE(b.tokens.ids.dim(0) == 2);
  const int trunk = 1 << 16;
  CHECK((row(b.tokens.ids, 0) == Row{1, 10, 11, 20, 11}));  // the prompt's last token stands in every branch
  CHECK((row(b.tokens.positions, 0) == Row{0, 1, 2, 3, 2}));
  CHECK((row(b.tokens.segments, 0) == Row{trunk, trunk, trunk + 1, trunk + 1, trunk + 2}));
  CHECK((row(b.labels, 0) == Row{-1, -1, 20, 21, 22}));
  CHECK((row(b.tokens.segments, 1) == Row{trunk + 1, trunk + 1, trunk + 1, trunk + 2, -1}));  // a prompt of one token has no trunk
  CHECK((row(b.tokens.positions, 1) == Row{0, 1, 2, 0, -1}));
  CHECK(b.computed == 9);

  const auto packed = policy_batches(four, {.share_prompts = true, .row_len = 20});
  REQUIRE(packed[0].tokens.ids.dim(0) == 1);
  CHECK((row(packed[0].tokens.segments, 0) ==
         Row{trunk, trunk, trunk + 1, trunk + 1, trunk + 2, 2 * trunk + 1, 2 * trunk + 1, 2 * trunk + 1, 2 * trunk + 2}));
  CHECK((packed[0].which == std::vector<int64_t>{-1, -1, 0, 1, 2, 3, 4, 5, 6}));
}

TEST_CASE("policy batch: micro-batches hold every token once, whatever they are cut into") {
  for (const bool share : {false, true})
    for (const int64_t row_len : {0, 6})
      for (const int64_t accum : {1, 2, 3, 9}) {
        std::vector<int64_t> seen;
        for (const PolicyBatch& b : policy_batches(four, {.share_prompts = share, .row_len = row_len, .accum = accum}))
          for (const int64_t w : b.which)
            if (w >= 0) seen.push_back(w);
        std::sort(seen.begin(), seen.end());
        CHECK((seen == std::vector<int64_t>{0, 1, 2, 3, 4, 5, 6}));
      }
  CHECK(policy_batches({}, {}).empty());
}
