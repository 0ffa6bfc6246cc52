// Where the tokens of sampled completions lie in the rows that learn from them.
#include "train/policy_batch.h"

#include <algorithm>
#include <catch2/catch.hpp>

#include "autograd/ops.h"
#include "tests/train/small.h"

using namespace facet;
using namespace facet::test;

namespace {

const std::vector<int32_t> p0 = {1, 10, 11}, p1 = {1}, c0 = {20, 21}, c1 = {22}, c2 = {23, 24, 25}, c3 = {26};
const std::vector<PolicySequence> four = {{p0, c0, 0, 0, 0}, {p0, c1, 2, 0, 1}, {p1, c2, 3, 1, 2}, {p1, c3, 6, 1, 3}};

std::vector<int> row(const Tensor& t, int64_t r) {
  std::vector<int> v;
  for (int64_t i = 0; i < t.dim(1); ++i) v.push_back(static_cast<int>(t.at({r, i})));
  return v;
}
using Cells = std::vector<int>;

}  // namespace

TEST_CASE("policy batch: a completion a row, padded") {
  const auto batches = policy_batches(four, {.pad_id = 9});
  REQUIRE(batches.size() == 1);
  const PolicyBatch& b = batches[0];
  CHECK((row(b.tokens.ids, 0) == Cells{1, 10, 11, 20}));
  CHECK((row(b.tokens.ids, 1) == Cells{1, 10, 11, 9}));
  CHECK((row(b.tokens.ids, 2) == Cells{1, 23, 24, 9}));
  CHECK((row(b.tokens.positions, 1) == Cells{0, 1, 2, -1}));
  CHECK((row(b.labels, 0) == Cells{-1, -1, 20, 21}));
  CHECK((row(b.labels, 2) == Cells{23, 24, 25, -1}));
  CHECK((b.which == std::vector<int64_t>{-1, -1, 0, 1, -1, -1, 2, -1, 3, 4, 5, -1, 6, -1, -1, -1}));
  CHECK(!b.tokens.segments);
  CHECK(b.computed == 4 + 3 + 3 + 1);
}

TEST_CASE("policy batch: several completions a row are documents") {
  const auto batches = policy_batches(four, {.row_len = 7});
  REQUIRE(batches.size() == 1);
  const PolicyBatch& b = batches[0];
  REQUIRE(b.tokens.ids.dim(0) == 2);
  CHECK((row(b.tokens.ids, 0) == Cells{1, 10, 11, 20, 1, 10, 11}));
  CHECK((row(b.tokens.segments, 0) == Cells{1, 1, 1, 1, 2, 2, 2}));
  CHECK((row(b.tokens.positions, 0) == Cells{0, 1, 2, 3, 0, 1, 2}));
  CHECK((row(b.labels, 1) == Cells{23, 24, 25, 26, -1, -1, -1}));
  CHECK((row(b.tokens.segments, 1) == Cells{1, 1, 1, 2, -1, -1, -1}));
  CHECK(b.computed == 11);
}

