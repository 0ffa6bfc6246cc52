// generate(): what Hugging Face generates, where a row ends, and that a row's tokens are its own affair.
#include <catch2/catch.hpp>

#include "infer/generator.h"
#include "tensor/parallel.h"
#include "tensor/storage.h"
#include "tests/infer/models.h"

using namespace facet;
using namespace facet::test;
using Ids = std::vector<int32_t>;

namespace {

Ids ids_of(const Tensor& t, int64_t row) {
  Ids list;
  for (int64_t i = 0; i < t.dim(1); ++i) list.push_back(static_cast<int32_t>(t.at({row, i})));
  return list;
}

std::vector<Ids> prompts_of(const Golden& g, const std::string& set) {
  std::vector<Ids> list;
  for (int64_t b = 0; b < g[set + ".prompt"].dim(0); ++b) {
    Ids ids = ids_of(g[set + ".prompt"], b), kept;
    for (size_t t = 0; t < ids.size(); ++t)
      if (g[set + ".mask"].at({b, static_cast<int64_t>(t)}) != 0) kept.push_back(ids[t]);
    list.push_back(kept);
  }
  return list;
}

std::vector<Ids> some_prompts(int64_t vocab) {
  std::vector<Ids> list;
  for (int64_t n : {3, 1, 11, 6, 7}) list.push_back(some_tokens(n, vocab, static_cast<uint32_t>(n)));
  return list;
}

}  // namespace

TEST_CASE("generate: tokens and logits of Hugging Face's cached decoding, past the window, alone and in a batch") {
  const Golden golden("gemma3-tiny-ref/generate.safetensors");
  const auto model = reference_model();
  for (const std::string set : {"one", "batch"}) {
    const auto prompts = prompts_of(golden, set);
    const Tensor &tokens = golden[set + ".generated"], &logits = golden[set + ".logits"];
    const int64_t steps = tokens.dim(1);
    REQUIRE(static_cast<int64_t>(prompts[0].size()) + steps > 3 * model->config.window);
    const auto result = generate(*model, prompts, {.sampling = {.temperature = 0}, .max_new = steps});
    Generator g(*model, static_cast<int64_t>(prompts.size()), 64, 5);
    for (size_t b = 0; b < prompts.size(); ++b) {
      const auto row = static_cast<int64_t>(b);
      CHECK(result[b].tokens == ids_of(tokens, row));
      CHECK(result[b].stop == Stop::length);
      for (int64_t s = 0; s < steps; ++s) {
        g.feed(row, s == 0 ? prompts[b] : Ids{result[b].tokens[static_cast<size_t>(s) - 1]});
        const Tensor want = logits.slice(0, row, row + 1).slice(1, s, s + 1).clone().reshape({1, logits.dim(2)});
        CHECK(distance(g.logits(row), row_of(want, 0)) <= 5e-5);  // theirs is rounded too: 1.7e-5 between its own two ways
      }
    }
  }
}

TEST_CASE("generate: weights kept in bf16 decode what their f32 copies decode") {
  const auto small = random_model(DType::bf16), wide = random_model();
  for (size_t i = 0; auto& [name, value] : named_values(*small)) {
    const Tensor to = named_values(*wide)[i++].second;
    std::copy_n(value.to(DType::f32).data<float>().data(), value.numel(), to.out().as<float>());
  }
  const GenerateOptions o{.sampling = {.temperature = 0.8}, .max_new = 20};
  const auto a = generate(*small, some_prompts(61), o), b = generate(*wide, some_prompts(61), o);
  for (size_t i = 0; i < a.size(); ++i) CHECK(a[i].tokens == b[i].tokens);
}

TEST_CASE("generate: a row's tokens are the same alone, in any batch and on any number of threads") {
  const auto model = random_model();
  const auto prompts = some_prompts(61);
  const int was = threads();
  for (const SamplingOptions& sampling : {SamplingOptions{}, SamplingOptions{.temperature = 0.7, .top_k = 20, .top_p = 0.9},
                                         SamplingOptions{.temperature = 1.3, .min_p = 0.02, .repetition_penalty = 1.2}}) {
    GenerateOptions o{.sampling = sampling, .max_new = 24, .seed = 11};
    set_threads(1);
    const auto free = generate(*model, prompts, o);
    o.stop = {free[1].tokens[5], free[3].tokens[11]};  // rows end at different times
    const auto want = generate(*model, prompts, o);
    size_t shortest = 99, longest = 0;
    for (const auto& g : want) shortest = std::min(shortest, g.tokens.size()), longest = std::max(longest, g.tokens.size());
    CHECK(shortest < longest);
    for (const int n : {2, 4}) {
      set_threads(n);
      const auto again = generate(*model, prompts, o);
      for (size_t i = 0; i < prompts.size(); ++i) {
        CHECK(again[i].tokens == want[i].tokens);
        CHECK(again[i].log_probs == want[i].log_probs);  // to the last bit
      }
    }
    set_threads(was);
    for (size_t i = 0; i < prompts.size(); ++i) {
      Generator g(*model, static_cast<int64_t>(prompts.size()), 40);
      const auto alone = continue_rows(g, {static_cast<int64_t>(i)}, {prompts[i]}, o);
      CHECK(alone[0].tokens == want[i].tokens);
      CHECK(alone[0].stop == want[i].stop);
      for (size_t t = 0; t < alone[0].tokens.size(); ++t) CHECK(alone[0].log_probs[t] == Approx(want[i].log_probs[t]).margin(1e-4));
    }
    GenerateOptions other = o;
    other.seed = 12;
    bool differs = false;
    const auto b = generate(*model, prompts, other);
    for (size_t i = 0; i < prompts.size(); ++i) differs |= b[i].tokens != want[i].tokens;
    CHECK(differs);
  }
}

