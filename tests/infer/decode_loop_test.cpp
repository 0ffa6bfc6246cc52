// Decoding on the (emulated) GPU with the host out of the loop: however many steps it looks away for, rows get the tokens they get one by one.
#include "infer/decode_loop.h"

#include <catch2/catch.hpp>

#include <algorithm>

#include "infer/generator.h"
#include "infer/rollout.h"
#include "nn/lora.h"
#include "nn/tap.h"
#include "tensor/gpu/emulator/emulator.h"
#include "tensor/gpu/runtime.h"
#include "tests/infer/models.h"

using namespace facet;
using namespace facet::test;

namespace {

using Prompts = std::vector<std::vector<int32_t>>;

std::unique_ptr<Gemma> gpu_model(DType storage = DType::f32) {
  gpu::emulate(true);
  auto model = random_model(storage);
  model->to(Device::gpu);
  return model;
}

Prompts some_prompts() {
  Prompts list;
  for (uint32_t i = 0; const int64_t n : {7, 1, 12}) list.push_back(some_tokens(n, 61, ++i));
  return list;
}

void check_same(const std::vector<Generation>& got, const std::vector<Generation>& want) {
  REQUIRE(got.size() == want.size());
  for (size_t i = 0; i < want.size(); ++i) {
    INFO("row " << i);
    CHECK(got[i].tokens == want[i].tokens);
    CHECK(got[i].log_probs == want[i].log_probs);  // to the bit
    CHECK(got[i].stop == want[i].stop);
  }
}

void check_same(const std::vector<Rollout>& got, const std::vector<Rollout>& want) {
  REQUIRE(got.size() == want.size());
  for (size_t i = 0; i < want.size(); ++i) {
    INFO("rollout " << i);
    CHECK(got[i].tokens == want[i].tokens);
    CHECK(got[i].log_probs == want[i].log_probs);
    CHECK(got[i].entropy == want[i].entropy);
    CHECK(got[i].stop == want[i].stop);
  }
}

/// While somebody taps, the host takes part in every step.
template <class F>
auto with_host(F f) {
  const Taps taps([](const std::string&, const Tensor&) {});
  return f();
}

/// Generation with the host looking after so many tokens is that with the host in every step.
void check_generation(Gemma& model, const SamplingOptions& sampling, int64_t max_new, std::initializer_list<int64_t> polls) {
  const Prompts prompts = some_prompts();
  GenerateOptions o{.sampling = sampling, .max_new = max_new, .seed = 3};
  const auto free = with_host([&] { return generate(model, prompts, o); });
  o.stop = {free[0].tokens[2], free[1].tokens[4]};  // rows end at different times
  const auto want = with_host([&] { return generate(model, prompts, o); });
  CHECK(want[0].stop == Stop::stop_token);
  for (const int64_t poll : polls) {
    o.poll = poll;
    INFO("temperature " << sampling.temperature << " top_k " << sampling.top_k << " top_p " << sampling.top_p << ", poll " << poll);
    check_same(generate(model, prompts, o), want);
  }
}

void check_rollouts(Gemma& model, double temperature, std::initializer_list<int64_t> polls) {
  const Prompts prompts = some_prompts();
  RolloutOptions o{.sampling = {.temperature = temperature}, .group = 2, .max_new = 7, .rows = 4, .stop = {1, 17, 40, 41, 42}, .key = key(11)};
  RolloutFigures f, g;
  const auto want = with_host([&] { return roll_out(model, prompts, o, &f); });
  CHECK(std::ranges::any_of(want, [](const Rollout& r) { return r.stop == Stop::stop_token; }));
  CHECK(std::ranges::any_of(want, [](const Rollout& r) { return r.stop == Stop::length; }));
  Roller roller(model);
  for (const int64_t poll : polls) {
    o.poll = poll;
    INFO("temperature " << temperature << ", poll " << poll);
    check_same(roller(prompts, o, &g), want);
    CHECK(g.sampled == f.sampled);
    CHECK(g.steps >= f.steps);  // rows that ended wait for the host
    CHECK(g.busy <= f.busy);
    CHECK(g.busy * static_cast<double>(g.steps * 4) == Approx(static_cast<double>(g.sampled - 6)));  // the first tokens are no step's
  }
}

}  // namespace

