// Generation on the GPU: a cache against the whole sequence at every position, and the CPU's choices.
#include <cmath>

#include "app/conformance/small_model.h"
#include "infer/generator.h"
#include "tensor/gpu/overlap.h"
#include "tensor/gpu/runtime.h"

namespace facet::app {
namespace {

std::vector<int32_t> some_tokens(int64_t n, int64_t vocab, int64_t salt) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < n; ++i) ids.push_back(static_cast<int32_t>((i * 31 + salt * 17 + 5) % vocab));
  return ids;
}

// Rows of unequal lengths, fed in pieces of different sizes, past the window of the local layers.
Outcome cached_is_full(const Conformance& c, DType dtype) {
  const NoGrad off;
  const auto model = small_model(c, dtype, Device::gpu);
  const int64_t vocab = model->vocab(), longest = c.tiny ? 12 : 120;
  double worst = 0, rms = 0;
  int64_t positions = 0;
  for (int64_t row = 0; row < 2; ++row) {
    const std::vector<int32_t> ids = some_tokens(longest - 3 * row, vocab, row);
    const int64_t n = std::ssize(ids);
    const Tensor full = model->logits(model->hidden(plain_tokens(Tensor::from(ids, {1, n})))).detach().to(Device::cpu).to(DType::f32);  // [1, n, V]
    Generator g(*model, 2, longest + 1, c.tiny ? 4 : 16);
    std::vector<double> squares;
    for (int64_t at = 0; at < n;) {
      const int64_t piece = at == 0 ? n / 3 : 1;  // a prompt, then token by token
      g.feed(row, {ids.begin() + at, ids.begin() + at + piece});
      at += piece;
      const auto got = g.logits(row);
      const float* want = full.data<float>().data() + (at - 1) * vocab;
      for (int64_t v = 0; v < vocab; ++v) {
        worst = std::max(worst, static_cast<double>(std::abs(got[static_cast<size_t>(v)] - want[v])));
        rms += static_cast<double>(want[v]) * want[v];
      }
      ++positions;
    }
  }
  rms = std::sqrt(rms / static_cast<double>(positions * vocab));
  const double most = dtype == DType::f32 ? 1e-4 : 6e-2;
  return {worst <= most * rms, fmt::format("{} positions, largest difference {:.1e} of the logits' root mean square ({:g} allowed)", positions, worst / rms, most),
          {{"positions", static_cast<double>(positions)}, {"largest_difference_of_rms", worst / rms}}};
}

std::vector<std::vector<int32_t>> some_prompts(const Conformance& c, int64_t vocab) {
  std::vector<std::vector<int32_t>> prompts;
  for (int64_t row = 0; row < (c.tiny ? 2 : 8); ++row) prompts.push_back(some_tokens((c.tiny ? 3 : 20) + row, vocab, row));
  return prompts;
}

GenerateOptions options(const Conformance& c, double temperature) {
  GenerateOptions o;
  o.sampling.temperature = static_cast<float>(temperature);
  o.max_new = c.tiny ? 8 : 64;
  o.seed = c.seed;
  o.ignore_stop = true;
  return o;
}

std::vector<Generation> answers(const Conformance& c, Device device, double temperature) {
  const auto model = small_model(c, DType::f32, device);
  return generate(*model, some_prompts(c, model->vocab()), options(c, temperature));
}

Outcome same_tokens(const Conformance& c, double temperature) {
  const auto got = answers(c, Device::gpu, temperature), want = answers(c, Device::cpu, temperature);
  int64_t tokens = 0;
  double log_prob = 0;
  for (size_t row = 0; row < want.size(); ++row)
    for (size_t t = 0; t < want[row].tokens.size(); ++t, ++tokens) {
      if (t >= got[row].tokens.size() || got[row].tokens[t] != want[row].tokens[t])
        return {false, fmt::format("row {} differs at token {}: {} here, {} on the CPU (log-probability {:.4f})", row, t,
                                   t < got[row].tokens.size() ? got[row].tokens[t] : -1, want[row].tokens[t], want[row].log_probs[t])};
      log_prob = std::max(log_prob, static_cast<double>(std::abs(got[row].log_probs[t] - want[row].log_probs[t])));
    }
  return {log_prob <= 1e-3, fmt::format("{} tokens of {} rows, log-probabilities within {:.1e}", tokens, want.size(), log_prob),
          {{"tokens", static_cast<double>(tokens)}, {"largest_log_prob_difference", log_prob}}};
}

