// The schedule of batches: a pure function of (seed, step); what stands in a batch; packing.
#include "data/loader.h"

#include <catch2/catch.hpp>
#include <set>
#include <thread>

#include "data/make_tokenizer.h"

using namespace facet;

namespace {

// n examples of varying length; token values are unique per example.
Dataset numbers(int64_t n, int64_t shortest = 1, int64_t spread = 7) {
  Dataset d;
  for (int64_t i = 0; i < n; ++i) {
    Example e;
    e.add(2, false);
    for (int64_t k = 0; k < shortest + i * 5 % spread; ++k) e.add(static_cast<int32_t>(100 * (i + 1) + k), k % 3 != 0 || k == 0);
    d.add(e, i + 1);
  }
  return d;
}

std::vector<int64_t> examples_of(const std::vector<Batch>& micro) {
  std::vector<int64_t> r;
  for (const Batch& b : micro) r.insert(r.end(), b.examples.begin(), b.examples.end());
  return r;
}

int64_t supervised(const Dataset& d) {
  int64_t n = 0;
  for (int64_t i = 0; i < d.size(); ++i) {
    const auto v = d[i];
    for (size_t k = 1; k < v.ids.size(); ++k) n += v.mask[k];
  }
  return n;
}

}  // namespace

TEST_CASE("loader: labels are the next tokens, padding carries nothing", "[data]") {
  const Dataset d = numbers(3);  // lengths 1, 6, 4 positions
  const std::vector<std::vector<int64_t>> rows = {{0}, {1}, {2}};
  const Batch b = make_batch(d, rows, 0, 4);
  REQUIRE(b.ids.shape() == Shape{3, 8});
  REQUIRE(!b.segments);
  const auto ids = b.ids.data<int32_t>(), labels = b.labels.data<int32_t>(), positions = b.positions.data<int32_t>();
  CHECK(std::vector<int32_t>(ids.begin() + 8, ids.begin() + 16) == std::vector<int32_t>{2, 200, 201, 202, 203, 204, 0, 0});
  CHECK(std::vector<int32_t>(labels.begin() + 8, labels.begin() + 16) == std::vector<int32_t>{200, 201, 202, -1, 204, 205, -1, -1});
  CHECK(std::vector<int32_t>(positions.begin() + 8, positions.begin() + 16) == std::vector<int32_t>{0, 1, 2, 3, 4, 5, -1, -1});
  CHECK(labels[0] == 100);
  CHECK(positions[1] == -1);
  CHECK(b.tokens == 1 + 6 + 4);
  CHECK(b.supervised == supervised(d));
}

TEST_CASE("loader: every epoch shows every example once, in an order of its own", "[data]") {
  const Dataset d = numbers(23);
  const Loader loader(d, {.batch = 5, .seed = 7});
  std::vector<int64_t> seen;
  for (int64_t step = 0; step < 46; ++step) {
    const auto e = examples_of(loader.at(step));
    CHECK(e.size() == 5);
    seen.insert(seen.end(), e.begin(), e.end());
  }
  std::set<std::vector<int64_t>> orders;
  for (int epoch = 0; epoch < 10; ++epoch) {
    std::vector<int64_t> order(seen.begin() + 23 * epoch, seen.begin() + 23 * (epoch + 1));
    orders.insert(order);
    CHECK(std::set<int64_t>(order.begin(), order.end()).size() == 23);
  }
  CHECK(orders.size() == 10);
  const Loader in_order(d, {.batch = 5, .shuffle = false});
  CHECK(examples_of(in_order.at(4)) == std::vector<int64_t>{20, 21, 22, 0, 1});
  CHECK(loader.steps_per_epoch() == 5);
}

TEST_CASE("loader: the schedule depends on seed and step only", "[data]") {
  const Dataset d = numbers(23);
  Loader a(d, {.batch = 6, .seed = 7});
  std::vector<std::vector<int64_t>> first;
  for (int i = 0; i < 20; ++i) first.push_back(examples_of(a.next()));
  CHECK(a.state().step == 20);
  // Any order of asking, another loader, micro-batches, a restored cursor.
  const Loader b(d, {.batch = 6, .accum = 4, .seed = 7});
  for (int64_t step : {19, 0, 7, 3, 12}) CHECK(examples_of(b.at(step)) == first[static_cast<size_t>(step)]);
  Loader c(d, {.batch = 6, .accum = 2, .seed = 7});
  c.restore({12, a.state().fingerprint});
  for (size_t step = 12; step < 20; ++step) CHECK(examples_of(c.next()) == first[step]);
  CHECK(examples_of(Loader(d, {.batch = 6, .seed = 8}).at(0)) != first[0]);
  // A state of other data, seed or batch is refused.
  CHECK_THROWS_WITH(Loader(numbers(22), {.batch = 6, .seed = 7}).restore(a.state()), Catch::Contains("differ"));
  CHECK_THROWS_AS(Loader(d, {.batch = 6, .seed = 8}).restore(a.state()), Error);
  CHECK_THROWS_AS(Loader(d, {.batch = 5, .seed = 7}).restore(a.state()), Error);
  CHECK_THROWS_AS(Loader(d, {.batch = 2, .accum = 3}), Error);
  CHECK_THROWS_AS(Loader(Dataset(), {}), Error);
}