TEST_CASE("generate: where rows end") {
  const auto model = random_model();
  const auto prompts = some_prompts(61);
  const GenerateOptions greedy{.sampling = {.temperature = 0}, .max_new = 12};
  const auto free = generate(*model, prompts, greedy);
  const int32_t third = free[0].tokens[2];
  const auto first = static_cast<size_t>(std::find(free[0].tokens.begin(), free[0].tokens.end(), third) - free[0].tokens.begin());

  GenerateOptions o = greedy;
  o.stop = {third};
  auto r = generate(*model, prompts, o);
  CHECK(r[0].stop == Stop::stop_token);
  CHECK(r[0].tokens == Ids(free[0].tokens.begin(), free[0].tokens.begin() + static_cast<ptrdiff_t>(first) + 1));  // the stop token included
  o.ignore_stop = true;
  CHECK(generate(*model, prompts, o)[0].tokens == free[0].tokens);

  o = greedy;
  o.sampling.forbidden = {third};
  r = generate(*model, prompts, o);
  for (const auto& g : r) CHECK(std::find(g.tokens.begin(), g.tokens.end(), third) == g.tokens.end());

  o = greedy;
  o.max_new = 1000;  // the model's context is 64
  r = generate(*model, {prompts[2], prompts[1]}, o);
  CHECK(r[0].stop == Stop::context);
  CHECK(r[0].tokens.size() + prompts[2].size() == 65);  // the last one is drawn, not computed
  CHECK(r[1].tokens.size() + prompts[1].size() == 65);
  CHECK_THROWS_WITH(generate(*model, {some_tokens(65, 61)}, greedy), Catch::Contains("65 tokens") && Catch::Contains("64"));

  int64_t calls = 0;
  r = generate(*model, prompts, greedy, [&](int64_t row, const Draw&) { return ++calls, row != 3; });
  CHECK(r[3].stop == Stop::caller);
  CHECK(r[3].tokens == Ids{free[3].tokens[0]});
  CHECK(r[4].tokens == free[4].tokens);
  CHECK(calls == 4 * 12 + 1);

  o = greedy;
  o.max_new = 0;
  CHECK(generate(*model, prompts, o)[0].tokens.empty());
  CHECK(generate(*model, {}, greedy).empty());
}

TEST_CASE("generate: the room for tokens decides no bit, and decoding asks the system for no memory") {
  const auto model = random_model();
  const auto prompts = some_prompts(61);
  const GenerateOptions o{.sampling = {.temperature = 0.9, .top_k = 30}, .max_new = 20};
  generate(*model, prompts, o);  // the first one ever fills the pool
  std::vector<Generation> first;
  for (const int64_t context : {0, 32, 40, 500}) {
    GenerateOptions sized = o;
    sized.context = context;
    size_t tokens = 0, early = 0, late = 0;
    const auto r = generate(*model, prompts, sized, [&](int64_t, const Draw&) {
      ++tokens;
      (tokens <= 4 * prompts.size() ? early : late) = pool_stats().sys_allocs;
      return true;
    });
    CHECK(late == early);
    if (first.empty()) first = r;
    for (size_t i = 0; i < r.size(); ++i) {
      CHECK(r[i].tokens == first[i].tokens);
      CHECK(r[i].log_probs == first[i].log_probs);
    }
  }
  GenerateOptions narrow = o;
  narrow.context = 12;
  const auto cut = generate(*model, {prompts[2]}, narrow)[0];  // 11 tokens
  CHECK(cut.stop == Stop::context);
  CHECK(cut.tokens.size() == 2);
  narrow.context = 10;
  CHECK_THROWS_WITH(generate(*model, {prompts[2]}, narrow), Catch::Contains("11 tokens, the context is 10"));
}

TEST_CASE("generate: log-probabilities are those of the full pass") {
  const auto model = random_model();
  const Ids prompt = some_tokens(4, 61);
  const double t = 0.9;
  const auto r = generate(*model, {prompt}, {.sampling = {.temperature = t, .top_k = 5}, .max_new = 10})[0];
  Ids all = prompt;
  all.insert(all.end(), r.tokens.begin(), r.tokens.end());
  const Tensor logits = full_logits(*model, all);
  for (size_t i = 0; i < r.tokens.size(); ++i) {
    const auto row = row_of(logits, static_cast<int64_t>(prompt.size() + i) - 1);
    double total = 0;
    for (float x : row) total += std::exp(x / t);
    CHECK(r.log_probs[i] == Approx(row[static_cast<size_t>(r.tokens[i])] / t - std::log(total)).margin(2e-5));
  }
}
