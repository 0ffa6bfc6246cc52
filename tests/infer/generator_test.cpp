// The cache against passes without one: whatever the order in which tokens arrive, the logits are those of one pass over all of them.
#include "infer/generator.h"

#include <catch2/catch.hpp>

#include "tests/infer/models.h"

using namespace facet;
using namespace facet::test;
using Ids = std::vector<int32_t>;

namespace {

constexpr double tolerance = 1e-5;  // of the logits' standard deviation

std::vector<std::unique_ptr<Gemma>> both_models() {
  std::vector<std::unique_ptr<Gemma>> list;
  list.push_back(reference_model());
  list.push_back(random_model());
  return list;
}

Ids part(const Ids& ids, int64_t begin, int64_t end) { return {ids.begin() + begin, ids.begin() + end}; }

}  // namespace

TEST_CASE("generator: cached decoding equals the full pass at every position over four windows") {
  for (const auto& model : both_models()) {
    const int64_t T = 4 * model->config.window + 3;
    const Ids ids = some_tokens(T, model->vocab());
    const Tensor want = full_logits(*model, ids);
    for (const int64_t chunk : {int64_t{1}, int64_t{4}, T}) {  // rings of one window, a bit more, and rings that never wrap
      Generator g(*model, 1, T, chunk);
      double worst = 0;
      for (int64_t t = 0; t < T; ++t) {
        g.feed(0, {ids[static_cast<size_t>(t)]});
        worst = std::max(worst, distance(g.logits(0), row_of(want, t)));
      }
      INFO("window " << model->config.window << " chunk " << chunk);
      CHECK(worst <= tolerance);
    }
  }
}

TEST_CASE("generator: prompts in chunks of any length, then decoding, equal the full pass") {
  for (const auto& model : both_models()) {
    const int64_t W = model->config.window, T = 4 * W + 3, P = 3 * W + 2;
    const Ids ids = some_tokens(T, model->vocab(), 2);
    const Tensor want = full_logits(*model, ids);
    for (const int64_t chunk : {int64_t{1}, int64_t{3}, W, W + 1, P}) {
      Generator g(*model, 1, T, chunk);
      g.feed(0, part(ids, 0, P));
      double worst = distance(g.logits(0), row_of(want, P - 1));
      for (int64_t t = P; t < T; ++t) {
        g.feed(0, part(ids, t, t + 1));
        worst = std::max(worst, distance(g.logits(0), row_of(want, t)));
      }
      INFO("window " << W << " chunk " << chunk);
      CHECK(worst <= tolerance);
    }
  }
}

TEST_CASE("generator: f64 weights decode to the full pass within rounding of the logits to f32") {
  const auto model = random_model(DType::f64);
  const int64_t T = 23;
  const Ids ids = some_tokens(T, model->vocab(), 3);
  const Tensor want = full_logits(*model, ids);
  Generator g(*model, 1, T, 4);
  g.feed(0, part(ids, 0, 9));
  for (int64_t t = 9; t < T; ++t) {
    g.feed(0, part(ids, t, t + 1));
    CHECK(distance(g.logits(0), row_of(want, t)) <= 3e-7);
  }
}

TEST_CASE("generator: rows of a batch equal rows alone, whenever they are fed, replaced or taken back") {
  for (const auto& model : both_models()) {
    const int64_t W = model->config.window, V = model->vocab(), chunk = W + 1, capacity = 4 * W + 4;
    Generator g(*model, 5, capacity, chunk);
    std::vector<Ids> history(5);
    const auto feed = [&](std::vector<int64_t> rows, std::vector<int64_t> counts, uint32_t seed) {
      std::vector<Ids> tokens;
      for (size_t i = 0; i < rows.size(); ++i) {
        tokens.push_back(some_tokens(counts[i], V, seed + static_cast<uint32_t>(i)));
        Ids& h = history[static_cast<size_t>(rows[i])];
        h.insert(h.end(), tokens.back().begin(), tokens.back().end());
      }
      g.feed(rows, tokens);
      for (int64_t r : rows) {
        const Ids& h = history[static_cast<size_t>(r)];
        INFO("window " << W << " seed " << seed << " row " << r);
        CHECK(g.length(r) == static_cast<int64_t>(h.size()));
        CHECK(distance(g.logits(r), row_of(full_logits(*model, h), g.length(r) - 1)) <= tolerance);
      }
    };
    feed({0, 1, 2, 3, 4}, {1, W, 2 * W + 1, 3, W + 2}, 10);
    feed({0, 1, 2, 3, 4}, {1, 1, 1, 1, 1}, 20);
    feed({4, 2, 0}, {1, 1, 1}, 30);          // 1 and 3 have ended: the others move together
    feed({4, 0}, {W, 1}, 40);
    g.forget(1);
    history[1].clear();
    feed({1, 0}, {2 * W, 1}, 50);            // a new sequence in row 1
    feed({3}, {2}, 60);                      // and the one that had waited goes on
    g.forget(4, g.length(4) - 3);            // taken back after its rings wrapped, by less than a chunk
    history[4].resize(history[4].size() - 3);
    feed({4, 3, 2, 1, 0}, {2, 1, 2, 1, 1}, 70);
    const Tensor before = Tensor::from(Ids(history[2]), {static_cast<int64_t>(history[2].size())});
    const std::vector<float> kept(g.logits(2).begin(), g.logits(2).end());
    feed({0}, {1}, 80);
    CHECK((std::equal(kept.begin(), kept.end(), g.logits(2).begin())));  // rows not named keep their logits
  }
}