TEST_CASE("loader: micro-batches are the batch, cut", "[data]") {
  const Dataset d = numbers(40);
  const Loader whole(d, {.batch = 7, .seed = 1}), cut(d, {.batch = 7, .accum = 3, .seed = 1});
  for (int64_t step = 0; step < 6; ++step) {
    const auto one = whole.at(step), three = cut.at(step);
    REQUIRE(one.size() == 1);
    REQUIRE(three.size() == 3);
    int64_t rows = 0, learned = 0, tokens = 0;
    for (const Batch& b : three) {
      rows += b.ids.dim(0);
      learned += b.supervised;
      tokens += b.tokens;
      int64_t longest = 0;
      for (const int64_t e : b.examples) longest = std::max(longest, static_cast<int64_t>(d[e].ids.size()) - 1);
      CHECK(b.ids.dim(1) == longest);
    }
    CHECK(rows == 7);
    CHECK(learned == one[0].supervised);
    CHECK(tokens == one[0].tokens);
  }
}

TEST_CASE("loader: packed rows hold whole documents with positions of their own", "[data]") {
  const Dataset d = numbers(200, 3, 29);
  const LoaderOptions options{.batch = 4, .seed = 5, .pack = true, .row_len = 64};
  const Loader packed(d, options), plain(d, {.batch = 4, .seed = 5});
  std::set<int64_t> seen;
  int64_t learned = 0, rows = 0;
  for (int64_t step = 0; rows < packed.rows(); ++step)
    for (const Batch& b : packed.at(step)) {
      const int64_t length = b.ids.dim(1);
      CHECK(length <= 64);
      const auto ids = b.ids.data<int32_t>(), labels = b.labels.data<int32_t>(), positions = b.positions.data<int32_t>();
      for (int64_t r = 0; r < b.ids.dim(0) && rows < packed.rows(); ++r, ++rows)
        for (int64_t t = 0; t < length; ++t) {
          const auto at = static_cast<size_t>(r * length + t);
          const int32_t segment = b.segments ? b.segments.data<int32_t>()[at] : positions[at] < 0 ? -1 : 0;
          CHECK((segment < 0) == (positions[at] < 0));
          if (positions[at] == 0) {  // a document starts: bos, and its first token as label
            CHECK(ids[at] == 2);
            seen.insert(labels[at] / 100 - 1);
          }
          if (positions[at] > 0) {
            CHECK(positions[at] == positions[at - 1] + 1);
            CHECK(segment == (b.segments ? b.segments.data<int32_t>()[at - 1] : 0));
            CHECK(ids[at] / 100 == (labels[at - 1] >= 0 ? labels[at - 1] / 100 : ids[at] / 100));
          }
          learned += labels[at] >= 0;
        }
    }
  CHECK(rows == packed.rows());
  for (const Batch& b : plain.at(0)) CHECK_FALSE(b.segments);
  for (const Batch& b : packed.at(0)) {
    REQUIRE(b.segments);
    for (int64_t r = 0; r < b.ids.dim(0); ++r) {  // a number of its own for every document of a row, in order
      int32_t documents = 0;
      for (int64_t t = 0; t < b.ids.dim(1); ++t) {
        if (b.positions.at({r, t}) == 0) ++documents;
        if (b.positions.at({r, t}) >= 0) CHECK(b.segments.at({r, t}) == documents - 1);
      }
    }
  }
  CHECK(seen.size() == 200);
  CHECK(learned == supervised(d));
  CHECK(packed.padding() < 0.05);
  CHECK(packed.padding() < plain.padding() / 2);
  CHECK(Loader(d, options).state().fingerprint == packed.state().fingerprint);
  CHECK_THROWS_WITH(Loader(d, {.pack = true, .row_len = 8}), Catch::Contains("shorter than the longest"));
}