TEST_CASE("decode loop: generation is the one with the host in every step") {
  check_generation(*gpu_model(), {.temperature = 0.7, .top_k = 20, .forbidden = {4, 5, 17}}, 6, {4});
}

TEST_CASE("decode loop: generation is the one with the host in every step, whatever the filters and however seldom it looks", "[full]") {
  const auto model = gpu_model();
  for (const SamplingOptions& sampling : {SamplingOptions{.temperature = 0}, SamplingOptions{}, SamplingOptions{.temperature = 0.7, .top_k = 20},
                                         SamplingOptions{.temperature = 1.3, .top_p = 0.9, .forbidden = {4, 5, 17}}, SamplingOptions{.min_p = 0.02},
                                         SamplingOptions{.temperature = 0.9, .repetition_penalty = 1.3}})
    check_generation(*model, sampling, 11, {1, 3, 8});
  check_generation(*gpu_model(DType::bf16), {.temperature = 0.9}, 11, {3, 8});
}

TEST_CASE("decode loop: rollouts are those with the host in every step, and rows that ended are replaced") { check_rollouts(*gpu_model(), 0.8, {3}); }

TEST_CASE("decode loop: rollouts however seldom the host looks", "[full]") {
  const auto model = gpu_model();
  for (const double temperature : {0.0, 0.8}) check_rollouts(*model, temperature, {1, 3, 8});
  check_rollouts(*gpu_model(DType::bf16), 1, {8});
}

// What a caller refuses was computed all the same: his row must not know of it, neither in the window of local layers nor beyond it.
TEST_CASE("decode loop: a caller gets no token after the one he refused, and the cache forgets what followed") {
  const auto model = gpu_model();
  const GenerateOptions o{.sampling = {.temperature = 0}, .max_new = 9};
  const std::vector<int32_t> question = some_tokens(6, 61, 9);
  const auto talk = [&](Generator& g) {
    int64_t seen = 0;
    const auto first = continue_rows(g, {0, 1}, {some_tokens(5, 61, 1), some_tokens(9, 61, 2)}, o, [&](int64_t row, const Draw&) { return row != 0 || ++seen < 4; });
    CHECK(first[0].stop == Stop::caller);
    CHECK(first[0].tokens.size() == 4);
    CHECK(seen == 4);
    CHECK(first[1].tokens.size() == 9);
    CHECK(g.length(0) == 5 + 3);  // the fourth is not computed
    std::vector<int32_t> next = {first[0].tokens.back()};
    next.insert(next.end(), question.begin(), question.end());
    auto both = continue_rows(g, {0}, {next}, o);
    both.insert(both.end(), first.begin(), first.end());
    return both;
  };
  Generator host(*model, 2, 40, 8), alone(*model, 2, 40, 8);
  const auto want = with_host([&] { return talk(host); });
  check_same(talk(alone), want);
}

TEST_CASE("decode loop: steps launch without waiting, one wait reads them all") {
  const auto model = gpu_model();
  KvCache cache = model->new_cache(2, 40, 16);
  {
    const NoGrad off;
    model->hidden(plain_tokens(Tensor::from(some_tokens(10, 61), {2, 5})), &cache);
  }
  DecodeLoop loop(*model, cache);
  const auto run = [&](const std::vector<DecodeLoop::Row>& rows, int64_t steps) {
    const int64_t waits = gpu::syncs();
    gpu::assert_no_sync(true);
    const int64_t made = loop.start(0, rows, {}, steps);
    gpu::assert_no_sync(false);
    const auto draws = loop.draws();
    CHECK(gpu::syncs() == waits + 1);
    CHECK(static_cast<int64_t>(draws.size()) == 2 * made);
    return made;
  };
  const int64_t eager = gpu::emulator::counters().launches;
  CHECK(run({{7, 5, 30, key(1)}, {8, 5, 3, key(2)}}, 2) == 2);
  CHECK(loop.replays() == 0);
  const int64_t replayed = gpu::emulator::counters().launches;
  CHECK(run({{9, 7, 30, key(1)}, {8, 7, 1, key(2)}}, 8) == 8);
  CHECK(loop.replays() == 8);
  for (size_t s = 0; s < 8; ++s) {
    CHECK(loop.draws()[2 * s].id >= 0);
    CHECK((loop.draws()[2 * s + 1].id >= 0) == (s == 0));  // this row wanted one more
  }
  CHECK(run({{9, 15, 4, key(1)}, {8, 8, 2, key(2)}}, 8) == 4);  // nobody can use more
  CHECK(run({{9, 19, 19, key(1)}, {8, 9, 2, key(2)}}, 100) == 16);  // what a caller refuses may have overwritten a chunk
  const int64_t all = gpu::emulator::counters().launches, a_step = (replayed - eager) / 2;
  CHECK(all - replayed == 28 * a_step);
  CHECK(a_step <= 60);  // 15 in each of the three layers
}