TEST_CASE("policy batch: a prompt once, its completions behind it") {
  const auto batches = policy_batches(four, {.share_prompts = true});
  REQUIRE(batches.size() == 1);
  const PolicyBatch& b = batches[0];
  REQUIRE(b.tokens.ids.dim(0) == 2);
  const int trunk = 1 << 16;
  CHECK((row(b.tokens.ids, 0) == Cells{1, 10, 11, 20, 11}));  // the prompt's last token stands in every branch
  CHECK((row(b.tokens.positions, 0) == Cells{0, 1, 2, 3, 2}));
  CHECK((row(b.tokens.segments, 0) == Cells{trunk, trunk, trunk + 1, trunk + 1, trunk + 2}));
  CHECK((row(b.labels, 0) == Cells{-1, -1, 20, 21, 22}));
  CHECK((row(b.tokens.segments, 1) == Cells{trunk + 1, trunk + 1, trunk + 1, trunk + 2, -1}));  // a prompt of one token has no trunk
  CHECK((row(b.tokens.positions, 1) == Cells{0, 1, 2, 0, -1}));
  CHECK(b.computed == 9);

  const auto packed = policy_batches(four, {.share_prompts = true, .row_len = 20});
  REQUIRE(packed[0].tokens.ids.dim(0) == 1);
  CHECK((row(packed[0].tokens.segments, 0) ==
         Cells{trunk, trunk, trunk + 1, trunk + 1, trunk + 2, 2 * trunk + 1, 2 * trunk + 1, 2 * trunk + 1, 2 * trunk + 2}));
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

namespace {

// Two groups whose prompts and completions have tokens of their own each.
struct Groups {
  std::vector<Ids> prompts = {{0, 1, 2, 3}, {20, 21}};
  std::vector<Ids> completions = {{4, 5, 6}, {8, 9, 10, 11, 12}, {14, 15}, {24, 25, 26, 27}, {30, 31, 32}};
  std::vector<PolicySequence> list;
  Groups() {
    int64_t first = 0;
    for (size_t i = 0; i < completions.size(); ++i) {
      const int64_t group = i < 3 ? 0 : 1;
      list.push_back({prompts[static_cast<size_t>(group)], completions[i], first, group, static_cast<int64_t>(i)});
      first += static_cast<int64_t>(completions[i].size());
    }
  }
  /// Whether the rows of sequence `i` may know of a token. The last token of a completion is only a label.
  bool knows(size_t i, int32_t token) const {
    const auto in = [&](std::span<const int32_t> list) { return std::find(list.begin(), list.end(), token) != list.end(); };
    return in(list[i].prompt) || in(list[i].completion.first(list[i].completion.size() - 1));
  }
};

const PolicyLayout layouts[] = {{}, {.row_len = 12}, {.row_len = 64}, {.share_prompts = true}, {.share_prompts = true, .row_len = 64}};

}  // namespace

TEST_CASE("policy batch: no gradient reaches another completion of the row, or another's prompt") {
  const Groups g;
  const auto model = small_model();
  for (const PolicyLayout& layout : layouts)
    for (size_t i = 0; i < g.list.size(); ++i) {
      INFO("rows of " << layout.row_len << ", prompts " << (layout.share_prompts ? "shared" : "apart") << ", completion " << i);
      model->embed_tokens.weight.clear_grad();
      for (const PolicyBatch& b : policy_batches(g.list, layout)) {
        const auto own = [&](int64_t w) { return w >= g.list[i].first && w < g.list[i].first + std::ssize(g.list[i].completion); };
        const auto begin = std::find_if(b.which.begin(), b.which.end(), own) - b.which.begin();
        if (begin == std::ssize(b.which)) continue;
        const Tensor h = model->hidden(b.tokens);
        const Tensor part = slice(reshape(h, {h.shape().rows(), h.dim(-1)}), 0, begin, begin + std::ssize(g.list[i].completion));
        backward(sum(mul(mul(part, part), part)));  // the sum of squares behind a norm would be the same whatever stands there
      }
      const Tensor grad = model->embed_tokens.weight.grad();  // [V, D]
      REQUIRE(grad);
      for (int32_t id = 0; id < 40; ++id) {
        double size = 0;
        for (int64_t d = 0; d < grad.dim(1); ++d) size += std::abs(grad.at({id, d}));
        INFO("token " << id);
        CHECK((size > 0) == g.knows(i, id));
      }
    }
}

TEST_CASE("policy batch: the loss of packed rows and shared prompts is the sum of those of single rows") {
  const Groups g;
  const auto step_of = [&](std::span<const std::vector<PolicySequence>> parts, const PolicyLayout& layout) {
    const auto model = small_model(DType::f64);
    double loss = 0;
    for (const auto& part : parts)
      for (const PolicyBatch& b : policy_batches(part, layout)) {
        const Tensor h = model->hidden(b.tokens);
        const int64_t n = h.shape().rows();
        const Tensor total = sum(linear_log_probs(reshape(h, {n, h.dim(-1)}), model->head().value(), b.labels.reshape({n}), model->final_cap(), 0.7));
        loss += total.item();
        backward(total);
      }
    return std::pair(loss, gradients(*model));
  };
  std::vector<std::vector<PolicySequence>> single, whole = {g.list};
  for (const PolicySequence& s : g.list) single.push_back({s});
  const auto want = step_of(single, {});
  for (const PolicyLayout& layout : layouts) {
    INFO("rows of " << layout.row_len << ", prompts " << (layout.share_prompts ? "shared" : "apart"));
    const auto have = step_of(whole, layout);
    CHECK(have.first == Approx(want.first).epsilon(1e-13));
    CHECK(largest_difference(want.second, have.second) <= 1e-12);
  }
}