namespace {

// Pairs with prompts of 1 to 5 tokens (bos included) and completions that begin alike in every third pair.
Dataset pairs(int64_t n) {
  Dataset d(Task::preference, "pairs");
  for (int64_t i = 0; i < n; ++i)
    for (int32_t which = 0; which < 2; ++which) {
      Example e;
      e.add(2, false);
      for (int32_t k = 0; k < i % 5; ++k) e.add(10 + k, false);
      if (i % 3 == 0) e.add(50, true);
      for (int32_t k = 0; k < 1 + (i + which) % 4; ++k) e.add(100 + 10 * which + k, true);
      d.add(e, i + 1);
    }
  return d;
}

std::vector<int32_t> list(const Tensor& t) {
  const auto v = t.data<int32_t>();
  return {v.begin(), v.end()};
}

}  // namespace

TEST_CASE("loader: a pair shares its prompt; the token before the completions begins both branches", "[data]") {
  Dataset d(Task::preference, "pairs");
  Example chosen, rejected;
  for (const int32_t id : {2, 11, 12}) chosen.add(id, false), rejected.add(id, false);
  for (const int32_t id : {21, 22, 1}) chosen.add(id, true);
  for (const int32_t id : {31, 1}) rejected.add(id, true);
  d.add(chosen, 1);
  d.add(rejected, 1);
  const Batch b = make_batch(d, std::vector<std::vector<int64_t>>{{0, 1}}, 0, 4, true);
  const int32_t k = 1 << 16;
  CHECK(list(b.ids) == std::vector<int32_t>{2, 11, 12, 21, 22, 12, 31, 0});
  CHECK(list(b.labels) == std::vector<int32_t>{-1, -1, 21, 22, 1, 31, 1, -1});
  CHECK(list(b.positions) == std::vector<int32_t>{0, 1, 2, 3, 4, 2, 3, -1});
  CHECK(list(b.segments) == std::vector<int32_t>{k, k, k | 1, k | 1, k | 1, k | 2, k | 2, -1});
  CHECK(b.examples == std::vector<int64_t>{0, 1});
  CHECK((b.places[0].begin == 2 && b.places[0].end == 5 && b.places[1].begin == 5 && b.places[1].end == 7));
  CHECK(b.tokens == 7);
  CHECK(b.supervised == 5);
}

TEST_CASE("loader: however pairs are laid out, every example's cells say the same", "[data]") {
  const Dataset d = pairs(24);
  for (const bool pack : {false, true})
    for (const bool share : {false, true}) {
      INFO("pack " << pack << ", share " << share);
      const Loader loader(d, {.batch = 4, .accum = 2, .seed = 3, .pack = pack, .row_len = pack ? 40 : 0, .share = share});
      std::set<int64_t> seen;
      for (int64_t step = 0; step < loader.steps_per_epoch(); ++step)
        for (const Batch& b : loader.at(step)) {
          const auto ids = list(b.ids), labels = list(b.labels), positions = list(b.positions);
          const auto segments = b.segments ? list(b.segments) : std::vector<int32_t>();
          REQUIRE(b.examples.size() == b.places.size());
          int64_t supervised = 0;
          for (size_t i = 0; i < b.examples.size(); ++i) {
            const auto v = d[b.examples[i]];
            seen.insert(b.examples[i]);
            if (i % 2 == 1) CHECK(b.examples[i] == b.examples[i - 1] + 1);
            const auto begin = static_cast<size_t>(b.places[i].begin), end = static_cast<size_t>(b.places[i].end);
            REQUIRE(begin < end);
            CHECK((positions[begin] == 0 || share));
            for (size_t at = begin; at < end; ++at) {
              const auto t = static_cast<size_t>(positions[at]);
              CHECK(ids[at] == v.ids[t]);
              CHECK(labels[at] == (v.mask[t + 1] ? v.ids[t + 1] : -1));
              supervised += v.mask[t + 1];
              if (at > begin) CHECK(positions[at] == positions[at - 1] + 1);
              if (b.segments) CHECK(segments[at] == segments[begin]);
            }
            CHECK(positions[end - 1] + 2 == static_cast<int32_t>(v.ids.size()));
            if (share) {  // the trunk in front of the first branch is the prompt without its last token
              CHECK((segments[begin] & 0xFFFF) == static_cast<int32_t>(i % 2 + 1));
              const auto trunk = static_cast<size_t>(positions[begin]), from = static_cast<size_t>(b.places[i - i % 2].begin) - trunk;
              for (size_t t = 0; t < trunk; ++t) {
                CHECK(ids[from + t] == v.ids[t]);
                CHECK(segments[from + t] == (segments[begin] & ~0xFFFF));
              }
            }
          }
          CHECK(supervised == b.supervised);
        }
      CHECK(seen.size() == 48);
    }
  CHECK_THROWS_WITH(Loader(numbers(4), {.share = true}), Catch::Contains("preference data"));
}