TEST_CASE("decode loop: rules that change are recorded anew; what a row is drawn with is its key's") {
  const auto model = gpu_model();
  Generator alone(*model, 1, 60), host(*model, 1, 60);
  for (const auto& [temperature, seed] : {std::pair{1.0, 1}, {1.0, 2}, {0.0, 2}}) {
    const GenerateOptions o{.sampling = {.temperature = temperature}, .max_new = 4, .seed = static_cast<uint64_t>(seed)};
    check_same(continue_rows(alone, {0}, {{5}}, o), with_host([&] { return continue_rows(host, {0}, {{5}}, o); }));
  }
  const RolloutOptions jax{.group = 2, .max_new = 4, .key = key(3, Counters::original)};
  const Prompts prompts = {some_tokens(3, 61)};
  check_same(roll_out(*model, prompts, jax), with_host([&] { return roll_out(*model, prompts, jax); }));
}

TEST_CASE("decode loop: another adapter, or none, is recorded anew") {
  const auto model = gpu_model();
  Adapters adapters(*model);
  for (const char* name : {"a", "b"}) {
    adapters.add(name, {.rank = 2, .alpha = 40}, key(name[0]));
    for (const auto& [path, f] : adapters.factors(name))
      for (Parameter* p : {&f->a, &f->b}) p->value().set(normal(key(name[0] + path.size()), p->value().shape()).to(p->value().dtype()).to(Device::gpu));
  }
  Generator kept(*model, 1, 60);
  Roller roller(*model);
  const Prompts prompts = {some_tokens(3, 61)};
  const GenerateOptions o{.sampling = {.temperature = 0}, .max_new = 8};
  std::vector<std::vector<int32_t>> texts;
  for (const char* name : {"a", "b", "", "a"}) {
    adapters.use(name);
    kept.forget(0);
    const auto fresh = with_host([&] { return generate(*model, prompts, o); });
    check_same(continue_rows(kept, {0}, prompts, o), fresh);
    const RolloutOptions r{.group = 2, .max_new = 8, .key = key(3)};
    check_same(roller(prompts, r), with_host([&] { return roll_out(*model, prompts, r); }));
    texts.push_back(fresh[0].tokens);
  }
  CHECK(texts[0] == texts[3]);
  for (const auto& [i, j] : {std::pair{0, 1}, {0, 2}, {1, 2}}) CHECK(texts[static_cast<size_t>(i)] != texts[static_cast<size_t>(j)]);
}

TEST_CASE("decode loop: logits that are no numbers end in an error, not in a token") {
  const auto model = gpu_model();
  Generator g(*model, 1, 40);
  const GenerateOptions o{.max_new = 4};
  continue_rows(g, {0}, {some_tokens(4, 61)}, o);
  for (Parameter* p : parameters(*model))
    if (p->name == "norm.weight") p->value().set(Tensor::full({24}, NAN).to(Device::gpu));
  const int64_t length = g.length(0);
  CHECK_THROWS_WITH(continue_rows(g, {0}, {{5}}, o), Catch::Contains("diverged"));
  CHECK(g.length(0) == length);
}