// Replayed steps that draw and feed back by themselves, against the host's feeding and drawing token by token: the same bits.
Outcome without_host(const Conformance& c, double temperature) {
  const auto model = small_model(c, DType::bf16, Device::gpu);
  const auto prompts = some_prompts(c, model->vocab());
  const GenerateOptions o = options(c, temperature);
  const auto got = generate(*model, prompts, o);
  Generator g(*model, std::ssize(prompts), std::ssize(prompts.back()) + o.max_new);
  std::vector<int64_t> rows;
  for (int64_t row = 0; row < std::ssize(prompts); ++row) rows.push_back(row);
  std::vector<std::vector<int32_t>> next = prompts;
  for (size_t t = 0; t < static_cast<size_t>(o.max_new); ++t) {
    g.feed(rows, next);
    for (int64_t row : rows) {
      const Tensor logits = Tensor::from(g.logits(row), {1, model->vocab()}).to(Device::gpu);
      const DrawRow key_of{fold_in(fold_in(key(o.seed), static_cast<uint32_t>(row)), static_cast<uint32_t>(g.length(row)))};
      Draw want;
      draw(logits, 0, o.sampling, {&key_of, 1}, {&want, 1});
      const Generation& have = got[static_cast<size_t>(row)];
      if (have.tokens.at(t) != want.id || have.log_probs.at(t) != want.log_prob)
        return {false, fmt::format("row {} differs at token {}: {} ({:.9g}), with the host {} ({:.9g})", row, t, have.tokens[t], have.log_probs[t], want.id,
                                   want.log_prob)};
      next[static_cast<size_t>(row)] = {want.id};
    }
  }
  return {true, fmt::format("{} tokens of {} rows", o.max_new, rows.size()), {{"tokens", static_cast<double>(o.max_new * std::ssize(rows))}}};
}

// Kernels that begin while those before them end, against one after the other.
Outcome overlapped_is_plain(const Conformance& c, double temperature) {
  const auto model = small_model(c, DType::bf16, Device::gpu);
  const auto prompts = some_prompts(c, model->vocab());
  const auto answers_now = [&] { return generate(*model, prompts, options(c, temperature)); };
  const bool overlaps = gpu::overlaps_launches();
  const auto got = answers_now();
  const gpu::PlainLaunches plain;
  const auto want = answers_now();
  int64_t tokens = 0;
  for (size_t row = 0; row < want.size(); ++row) {
    if (got[row].tokens != want[row].tokens || got[row].log_probs != want[row].log_probs) return {false, fmt::format("row {} differs", row)};
    tokens += std::ssize(want[row].tokens);
  }
  return {true, fmt::format("{} tokens of {} rows{}", tokens, want.size(), overlaps ? "" : "; nothing overlaps here"),
          {{"tokens", static_cast<double>(tokens)}, {"overlaps", overlaps ? 1.0 : 0.0}}};
}

}  // namespace

void conform_decode(Conformance& c) {
  c.begin("decode");
  const int64_t before = device_bytes();
  c.check("cached = full forward, f32", [&] { return cached_is_full(c, DType::f32); });
  c.check("cached = full forward, bf16", [&] { return cached_is_full(c, DType::bf16); });
  c.check("greedy tokens are the CPU's", [&] { return same_tokens(c, 0); });
  c.check("sampled tokens are the CPU's", [&] { return same_tokens(c, 0.9); });
  c.check("steps without the host = with it, greedy", [&] { return without_host(c, 0); });
  c.check("steps without the host = with it, sampled", [&] { return without_host(c, 0.9); });
  c.check("overlapped kernels = plain ones, greedy", [&] { return overlapped_is_plain(c, 0); });
  c.check("overlapped kernels = plain ones, sampled", [&] { return overlapped_is_plain(c, 0.9); });
  c.check("memory returned after decoding", [&] {
    const int64_t held = device_bytes() - before;
    return Outcome{held == 0, fmt::format("{} bytes still held", held), {{"held_bytes", static_cast<double>(held)}}};
  });
}

}  // namespace facet::app
