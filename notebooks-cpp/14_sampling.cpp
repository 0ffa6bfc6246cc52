// ---
// jupyter:
//   jupytext:
//     text_representation:
//       extension: .cpp
//       format_name: percent
//   kernelspec:
//     display_name: C++20
//     language: C++20
//     name: xcpp20
// ---

// %% [markdown]
// # 14 · Sampling
//
// A language model does not write. It says, for every word of its vocabulary, how likely that word comes next; what is
// written is decided by somebody else. Always take the likeliest, and the text goes round in circles. Roll the dice
// as the model says, and once in a hundred words a slip from the long tail derails it. Everything in between, temperature,
// top-k, top-p, min-p, penalties, is a few lines each, and each has a trap.
//
// Each rule is written by hand here and held against the library's, on the distributions of a model trained on the spot.

// %%
#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <set>

#include "autograd/ops.h"
#include "data/example.h"
#include "data/make_tokenizer.h"
#include "data/prose.h"
#include "infer/generator.h"
#include "notebooks-cpp/nb.hpp"
#include "notebooks-cpp/small_gemma.h"
#include "optim/adamw.h"

using namespace facet;

// %% [markdown]
// ## A distribution and its tokens
//
// The first three rules by hand. A distribution is a list of tokens with their probabilities, likeliest first (equal ones by
// their number), as the library's `candidates` returns it.

// %%
using Distribution = std::vector<Candidate>;

Distribution softmax_of(std::span<const float> logits, double temperature) {
  const double top = *std::max_element(logits.begin(), logits.end());
  Distribution d;
  double sum = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    d.push_back({static_cast<int32_t>(i), std::exp((logits[i] - top) / temperature)});
    sum += d.back().probability;
  }
  for (Candidate& c : d) c.probability /= sum;
  std::stable_sort(d.begin(), d.end(), [](const Candidate& a, const Candidate& b) { return a.probability > b.probability; });
  return d;
}

// What is left after a cut sums to one again.
Distribution first_of(Distribution d, size_t n) {
  d.resize(std::min(n, d.size()));
  double sum = 0;
  for (const Candidate& c : d) sum += c.probability;
  for (Candidate& c : d) c.probability /= sum;
  return d;
}
Distribution top_k(const Distribution& d, size_t k) { return first_of(d, k); }
Distribution top_p(const Distribution& d, double p) {  // the smallest set whose mass reaches p
  size_t n = 0;
  for (double mass = 0; n < d.size() && mass < p; ++n) mass += d[n].probability;
  return first_of(d, n);
}
Distribution min_p(const Distribution& d, double share) {  // those with at least this share of the likeliest one's
  size_t n = 0;
  while (n < d.size() && d[n].probability >= share * d[0].probability) ++n;
  return first_of(d, n);
}

double entropy(const Distribution& d) {
  double h = 0;
  for (const Candidate& c : d)
    if (c.probability > 0) h -= c.probability * std::log(c.probability);
  return h;
}
bool same(const Distribution& a, const Distribution& b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i)
    if (a[i].id != b[i].id || std::abs(a[i].probability - b[i].probability) > 2e-6) return false;
  return true;
}

// Pearson's statistic of counts against expectations; rare tokens share a cell. Returns how many standard deviations
// it lies from what chance would give.
double surprise(const std::vector<int64_t>& counts, const std::vector<double>& probability, int64_t n) {
  double chi = 0, rest_expected = 0, rest_found = 0;
  int cells = -1;
  for (size_t i = 0; i < counts.size(); ++i) {
    const double expected = probability[i] * static_cast<double>(n);
    if (expected < 10) {
      rest_expected += expected;
      rest_found += static_cast<double>(counts[i]);
      continue;
    }
    chi += std::pow(static_cast<double>(counts[i]) - expected, 2) / expected;
    ++cells;
  }
  if (rest_expected >= 5) chi += std::pow(rest_found - rest_expected, 2) / rest_expected, ++cells;
  return (chi - cells) / std::sqrt(2.0 * cells);
}

// The share of trigrams of tokens that occurred before: how much a text repeats itself.
double repeated(std::span<const int32_t> ids) {
  std::set<std::vector<int32_t>> seen;
  int64_t again = 0, all = 0;
  for (size_t i = 0; i + 2 < ids.size(); ++i, ++all) again += !seen.insert({ids[i], ids[i + 1], ids[i + 2]}).second;
  return all ? static_cast<double>(again) / static_cast<double>(all) : 0;
}