TEST_CASE("loader: in order, for evaluation", "[data]") {
  const Dataset d = numbers(10);
  const auto batches = batches_in_order(d, 4);
  REQUIRE(batches.size() == 3);
  CHECK(batches[2].examples == std::vector<int64_t>{8, 9});
  int64_t n = 0;
  for (const Batch& b : batches) n += b.supervised;
  CHECK(n == supervised(d));
}

TEST_CASE("loader: buckets put rows of similar length together, every row once an epoch, a pure function of seed and step", "[data]") {
  const Dataset d = numbers(203, 3, 97);
  const LoaderOptions options{.batch = 6, .seed = 4, .bucket = 10};
  const Loader plain(d, {.batch = 6, .seed = 4});
  Loader bucketed(d, options);
  CHECK(bucketed.padding() < 0.12);
  CHECK(plain.padding() > 3 * bucketed.padding());
  // Three epochs without a gap; batches that belong to one epoch are of similar length, unless they are its first or last.
  std::vector<int64_t> seen;
  int64_t wide = 0, steps = 0;
  for (; steps * 6 < 3 * 203; ++steps) {
    const auto batch = examples_of(bucketed.next());
    int64_t shortest = 1000, longest = 0;
    for (const int64_t e : batch) {
      const auto n = static_cast<int64_t>(d[e].ids.size());
      shortest = std::min(shortest, n), longest = std::max(longest, n);
    }
    wide += longest - shortest > 30;
    seen.insert(seen.end(), batch.begin(), batch.end());
  }
  CHECK(wide <= 6);
  std::set<std::vector<int64_t>> orders;
  for (int epoch = 0; epoch < 3; ++epoch) {
    std::vector<int64_t> order(seen.begin() + 203 * epoch, seen.begin() + 203 * (epoch + 1));
    orders.insert(order);
    CHECK(std::set<int64_t>(order.begin(), order.end()).size() == 203);
  }
  CHECK(orders.size() == 3);
  // Resumed, asked out of order, cut into micro-batches: the same.
  Loader resumed(d, options);
  resumed.restore({20, bucketed.state().fingerprint});
  LoaderOptions in_two = options;
  in_two.accum = 2;
  const Loader cut(d, in_two);
  for (const int64_t step : {20, 90, 3}) {
    const std::vector<int64_t> want(seen.begin() + 6 * step, seen.begin() + 6 * step + 6);
    CHECK(examples_of(resumed.at(step)) == want);
    CHECK(examples_of(cut.at(step)) == want);
  }
  CHECK(examples_of(resumed.next()) == examples_of(bucketed.at(20)));
  CHECK_THROWS_WITH(resumed.restore(plain.state()), Catch::Contains("differ"));
  CHECK_THROWS_WITH(Loader(d, {.batch = 6, .seed = 4, .bucket = 5}).restore(bucketed.state()), Catch::Contains("differ"));
  CHECK_THROWS_WITH(Loader(d, {.batch = 6, .shuffle = false, .bucket = 4}), Catch::Contains("shuffling"));
  CHECK_THROWS_AS(Loader(d, {.bucket = 0}), Error);
  // Batches come in a random order, not by length.
  int64_t falls = 0;
  const auto length = [&](int64_t step) { return bucketed.at(step)[0].ids.dim(1); };
  for (int64_t step = 1; step < 30; ++step) falls += length(step) < length(step - 1);
  CHECK(falls > 5);
  CHECK(falls < 25);
  const Dataset four = numbers(4);
  const Loader few(four, {.batch = 6, .bucket = 4});  // an epoch is shorter than a batch
  CHECK(examples_of(few.at(3)).size() == 6);
}

TEST_CASE("loader: four threads with a loader each read one dataset as one does", "[data]") {
  const Dataset d = numbers(23);
  const LoaderOptions o{.batch = 5, .accum = 2, .seed = 7, .bucket = 2};
  const auto schedule = [&] {
    const Loader loader(d, o);
    std::vector<std::vector<int32_t>> ids;
    for (int64_t step = 0; step < 12; ++step)
      for (const Batch& b : loader.at(step)) ids.emplace_back(b.ids.data<int32_t>().begin(), b.ids.data<int32_t>().end());
    return ids;
  };
  const auto expected = schedule();
  std::vector<std::vector<int32_t>> seen[4];
  std::vector<std::thread> threads;
  for (auto& s : seen) threads.emplace_back([&] { s = schedule(); });
  for (std::thread& t : threads) t.join();
  for (const auto& s : seen) CHECK(s == expected);
}
