// Log-probabilities of the reference: the cache gives the losses of the model it stands for, and belongs to nothing else.
#include "train/reference_cache.h"

#include <catch2/catch.hpp>

#include "tensor/io/safetensors.h"
#include "tests/support/temp_folder.h"
#include "tests/train/small.h"

using namespace facet;
using namespace facet::test;

TEST_CASE("reference cache: the losses of the model it was computed with, bit for bit when it is read again") {
  const TempFolder temp;
  const Dataset data = small_pairs();
  const auto policy = small_model(), other = small_model(DType::f32, 8);
  int64_t told = 0;
  ReferenceCache cache{"00ff", "gemma 12345678", {}};
  reference_pass(*other, data, 4, false, 0, cache.parts["train"], [&](int64_t done, int64_t of) {
    CHECK(of == 13);
    CHECK(done > told);
    told = done;
  });
  CHECK(told == 13);
  // A pass that was stopped goes on after its last whole batch.
  for (const size_t kept : {size_t{8}, size_t{10}, size_t{24}, size_t{26}}) {
    LogProbs some(cache.parts["train"].begin(), cache.parts["train"].begin() + static_cast<std::ptrdiff_t>(kept));
    int64_t batches = 0;
    reference_pass(*other, data, 4, false, 0, some, [&](int64_t, int64_t) { ++batches; });
    CHECK(some == cache.parts["train"]);
    CHECK(batches == (kept == 26 ? 0 : kept == 24 ? 1 : 3));
  }
  cache.save(temp / "ref.safetensors");
  const auto again = ReferenceCache::load(temp / "ref.safetensors", "00ff", "gemma 12345678");
  REQUIRE(again);
  CHECK(again->parts == cache.parts);

  const std::vector<Batch> micro = Loader(data, {.batch = 6, .accum = 2}).at(1);
  const auto loss = [&](const Reference& reference) {
    for (Parameter* p : parameters(*policy)) p->clear_grad();
    return accumulate_dpo(*policy, data, micro, reference, {}).figures.loss;
  };
  const double by_model = loss([&](const Batch& b) { return completion_log_probs(*other, data, b); });
  const double by_cache = loss(cached_reference(cache.parts.at("train")));
  CHECK(by_cache == Approx(by_model).epsilon(1e-6));
  CHECK(loss(cached_reference(again->parts.at("train"))) == by_cache);
}

TEST_CASE("reference cache: of other data or another reference it is refused with both sides") {
  const TempFolder temp;
  const std::string path = temp / "ref.safetensors";
  CHECK_FALSE(ReferenceCache::load(path, "d1", "r1"));
  ReferenceCache{"d1", "r1", {{"train", {-1, -2}}}}.save(path);
  CHECK(ReferenceCache::load(path, "d1", "r1"));
  CHECK_THROWS_WITH(ReferenceCache::load(path, "d2", "r1"), Catch::Contains(path) && Catch::Contains("with data d1; this run has data d2"));
  CHECK_THROWS_WITH(ReferenceCache::load(path, "d1", "r2"), Catch::Contains("reference r1") && Catch::Contains("reference r2"));
  const auto refused = [&](const Tensor& t, const Metadata& m, const char* why) {
    save_safetensors(path, std::vector<std::pair<std::string, Tensor>>{{"train", t}}, m);
    CHECK_THROWS_WITH(ReferenceCache::load(path, "d1", "r1"), Catch::Contains(why));
  };
  const Metadata good = {{"format", "facet reference log-probabilities 1"}, {"data", "d1"}, {"reference", "r1"}};
  refused(Tensor::zeros({2}, DType::f64), {}, "not a file of reference log-probabilities");
  refused(Tensor::zeros({2}, DType::f32), good, "must be a list of F64");
  refused(Tensor::zeros({2, 1}, DType::f64), good, "must be a list of F64");
  refused(Tensor::full({2}, NAN, DType::f64), good, "holds nan for example 0");
  temp.write("ref.safetensors", "hello");
  CHECK_THROWS_AS(ReferenceCache::load(path, "d1", "r1"), Error);
  const LogProbs few = {-1, -2};
  Batch b;
  b.examples = {1, 2};
  CHECK_THROWS_WITH(cached_reference(few)(b), Catch::Contains("example 2 is beyond"));
}