// %% active="cpp"
int main(int argc, char** argv) {
nb::start(argc, argv);

// %% [markdown]
// ## A model to ask
//
// Prose from the library's own grammar, a vocabulary of 400 pieces learned from it, and a small Gemma that reads for some
// seconds. It will not write literature; its distributions are those of a real model, sharp in some places and flat in others.

// %%
NB_CELL
const std::string prose = make_prose(60'000, 3);
const Tokenizer tokenizer = Tokenizer::from_bytes(train_bpe_tokenizer({prose}, 400), "prose");
const Ids text = tokenizer.encode(prose);
const int64_t V = tokenizer.vocab_size();
GemmaConfig config = nb::small_gemma(V);
config.context = 256;
Gemma model(config);
model.init(key(1));
model.to(nb::device());
AdamW optimizer({{.parameters = parameters(model)}}, AdamWOptions{.beta2 = 0.99});
const int64_t length = 32, rows = 12;
const int steps = nb::steps(500, 200);
nb::Curve loss{"loss", {}, {}};
for (int step = 0; step < steps; ++step) {
  const Tensor from = randint(fold_in(key(2), static_cast<uint32_t>(step)), {rows}, 0, static_cast<int64_t>(text.size()) - length - 1);
  std::vector<int32_t> ids, labels;
  for (int32_t begin : from.data<int32_t>()) {
    ids.push_back(tokenizer.specials().bos);
    ids.insert(ids.end(), text.begin() + begin, text.begin() + begin + length - 1);
    labels.insert(labels.end(), text.begin() + begin, text.begin() + begin + length);
  }
  const Tensor weights = Tensor::full({rows, length}, 1.0 / static_cast<double>(rows * length));
  loss.x.push_back(step);
  loss.y.push_back(linear_cross_entropy_backward(model.hidden(plain_tokens(Tensor::from(ids, {rows, length}))), model.head().value(),
                                                 Tensor::from(labels, {rows, length}), weights));
  optimizer.step(1e-2 * std::min(1.0, (step + 1) / 10.0) * (1 - 0.9 * step / steps));
}
nb::plot({loss}, {"Learning from prose", "step", "nats per token"});
nb::check_learned(loss.y.back() < loss.y.front() - 1.5, "the model has learned something about the text");

const auto logits_after = [&](const std::string& prompt) {
  Generator generator(model, 1, 64);
  generator.feed(0, encode_prompt(tokenizer, prompt));
  const auto l = generator.logits(0);
  return std::vector<float>(l.begin(), l.end());
};

// %% [markdown]
// Two places in the text: one where the model is nearly sure, one where it is not. To find them, ask everywhere in a paragraph and take
// the extremes.

// %%
NB_CELL
std::vector<float> sure, unsure;
std::string sure_text, unsure_text;
{
  const Ids start(text.begin(), text.begin() + 60);
  double least = 1e9, most = 0;
  for (size_t n = nb::brief() ? 50 : 10; n < start.size(); ++n) {
    const std::string prompt = tokenizer.decode(std::span(start).first(n));
    const auto l = logits_after(prompt);
    const double h = entropy(softmax_of(l, 1));
    if (h < least) least = h, sure = l, sure_text = prompt;
    if (h > most) most = h, unsure = l, unsure_text = prompt;
  }
}
const auto tail_of = [](const std::string& s) { return s.size() > 60 ? s.substr(s.find(' ', s.size() - 60)) : s; };
for (const auto& [where, l] : {std::pair{sure_text, sure}, {unsure_text, unsure}}) {
  const Distribution d = softmax_of(l, 1);
  fmt::print("...{}| entropy {:.2f} nats; next:", tail_of(where), entropy(d));
  for (size_t i = 0; i < 6; ++i) fmt::print("  {:?} {:.3f}", tokenizer.piece(d[i].id), d[i].probability);
  fmt::print("\n");
}
nb::check(same(softmax_of(sure, 1), candidates(sure, {})) && same(softmax_of(unsure, 1), candidates(unsure, {})),
          "softmax by hand is the library's");
nb::check_learned(entropy(softmax_of(unsure, 1)) > 2 * entropy(softmax_of(sure, 1)), "one place is at least twice as open as the other");

// %% [markdown]
// ## One number decides
//
// To draw: lay the tokens side by side along [0, 1), each as wide as it is likely, draw one uniform number and see who lies there.
// One number, one token. In this library the number is a function of a key ([lesson on keys: `tensor/rng.h`](../tensor/rng.h)), so a draw can
// be repeated, on any machine, with any number of threads.

// %%
NB_CELL
const auto drawn_by_hand = [](std::span<const float> logits, double u) {
  Distribution d = softmax_of(logits, 1);
  std::sort(d.begin(), d.end(), [](const Candidate& a, const Candidate& b) { return a.id < b.id; });
  double right = 0;
  for (const Candidate& c : d)
    if ((right += c.probability) > u) return c.id;
  return d.back().id;
};
int64_t agree = 0;
const int64_t tries = 2000;
for (uint32_t i = 0; i < tries; ++i) {
  const Key k = fold_in(key(7), i);
  agree += drawn_by_hand(unsure, uniform(k)) == draw(unsure, {}, k).id;
}
fmt::print("{} of {} draws agree\n", agree, tries);
nb::check(agree >= tries - 2, "the token under the uniform number, by hand and by the library (but for a rounding at a border)");

// %% [markdown]
// Are the frequencies right? Pearson's test adds up `(found - expected)² / expected` over the tokens. If the draws are fair the sum is about the number
// of tokens, give or take a few standard deviations. If they were drawn at temperature 1.1 instead, it would be far off: the test can fail.

// %%
NB_CELL
const int64_t draws = nb::brief() ? 4'000 : nb::quick() ? 20'000 : 100'000;
const auto counts_at = [&](double temperature) {
  std::vector<int64_t> counts(static_cast<size_t>(V), 0);
  const int64_t block = 1000;
  std::vector<DrawRow> at(block);
  std::vector<Draw> out(block);
  for (int64_t begin = 0; begin < draws; begin += block) {
    std::vector<float> many;
    for (int64_t i = 0; i < block; ++i) {
      many.insert(many.end(), unsure.begin(), unsure.end());
      at[i].key = fold_in(key(8), static_cast<uint32_t>(begin + i));
    }
    draw(Tensor::from(many, {block, V}).to(nb::device()), 0, {.temperature = temperature}, at, out);
    for (const Draw& d : out) ++counts[d.id];
  }
  return counts;
};
std::vector<double> probability(static_cast<size_t>(V));
for (const Candidate& c : softmax_of(unsure, 1)) probability[c.id] = c.probability;
const std::vector<int64_t> counts = counts_at(1);
const double fair = surprise(counts, probability, draws), unfair = surprise(counts_at(1.1), probability, draws);
const Distribution likeliest = softmax_of(unsure, 1);
std::vector<std::string> labels;
nb::Bars said{"the model says", {}}, found{"drawn", {}};
for (size_t i = 0; i < 15; ++i) {
  labels.push_back(tokenizer.piece(likeliest[i].id));
  said.values.push_back(likeliest[i].probability);
  found.values.push_back(static_cast<double>(counts[likeliest[i].id]) / static_cast<double>(draws));
}
nb::bars(labels, {said, found}, {fmt::format("The fifteen likeliest tokens and how often {} draws took them", draws), "token", ""});
fmt::print("{:+.1f} standard deviations from chance; at temperature 1.1 {:+.0f}\n", fair, unfair);
nb::check(std::abs(fair) < 5, "frequencies are the probabilities");
nb::check_learned(unfair > 10, "and the test would have noticed a temperature of 1.1");

// %% [markdown]
// There is another way to draw, without sums: add to each logit an independent number from Gumbel's distribution, `-log(-log u)`, and take the largest.
// The maximum of shifted Gumbels is distributed just so that `P(i wins) = softmax_i`. It needs no normalisation, which is why it is the form of choice where
// the vocabulary is spread over machines ([Maddison et al. 2014, section 2](https://arxiv.org/abs/1411.0030)).

// %%
NB_CELL
std::vector<int64_t> wins(static_cast<size_t>(V), 0);
const int64_t races = nb::brief() ? draws : draws / 10;
const Tensor winners = categorical(key(9), Tensor::from(unsure, {1, V}).expand({races, V}).clone());
for (int32_t id : winners.data<int32_t>()) ++wins[id];
const double by_race = surprise(wins, probability, races);
fmt::print("{:+.1f} standard deviations from chance\n", by_race);
nb::check(std::abs(by_race) < 5, "the winner of the race is distributed as softmax");

// %% [markdown]
// ## Temperature
//
// Divide the logits by T. Probabilities become `p^(1/T)`, normalised: their ratios are sharpened below 1 and flattened above. At 0 only the likeliest is left
// (greedy), at infinity all are alike. Entropy grows all the way, and `dH/dT = Var(z) / T³` says how fast: fastest where the logits differ.

// %%
NB_CELL
std::vector<double> temperatures, open_entropy, sure_entropy;
for (double t = 0.1; t < 4; t *= 1.08) {
  temperatures.push_back(t);
  open_entropy.push_back(entropy(candidates(unsure, {.temperature = t})));
  sure_entropy.push_back(entropy(candidates(sure, {.temperature = t})));
}
nb::plot({{"where the model is unsure", temperatures, open_entropy}, {"where it is sure", temperatures, sure_entropy}},
         {"Entropy over temperature", "temperature", "nats", true});
nb::check(std::is_sorted(open_entropy.begin(), open_entropy.end()) && std::is_sorted(sure_entropy.begin(), sure_entropy.end()),
          "hotter is more open, always");
nb::check(same(softmax_of(unsure, 0.5), candidates(unsure, {.temperature = 0.5})), "p^(1/T) by hand is the library's");
const double T = 1.3, h = 1e-3;
double mean_z = 0, var_z = 0;
for (const Candidate& c : softmax_of(unsure, T)) mean_z += c.probability * unsure[c.id];
for (const Candidate& c : softmax_of(unsure, T)) var_z += c.probability * std::pow(unsure[c.id] - mean_z, 2);
const double measured = (entropy(softmax_of(unsure, T + h)) - entropy(softmax_of(unsure, T - h))) / (2 * h);
nb::check(std::abs(measured / (var_z / std::pow(T, 3)) - 1) < 1e-4, "dH/dT = Var(z) / T³");
nb::check(draw(unsure, {.temperature = 0}, key(1)).id == likeliest[0].id, "temperature 0 takes the likeliest");

// %% [markdown]
// ## Cutting the tail
//
// One token in the tail is unlikely; the tail as a whole is not. Where the model is unsure, thousands of bad tokens together may hold a tenth of the mass, and a
// text of a hundred tokens then meets ten of them. Three cuts:
//
// - **top-k** keeps the k likeliest, here and there alike. Where the model is sure, k = 40 keeps 39 that should go; where it is open, it cuts into what is good.
// - **top-p** keeps the smallest set that holds a share p of the mass ([Holtzman et al. 2019, section 3.1](https://arxiv.org/abs/1904.09751)): few where the model is sure, many where it is not.
// - **min-p** keeps what is at least a share of the likeliest ([Nguyen et al. 2024](https://arxiv.org/abs/2407.01082)).

// %%
NB_CELL
const auto ranked = [](const std::string& name, const Distribution& d) {
  nb::Curve c{name, {}, {}};
  for (size_t i = 0; i < d.size(); ++i) c.x.push_back(static_cast<double>(i + 1)), c.y.push_back(d[i].probability);
  return c;
};
const auto cut_line = [](const std::string& name, size_t n) {
  return nb::Curve{name, {n + 0.5, n + 0.5}, {1e-5, 1}};
};
std::vector<std::vector<std::string>> kept;
for (const auto& [name, l] : {std::pair{"sure", sure}, {"unsure", unsure}}) {
  const Distribution d = softmax_of(l, 1);
  const size_t p = top_p(d, 0.9).size(), m = min_p(d, 0.1).size();
  nb::plot({ranked("probability", d), cut_line("top-k 10", 10), cut_line("top-p 0.9", p), cut_line("min-p 0.1", m)},
           {fmt::format("Tokens by rank where the model is {}", name), "rank", "probability", true, true});
  const auto mass = [&](size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; ++i) sum += d[i].probability;
    return sum;
  };
  kept.push_back({name, fmt::format("10 ({:.2f})", mass(10)), fmt::format("{} ({:.2f})", p, mass(p)), fmt::format("{} ({:.2f})", m, mass(m))});
  nb::check(mass(p) >= 0.9 && mass(p - 1) < 0.9, fmt::format("top-p, {}: the set reaches 0.9, and without its last it would not", name));
  nb::check(same(top_k(d, 10), candidates(l, {.top_k = 10})) && same(top_p(d, 0.9), candidates(l, {.top_p = 0.9})) &&
                same(min_p(d, 0.1), candidates(l, {.min_p = 0.1})),
            fmt::format("all three cuts, {}: by hand and by the library", name));
}
nb::table({"the model is", "top-k 10 keeps (mass)", "top-p 0.9", "min-p 0.1"}, kept);
nb::check_learned(top_p(softmax_of(unsure, 1), 0.9).size() > 3 * top_p(softmax_of(sure, 1), 0.9).size(),
          "top-p keeps more than three times as many where the model is unsure");

// %% [markdown]
// Together they act in a fixed order: temperature, then top-k, then top-p of what is left, then min-p. Order matters, and libraries differ. With temperature
// first, a hot model keeps a wider nucleus than a cold one: the cut sees the distribution that is drawn from.

// %%
NB_CELL
const SamplingOptions mixed{.temperature = 1.5, .top_k = 30, .top_p = 0.8, .min_p = 0.05};
nb::check(same(min_p(top_p(top_k(softmax_of(unsure, 1.5), 30), 0.8), 0.05), candidates(unsure, mixed)), "all of them at once, in this order");
std::vector<double> nucleus;
for (double t : temperatures) nucleus.push_back(static_cast<double>(candidates(unsure, {.temperature = t, .top_p = 0.9}).size()));
nb::plot({{"top-p 0.9", temperatures, nucleus}}, {"Tokens in the nucleus over temperature", "temperature", "tokens", true, true});
nb::check_learned(std::is_sorted(nucleus.begin(), nucleus.end()) && nucleus.back() > 2 * nucleus.front(), "the hotter, the wider the nucleus");
Distribution other_order = softmax_of(unsure, 1);  // top-p first, temperature after
other_order = top_p(other_order, 0.8);
nb::check_learned(other_order.size() != candidates(unsure, {.temperature = 1.5, .top_p = 0.8}).size(), "top-p before temperature would be another set");

// %% [markdown]
// ## Going round in circles
//
// Greedy text repeats itself: once a phrase has occurred, it makes itself likelier. The repetition penalty ([Keskar et al. 2019, section
// 4.1](https://arxiv.org/abs/1909.05858)) makes every token seen before less likely: positive logits are divided by it, negative ones multiplied.

// %%
NB_CELL
const auto written = [&](SamplingOptions o, uint64_t seed = 0) {
  return generate(model, {encode_prompt(tokenizer, "The old")}, {.sampling = o, .max_new = nb::brief() ? 20 : 200, .seed = seed, .ignore_stop = true})[0];
};
const double no_penalty = repeated(written({.temperature = 0}).tokens);
std::vector<std::string> penalty_names;
nb::Bars loops{"repeated trigrams", {}};
for (double penalty : {1.0, 1.1, 1.3, 1.6}) {
  penalty_names.push_back(fmt::format("greedy, {}", penalty));
  loops.values.push_back(repeated(written({.temperature = 0, .repetition_penalty = penalty}).tokens));
}
penalty_names.push_back("sampled");
loops.values.push_back(repeated(written({}).tokens));
nb::bars(penalty_names, {loops}, {"Share of trigrams that occurred before, 200 tokens", "repetition penalty", ""});
for (double t : {0.0, 1.0}) {
  const Ids ids = written({.temperature = t}).tokens;
  fmt::print("temperature {}: {}\n", t, tokenizer.decode(std::span(ids).first(std::min<size_t>(60, ids.size()))));
}
fmt::print("repeated trigrams: {:.2f}\n", fmt::join(loops.values, ", "));
nb::check_learned(no_penalty > 0.1 && no_penalty > 5 * loops.values[4], "greedy text repeats itself, many times as much as sampled text");
nb::check_learned(loops.values[3] < 0.3 * no_penalty && loops.values[4] < 0.3 * no_penalty, "a penalty, or chance, breaks the circle");

// %% [markdown]
// The trap: dividing when positive and multiplying when negative is not a change of probabilities, it is a change of *logits*, and logits have no zero. Add 5 to
// all of them and softmax does not change by a bit; the penalised distribution does. So the same penalty is mild in one model and brutal in another.

// %%
NB_CELL
std::vector<float> shifted = unsure;
for (float& z : shifted) z += 5;
const std::vector<int32_t> history{likeliest[0].id, likeliest[1].id, likeliest[2].id};
const auto share_of_seen = [&](const std::vector<float>& l) {
  double sum = 0;
  for (const Candidate& c : candidates(l, {.repetition_penalty = 1.3}, history))
    sum += std::count(history.begin(), history.end(), c.id) ? c.probability : 0;
  return sum;
};
const double before = likeliest[0].probability + likeliest[1].probability + likeliest[2].probability;
fmt::print("the three likeliest have {:.3f}; seen before, penalty 1.3: {:.3f}; the same with all logits + 5: {:.3f}\n", before,
           share_of_seen(unsure), share_of_seen(shifted));
nb::check(std::abs(entropy(softmax_of(shifted, 1)) - entropy(softmax_of(unsure, 1))) < 1e-5, "a constant does not change softmax");
nb::check_learned(share_of_seen(unsure) < before && std::abs(share_of_seen(shifted) - share_of_seen(unsure)) > 0.02,
          "but it changes what the penalty does");

// %% [markdown]
// ## Why likely is not typical
//
// The likeliest text is not a typical text, as the likeliest outcome of a hundred throws of a loaded coin, all heads, is not typical either. A sampled text's log-probability
// per token is about minus the entropy of the distributions it came from. A greedy text's is far above: it lies where no text of that
// kind lies.

// %%
NB_CELL
struct Told {
  double log_prob = 0, entropy = 0;
};
const auto told = [&](SamplingOptions o) {  // per token, over some texts
  Told sum;
  int64_t n = 0;
  const int64_t texts = o.temperature == 0 ? 1 : 8;
  generate(model, std::vector<Ids>(texts, encode_prompt(tokenizer, "The old")), {.sampling = o, .max_new = nb::brief() ? 10 : 100, .seed = 5, .ignore_stop = true},
           [&](int64_t, const Draw& d) {
             sum.log_prob += d.log_prob;
             sum.entropy += d.entropy;
             ++n;
             return true;
           });
  return Told{sum.log_prob / static_cast<double>(n), sum.entropy / static_cast<double>(n)};
};
const Told typical = told({}), greedy = told({.temperature = 0});
fmt::print("log-probability per token: sampled {:.2f} (entropy on the way {:.2f}), greedy {:.2f}\n", typical.log_prob, typical.entropy, greedy.log_prob);
nb::check(std::abs(typical.log_prob + typical.entropy) < 0.25, "a sampled text is as likely as its entropy says");
nb::check_learned(greedy.log_prob > typical.log_prob + 0.3, "a greedy one is far likelier than any typical one");

// %% [markdown]
// ## Who else is in the batch does not matter
//
// The token at position p of row r is drawn with the key `fold_in(fold_in(key(seed), r), p)`. So row 0 alone and row 0 among others write the same text, and a seed
// can be handed to a colleague.

// %%
NB_CELL
const Ids prompt = encode_prompt(tokenizer, "The old"), another = encode_prompt(tokenizer, "She");
const GenerateOptions options{.sampling = {.top_p = 0.9}, .max_new = 40, .seed = 11, .ignore_stop = true};
const auto alone = generate(model, {prompt}, options), among = generate(model, {prompt, another, another}, options);
nb::check(alone[0].tokens == among[0].tokens, "row 0 writes the same, alone or with others");
nb::check(among[1].tokens != among[2].tokens, "rows with one prompt have their own dice");
nb::check(generate(model, {prompt}, options)[0].tokens == alone[0].tokens, "the same seed, the same text");

// %% [markdown]
// ## What goes wrong
//
// - **Cumulating in bf16.** A running sum of small probabilities in eight bits stalls; top-p then never cuts. Sums are in f32 here, the totals in f64.
// - **`>` or `>=` at the border.** Does the token that crosses p belong to the nucleus? Here, as nearly everywhere, it does. Else top-p 0.9 could keep nothing where one
//   token has 0.95.
// - **A forbidden token with probability 0, not removed.** Greedy over a row of all `-inf` takes token 0. The library throws when nothing is left.
// - **Learning from filtered samples.** With top-p, what was sampled is not what the model's probabilities say; ratios in GRPO are then wrong. Rollouts report the
//   log-probability of the whole distribution and use no filters by default.
//
// ## Where to read on
//
// - [infer/sampler.h](../infer/sampler.h): the order of the filters; [tensor/ranking.h](../tensor/ranking.h): how top-p avoids sorting 262,144 numbers
// - [tensor/kernels/sample.h](../tensor/kernels/sample.h), [tensor/kernels/logit_rows.h](../tensor/kernels/logit_rows.h): what runs
// - [infer/generator.h](../infer/generator.h): rows, keys, ends
//
// Try it: find the temperature at which greedy and sampled texts repeat themselves equally. Write "typical" sampling: keep the tokens whose `-log p` lies
// nearest to the entropy until their mass reaches p. Where does it differ from top-p?

// %% active="cpp"
return nb::finish();
}