TEST_CASE("generator: with a cache, padding left or right or absent gives the same logits") {
  const auto model = random_model();
  const NoGrad off;
  const int64_t T = 14, n = 9;
  const Ids ids = some_tokens(n, model->vocab(), 4);
  const Tensor want = full_logits(*model, ids);
  for (const int64_t left : {int64_t{0}, int64_t{2}, T - n}) {
    Ids padded(static_cast<size_t>(T), 0), mask(static_cast<size_t>(T), 0);
    std::copy(ids.begin(), ids.end(), padded.begin() + left);
    std::fill(mask.begin() + left, mask.begin() + left + n, 1);
    KvCache cache = model->new_cache(1, T, T);
    const Tensor y = model->logits(model->hidden(masked_tokens(Tensor::from(padded, {1, T}), Tensor::from(mask, {1, T})), &cache));
    for (int64_t t = 0; t < n; ++t) CHECK(distance(row_of(y.reshape({T, model->vocab()}), left + t), row_of(want, t)) <= tolerance);
    const Tensor next = Tensor::from(Ids{7}, {1, 1}), at = Tensor::from(Ids{static_cast<int32_t>(n)}, {1, 1});
    Ids longer = ids;
    longer.push_back(7);
    const Tensor z = model->logits(model->hidden({next, at, {}}, &cache)).reshape({1, model->vocab()});
    CHECK(distance(row_of(z, 0), row_of(full_logits(*model, longer), n)) <= tolerance);
  }
}

TEST_CASE("generator: a local layer's ring bounds the cache, and what does not fit is refused") {
  const auto model = random_model();
  const int64_t per_slot = 2 * 8 * 4 + 4;  // k and v of 8 floats, one position
  CHECK(Generator(*model, 2, 40, 3).cache_bytes() == 2 * per_slot * (40 + 2 * (5 + 3 - 1)));
  Generator g(*model, 2, 12, 4);
  CHECK_THROWS_WITH(g.logits(1), Catch::Contains("row 1") && Catch::Contains("not fed"));
  CHECK_THROWS_WITH(g.feed(0, Ids(13, 5)), Catch::Contains("13 tokens") && Catch::Contains("context is 12"));
  CHECK_THROWS_WITH(g.feed(0, Ids{}), Catch::Contains("no tokens"));
  CHECK_THROWS_WITH(g.feed(2, Ids{5}), Catch::Contains("row 2 does not exist"));
  for (const int64_t row : {-1, 2}) {
    CHECK_THROWS_WITH(g.forget(row), Catch::Contains("does not exist; there are 2"));
    CHECK_THROWS_WITH(g.logits(row), Catch::Contains("does not exist; there are 2"));
  }
  CHECK_THROWS_WITH(g.forget(0, -1), Catch::Contains("row 0 cannot go back to -1 tokens"));
  CHECK_THROWS_WITH(g.feed(0, Ids{61}), Catch::Contains("token 61"));
  const std::vector<int64_t> twice = {1, 1};
  CHECK_THROWS_WITH(g.feed(twice, std::vector<Ids>{{3}, {4}}), Catch::Contains("twice"));
  CHECK(g.length(0) == 0);  // nothing of all that left a trace
  const Ids ids = some_tokens(12, 61, 6);
  g.feed(0, ids);
  CHECK(distance(g.logits(0), row_of(full_logits(*model, ids), 11)) <= tolerance);
  CHECK_THROWS_WITH(g.feed(0, Ids{5}), Catch::Contains("13 tokens"));
  CHECK_THROWS_WITH(g.forget(0, 7), Catch::Contains("cannot go back from 12 to 7"));
  g.forget(0, 8);
  g.feed(0, Ids(ids.begin() + 8, ids.end()));
  CHECK(distance(g.logits(0), row_of(full_logits(*model, ids), 11)) <= tolerance);
  KvCache cache = model->new_cache(1, 12, 2);  // rings of 6
  const NoGrad off;
  CHECK_THROWS_WITH(model->hidden(plain_tokens(Tensor::from(part(ids, 0, 7), {1, 7})), &cache), Catch::Contains("smaller chunks"));
}
