// What a rollout computes is what training computes, bit for bit: a row of a batch does not depend on the other rows, on how many
// tokens go through the model at once, or on the number of threads.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cstring>

#include "infer/generator.h"
#include "tensor/cpu/tier.h"
#include "tensor/kernels/gemm.h"
#include "tensor/kernels/logit_rows.h"
#include "tensor/parallel.h"
#include "tests/infer/models.h"
#include "tests/support/compare.h"

using namespace facet;
using namespace facet::test;

namespace {

constexpr int64_t T = 12;

/// Row b: T - b % 3 tokens, of which 4 + b % 4 are its prompt.
int64_t length(int64_t b) { return T - b % 3; }
int64_t prompt(int64_t b) { return 4 + b % 4; }

struct Rows {
  Tensor hidden, logits;  ///< [n, D], [n, V]
  Tensor stats;           ///< [n, 4]: what log-probabilities are made of
};
Rows rows_of(Gemma& model, const Tokens& tokens, KvCache* cache) {
  const Tensor h = model.hidden(tokens, cache), w = model.head().value();
  const int64_t n = h.dim(0) * h.dim(1), V = w.dim(0);
  Rows r{h.reshape({n, h.dim(2)}), model.logits(h).reshape({n, V}), Tensor::empty({n, 4})};
  const Tensor z = Tensor::empty({n, V});
  std::vector<int32_t> labels;
  for (float x : r.hidden.slice(1, 0, 1).clone().data<float>()) labels.push_back(x > 0 ? 3 : 5);
  gemm(r.hidden.view(), transposed(w.view()), z.out());
  logit_stats(z.out(), Tensor::from(labels, {n}).view(), model.final_cap(), 1 / 0.7, true, r.stats.out());
  return r;
}

bool same_row(const Tensor& a, int64_t i, const Tensor& b, int64_t j) {
  return std::memcmp(row_of(a, i).data(), row_of(b, j).data(), static_cast<size_t>(a.dim(1)) * sizeof(float)) == 0;
}

/// Tokens of `count` rows from `first` on: [begin, end) of each, padded with position -1.
Tokens tokens_of(const Tensor& ids, int64_t first, int64_t count, int64_t width, auto begin, auto end) {
  std::vector<int32_t> id, position;
  for (int64_t b = first; b < first + count; ++b)
    for (int64_t i = 0; i < width; ++i) {
      const int64_t at = begin(b) + i;
      id.push_back(at < end(b) ? ids.data<int32_t>()[static_cast<size_t>(b * T + at)] : 0);
      position.push_back(at < end(b) ? static_cast<int32_t>(at) : -1);
    }
  return {Tensor::from(id, {count, width}), Tensor::from(position, {count, width}), {}};
}

/// One pass over `rows` rows on one thread against prefill and decoding of the last n of them on two. Smaller chunks make the rings of
/// local layers go round.
void check_model(Gemma& model, int64_t rows, const std::vector<int64_t>& batches, int64_t chunk = T) {
  const NoGrad off;
  set_threads(1);
  const Tensor ids = randint(key(8), {rows, T}, 3, static_cast<int32_t>(model.vocab()));
  const auto zero = [](int64_t) { return int64_t{0}; };
  const Rows whole = rows_of(model, tokens_of(ids, 0, rows, T, zero, length), nullptr);
  set_threads(2);
  for (const int64_t n : batches) {
    INFO("rows " << n);
    const int64_t first = rows - n;
    KvCache cache = model.new_cache(n, T, chunk);
    int64_t wrong = 0, seen = 0;
    const auto compare = [&](const Tokens& t) {
      const Rows got = rows_of(model, t, &cache);
      for (int64_t i = 0; i < t.positions.numel(); ++i) {
        const int64_t at = t.positions.data<int32_t>()[static_cast<size_t>(i)], row = (first + i / t.ids.dim(1)) * T + at;
        if (at < 0) continue;
        ++seen;
        wrong += !same_row(got.hidden, i, whole.hidden, row) || !same_row(got.logits, i, whole.logits, row) ||
                 !same_row(got.stats, i, whole.stats, row);
      }
    };
    for (int64_t begin = 0; begin < 7; begin += chunk)
      compare(tokens_of(ids, first, n, std::min(chunk, 7 - begin), [&](int64_t) { return begin; }, prompt));
    for (int64_t step = 0; step < T - 4; ++step)
      compare(tokens_of(ids, first, n, 1, [&](int64_t b) { return prompt(b) + step; }, length));
    CHECK(wrong == 0);
    CHECK(seen > n * (T - 3));
  }
}

std::unique_ptr<Gemma> demo_like(DType storage) {
  GemmaConfig c = preset("tiny");
  c.vocab = 67;
  auto model = std::make_unique<Gemma>(c, storage);
  model->init(key(6));
  return model;
}

}  // namespace

TEST_CASE("rows: prefill and decoding in any batch give the bits of one full pass, on every tier and number of threads") {
  const cpu::Tier tier = cpu::current_tier();
  const int was = threads();
  for (int t = 0; t <= static_cast<int>(cpu::best_tier()); ++t) {
    cpu::set_tier(static_cast<cpu::Tier>(t));
    INFO("tier " << t);
    check_model(*random_model(), 5, {1, 5});
    check_model(*random_model(DType::bf16), 5, {1, 5});
  }
  cpu::set_tier(tier);
  check_model(*demo_like(DType::f32), 17, {1, 17});
  check_model(*reference_model(DType::bf16), 16, {16});
  set_threads(was);
}

TEST_CASE("rows: prefill and decoding in large batches give the bits of one full pass", "[full]") {
  const cpu::Tier tier = cpu::current_tier();
  const int was = threads();
  for (int t = 0; t <= static_cast<int>(cpu::best_tier()); ++t) {
    cpu::set_tier(static_cast<cpu::Tier>(t));
    INFO("tier " << t);
    check_model(*demo_like(DType::f32), 17, {1, 7, 17});
    check_model(*reference_model(DType::bf16), 64, {1, 16, 64});
  }
  cpu::set_tier(tier);
  check_model(*reference_model(), 256, {256});
  set_threads(was);
}

TEST_CASE("rows: rings that go round change no bit") {
  const int was = threads();
  for (const int64_t chunk : {1, 3}) check_model(*random_model(), 3, {1, 3}, chunk);  // windows of 5
  set_threads(was);
}

TEST_CASE("rows: a document has the same bits wherever it stands in a packed row") {
  const NoGrad off;
  const auto model = random_model();
  const auto first = some_tokens(23, model->vocab(), 1), second = some_tokens(70, model->vocab(), 2), third = some_tokens(9, model->vocab(), 3);
  std::vector<int32_t> ids, positions, segments;
  for (int32_t number = 0; const auto& document : {first, second, third}) {
    for (size_t i = 0; i < document.size(); ++i) {
      ids.push_back(document[i]), positions.push_back(static_cast<int32_t>(i)), segments.push_back(number);
    }
    ++number;
  }
  const auto row = [](const std::vector<int32_t>& v) { return Tensor::from(v, {1, static_cast<int64_t>(v.size())}); };
  const Tensor packed = model->logits(model->hidden({row(ids), row(positions), row(segments)}));
  int64_t at = 0;
  for (const auto& document : {first, second, third}) {
    const auto n = static_cast<int64_t>(document.size());
    const Tensor alone = model->logits(model->hidden(plain_tokens(row(document))));
    CHECK(bitwise_equal(packed.slice(1, at, at + n).clone(), alone));
    at += n;
  }
}
