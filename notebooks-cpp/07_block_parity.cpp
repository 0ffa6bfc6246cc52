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
// # 07 · The whole block, against the others
//
// The pieces are there: norm, rotation, attention, shared heads, gated feed-forward. This lesson puts them together and
// asks the only question that matters to somebody who loads a checkpoint: **is it the same model?** Weights are numbers that
// another program trained. A program that computes almost what was meant speaks almost as well, and nobody will notice
// until an evaluation comes out two points low.
//
// So we compare with what other programs computed: the same small Gemma 3 of seven layers with random weights, run by
// Hugging Face transformers and by DeepMind's JAX library, with values recorded at fifteen places of every block
// (`tests/goldens`). The order of things: write the block once more, of primitives, to have something obvious; compare
// tap by tap; look at what rounding alone does; then make every known mistake and see which of them a comparison can tell
// from rounding. Each claim is checked when the lesson runs.

// %%
#include <algorithm>
#include <cmath>
#include <iostream>
#include <map>
#include <numeric>

#include "autograd/ops.h"
#include "models/gemma/twin.h"
#include "nn/tap.h"
#include "notebooks-cpp/golden_gemma.h"
#include "notebooks-cpp/nb.hpp"
#include "notebooks-cpp/numbers.h"
#include "tensor/io/safetensors.h"

using namespace facet;

// %% [markdown]
// ## A Gemma of primitives
//
// Nothing here is fused and nothing is clever; each line is one of the lessons before. `Values` keeps everything by name,
// as the library's taps do (`nn/tap.h`). Two switches make two mistakes, for later.

// %%
using Row = std::vector<double>;
using Values = std::map<std::string, Tensor>;

struct ByHand {
  GemmaConfig config;
  std::map<std::string, Tensor> weights;  // all of one dtype, on one device
  bool erf_gelu = false;                  // a mistake of lesson 06
  int64_t window_off = 0;                 // a mistake of lesson 04

  Tensor norm(const Tensor& x, const std::string& w) const {  // lesson 02
    return x * rsqrt(mean(square(x), {-1}, true) + config.norm_eps) * (weights.at(w) + 1.0);
  }

  Tensor turn(const Tensor& x, const Tensor& positions, double base) const {  // lesson 03. x [B, T, heads, Dh]
    const int64_t B = x.dim(0), T = x.dim(1), half = x.dim(3) / 2;
    Row cosines, sines;
    for (double p : positions.to_vector())
      for (int64_t i = 0; i < half; ++i) {
        const double angle = p * std::pow(base, -static_cast<double>(i) / static_cast<double>(half));
        cosines.push_back(std::cos(angle)), sines.push_back(std::sin(angle));
      }
    const auto table = [&](const Row& v) { return Tensor::from(v, {B, T, 1, half}).to(x.dtype()).to(x.device()); };
    const Tensor c = table(cosines), s = table(sines), a = slice(x, 3, 0, half), b = slice(x, 3, half, 2 * half);
    return concat({a * c - b * s, b * c + a * s}, 3);
  }

  Tensor attend(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& positions, int64_t window) const {  // 04, 05
    const int64_t B = q.dim(0), T = q.dim(1), H = q.dim(2), group = H / k.dim(2);
    std::vector<int32_t> reads, visible;
    for (int64_t h = 0; h < H; ++h) reads.push_back(static_cast<int32_t>(h / group));
    for (int64_t b = 0; b < B; ++b)
      for (int64_t i = 0; i < T; ++i)
        for (int64_t j = 0; j < T; ++j) {
          const double back = positions.at({b, i}) - positions.at({b, j});
          visible.push_back(positions.at({b, j}) >= 0 && back >= 0 && (window == 0 || back < static_cast<double>(window)));
        }
    const Tensor own = Tensor::from(reads, {H}).to(q.device());
    const Tensor seen = expand(Tensor::from(visible, {B, 1, T, T}).to(q.device()), {B, H, T, T});
    const Tensor scores = einsum("bihd,bjhd->bhij", {q, take(k, own, 2)}) * config.query_scale();
    const Tensor p = softmax(where(seen, scores, Tensor::full({1}, -1e30, q.dtype(), q.device())));
    return einsum("bhij,bjhd->bihd", {p, take(v, own, 2)});  // [B, T, H, Dh]
  }

  Tensor feed_forward(const Tensor& x, const std::string& at) const {  // lesson 06
    const Tensor gate = linear(x, weights.at(at + "mlp.gate_proj.weight")), up = linear(x, weights.at(at + "mlp.up_proj.weight"));
    return linear((erf_gelu ? gelu_erf(gate) : gelu_tanh(gate)) * up, weights.at(at + "mlp.down_proj.weight"));
  }

  Values run(const Tensor& ids, const Tensor& positions) const {
    const int64_t B = ids.dim(0), T = ids.dim(1), Dh = config.head_dim;
    const Tensor table = weights.at("embed_tokens.weight");
    Values t;
    Tensor x = t["embed"] = take(table, ids.to(table.device()), 0) * std::sqrt(static_cast<double>(config.width));  // [B, T, D]
    for (int64_t i = 0; i < config.layers; ++i) {
      const std::string at = fmt::format("layers.{}.", i);
      const bool local = config.kinds[static_cast<size_t>(i)] == LayerKind::local;
      const auto heads = [&](const char* name, int64_t n) {
        return reshape(linear(t[at + "input_norm"], weights.at(at + "self_attn." + name + ".weight")), {B, T, n, Dh});
      };
      const auto turned = [&](const Tensor& n) { return turn(n, positions, local ? config.rope_base_local : config.rope_base_global); };
      t[at + "input_norm"] = norm(x, at + "input_layernorm.weight");
      t[at + "q"] = heads("q_proj", config.heads), t[at + "k"] = heads("k_proj", config.kv_heads), t[at + "v"] = heads("v_proj", config.kv_heads);
      t[at + "q_normed"] = norm(t[at + "q"], at + "self_attn.q_norm.weight");
      t[at + "k_normed"] = norm(t[at + "k"], at + "self_attn.k_norm.weight");
      t[at + "q_rope"] = turned(t[at + "q_normed"]), t[at + "k_rope"] = turned(t[at + "k_normed"]);
      t[at + "attn"] = attend(t[at + "q_rope"], t[at + "k_rope"], t[at + "v"], positions, local ? config.window + window_off : 0);
      t[at + "attn_out"] = linear(reshape(t[at + "attn"], {B, T, config.heads * Dh}), weights.at(at + "self_attn.o_proj.weight"));
      t[at + "post_attn_norm"] = norm(t[at + "attn_out"], at + "post_attention_layernorm.weight");
      x = x + t[at + "post_attn_norm"];
      t[at + "pre_ffw_norm"] = norm(x, at + "pre_feedforward_layernorm.weight");
      t[at + "mlp"] = feed_forward(t[at + "pre_ffw_norm"], at);
      t[at + "post_ffw_norm"] = norm(t[at + "mlp"], at + "post_feedforward_layernorm.weight");
      x = t[at + "out"] = x + t[at + "post_ffw_norm"];
    }
    t["final_norm"] = norm(x, "norm.weight");
    t["logits"] = linear(t["final_norm"], table);
    return t;
  }
};

// %% [markdown]
// Mind where the post norms stand: on what a branch *returns*, before it is added. The stream itself is never normed in
// place, so it grows from block to block, and every branch reads it through a norm of its own.
//
// ## How to compare
//
// Four figures, and each says something else. **How many elements differ** at all: a nonzero count says the programs are
// not the same program, which is no crime. **The largest difference**, against the size of the values: whether they are the
// same *model*. **Units in the last place**, the median: how much of the difference is rounding. And **the first tap that is
// off**: where to look. Rows of padding are left out: what a program computes there is its own affair.

// %%
struct Compared {
  int64_t elements = 0, differ = 0;
  double largest = 0, median_ulps = 0;
  double share() const { return static_cast<double>(differ) / static_cast<double>(elements); }
};
Compared compare(const Tensor& a, const Tensor& b, const Tensor& mask) {
  const Row x = a.to_vector(), y = b.to_vector(), real = mask.to_vector();
  const size_t width = x.size() / real.size();
  Compared c;
  Row units;
  if (x.size() != y.size()) c.largest = std::nan("");
  for (size_t i = 0; i < x.size() && x.size() == y.size(); ++i) {
    if (real[i / width] == 0) continue;
    ++c.elements;
    c.differ += x[i] != y[i];
    c.largest = std::max(c.largest, std::abs(x[i] - y[i]));
    if (y[i] != 0) units.push_back(nb::ulps(x[i], y[i]));
  }
  std::nth_element(units.begin(), units.begin() + std::ssize(units) / 2, units.end());
  c.median_ulps = units.empty() ? 0 : units[units.size() / 2];
  return c;
}

// %% active="cpp"
int main(int argc, char** argv) {
nb::start(argc, argv);

// %% [markdown]
// ## Five programs
//
// The library's model; ours of primitives, in f32 and in f64 (which is as good as exact); Hugging Face; and JAX. Two rows
// of 24 tokens, the second shorter and padded on the right.

// %%
NB_CELL
const Safetensors hf(nb::golden("gemma3-tiny-ref/taps.safetensors")), jax(nb::golden("jax/gemma3-tiny/taps.safetensors")),
    hf_bf16(nb::golden("gemma3-tiny-ref/bf16.safetensors")), hf_f64(nb::golden("gemma3-tiny-ref/truth.safetensors"));
const Tensor mask = hf.load("a.attention_mask");
const Tokens tokens = masked_tokens(hf.load("a.input_ids"), mask);
const auto model = nb::golden_gemma();
const GemmaConfig& config = model->config;
const NamedTensors named = named_values(*model);

Values library;
{
  const NoGrad off;
  const Taps taps([&](const std::string& path, const Tensor& value) { library[path] = value.detach().to(Device::cpu); });
  library["logits"] = model->logits(model->hidden(tokens)).to(Device::cpu);
}
const auto by_hand = [&](DType dtype, Device device) {
  ByHand m{config, {}};
  for (const auto& [name, value] : named) m.weights[name] = value.detach().to(Device::cpu).to(dtype).to(device);
  return m;
};
const Values primitives = by_hand(DType::f32, nb::device()).run(tokens.ids, tokens.positions),
             exact = by_hand(DType::f64, Device::cpu).run(tokens.ids, tokens.positions);
Values hugging_face;
for (const auto& [name, value] : exact) hugging_face[name] = hf.load("a." + name);

const double of_the_truth = compare(exact.at("logits"), hf_f64.load("a.logits"), mask).largest;
fmt::print("{} taps; primitives in f64 against Hugging Face in f64: {:.1e}\n", exact.size(), of_the_truth);
nb::check(of_the_truth < 1e-11, "in f64 the program above gives Hugging Face's logits to eleven digits: it is the same model");

// %% [markdown]
// That settles what is computed. What remains are bits. The flax library calls its modules by other names and records some
// of them with other axes; a translation, and the first block tap by tap:

// %%
NB_CELL
const std::vector<std::pair<std::string, std::string>> flax_names{
    {"input_norm", "/pre_attention_norm"}, {"q", "/attn/q_einsum"}, {"k", "/attn/kv_einsum"}, {"v", "/attn/kv_einsum"},
    {"q_normed", "/attn/_query_norm"}, {"k_normed", "/attn/_key_norm"}, {"attn_out", "/attn/attn_vec_einsum"},
    {"post_attn_norm", "/post_attention_norm"}, {"pre_ffw_norm", "/pre_ffw_norm"}, {"mlp", "/mlp"},
    {"post_ffw_norm", "/post_ffw_norm"}, {"out", ""}};
Values deepmind{{"final_norm", jax.load("a.final_norm")}, {"logits", jax.load("a.logits")}};
for (int64_t i = 0; i < config.layers; ++i)
  for (const auto& [ours, theirs] : flax_names) {
    Tensor value = jax.load(fmt::format("a.layer_{}{}", i, theirs));
    if (ours == "k" || ours == "v") value = value.slice(0, ours == "v", ours == "v" ? 2 : 1).clone();  // [2, B, T, K, Dh]
    deepmind[fmt::format("layers.{}.{}", i, ours)] = value;
  }

const std::vector<std::string> taps_in_order{"input_norm", "q", "k", "v", "q_normed", "k_normed", "q_rope", "k_rope", "attn", "attn_out",
                                             "post_attn_norm", "pre_ffw_norm", "mlp", "post_ffw_norm", "out"};
std::vector<std::vector<std::string>> tap_rows;
double worst_of_block = 0;
for (const std::string& tap : taps_in_order) {
  const std::string name = "layers.0." + tap;
  std::vector<std::string> row{tap};
  for (const Values* other : std::initializer_list<const Values*>{&hugging_face, &deepmind, &primitives}) {
    if (!other->contains(name)) {
      row.insert(row.end(), {"-", "-"});
      continue;
    }
    const Compared c = compare(library.at(name), other->at(name), mask);
    worst_of_block = std::max(worst_of_block, c.largest);
    row.push_back(fmt::format("{:.0f}%", 100 * c.share()));
    row.push_back(fmt::format("{:.1e}", c.largest));
  }
  tap_rows.push_back(row);
}
nb::table({"first block, the library against", "HF differ", "largest", "JAX differ", "largest", "primitives differ", "largest"}, tap_rows);
nb::check(worst_of_block < 2e-5, "every tap of the first block agrees with Hugging Face, JAX and the primitives to f32's rounding");
nb::check(compare(library.at("embed"), hugging_face.at("embed"), mask).differ == 0, "the embedding, a lookup times 8, has the same bits");

// %% [markdown]
// ## Counting bits by layer
//
// How many elements of each block's output differ, for three pairs of programs? If two of the famous ones agreed and we
// did not, we would have to explain ourselves.

// %%
NB_CELL
std::vector<std::string> layer_names;
nb::Bars ours_hf{"the library - HF", {}}, ours_jax{"the library - JAX", {}}, hf_jax{"HF - JAX", {}};
for (int64_t i = 0; i < config.layers; ++i) {
  const std::string name = fmt::format("layers.{}.out", i);
  layer_names.push_back(config.kinds[static_cast<size_t>(i)] == LayerKind::local ? std::to_string(i) : std::to_string(i) + " (global)");
  ours_hf.values.push_back(static_cast<double>(compare(library.at(name), hugging_face.at(name), mask).differ));
  ours_jax.values.push_back(static_cast<double>(compare(library.at(name), deepmind.at(name), mask).differ));
  hf_jax.values.push_back(static_cast<double>(compare(hugging_face.at(name), deepmind.at(name), mask).differ));
}
const auto elements = static_cast<double>(compare(library.at("embed"), library.at("embed"), mask).elements);
nb::bars(layer_names, {ours_hf, ours_jax, hf_jax}, {fmt::format("Elements that differ, of {:.0f}", elements), "block", "n_diff"});
const Compared last_ours = compare(library.at("layers.6.out"), hugging_face.at("layers.6.out"), mask),
               last_theirs = compare(hugging_face.at("layers.6.out"), deepmind.at("layers.6.out"), mask);
fmt::print("median difference in the last block: {:.1f} ulp between the library and HF, {:.1f} between HF and JAX\n", last_ours.median_ulps,
           last_theirs.median_ulps);
nb::check(*std::min_element(hf_jax.values.begin(), hf_jax.values.end()) > 0.5 * elements, "no two programs have the same bits, not even the famous ones");
nb::check(std::abs(ours_hf.values.back() - hf_jax.values.back()) < 0.2 * elements, "we differ from Hugging Face as often as JAX does");
nb::check(last_ours.median_ulps < 2 * last_theirs.median_ulps, "and by no more units in the last place than HF and JAX from each other");

// %% [markdown]
// A count says that sums were formed in another order, which we knew from lesson 06. Who is right? Measure each against the
// f64 values: all are wrong, by the same amount, and the error grows with depth as roundings add up.

// %%
NB_CELL
const auto errors_by_layer = [&](const std::string& name, const Values& values) {
  nb::Curve c{name, {}, {}};
  for (int64_t i = 0; i < config.layers; ++i) {
    const std::string out = fmt::format("layers.{}.out", i);
    c.x.push_back(static_cast<double>(i)), c.y.push_back(compare(values.at(out), exact.at(out), mask).largest);
  }
  return c;
};
const nb::Curve error_ours = errors_by_layer("the library", library), error_hand = errors_by_layer("primitives", primitives),
                error_hf = errors_by_layer("HF", hugging_face), error_jax = errors_by_layer("JAX", deepmind);
nb::plot({error_ours, error_hand, error_hf, error_jax}, {"Largest error of a block's output in f32", "block", "", false, true});
const double logits_ours = compare(library.at("logits"), exact.at("logits"), mask).largest,
             logits_hf = compare(hugging_face.at("logits"), exact.at("logits"), mask).largest,
             logits_jax = compare(deepmind.at("logits"), exact.at("logits"), mask).largest;
fmt::print("logits: the library is off by {:.1e}, HF by {:.1e}, JAX by {:.1e}\n", logits_ours, logits_hf, logits_jax);
nb::check(logits_ours < 3 * std::max(logits_hf, logits_jax), "we are as near to the truth as they are");
nb::check(error_ours.y.back() > error_ours.y.front(), "errors add up over the blocks");

// %% [markdown]
// That gives a rule for tolerances that is not made up: ten times what a good program is off the truth in f32. Here
// `1.6e-4` for logits of size 10.
//
// ## Who rounds what, and when
//
// In f32 programs differ by the order of sums. In bf16 they differ by design: every value that is written to memory in
// bf16 loses all but 8 bits, and each program has its own idea of what is written. Read from their sources:
//
// | | JAX | HF eager | gemma.cpp | here, on the CPU | here, on a GPU |
// |---|---|---|---|---|---|
// | √D of the embedding | bf16 | bf16 | bf16 | f32 | bf16 |
// | inside a norm | bf16 | f32 | f32 | f32 | f32 |
// | 1 + w | bf16 | f32 | f32 | f32 | f32 |
// | cos, sin | f32 | bf16 | f32 | f32 | f32 |
// | where the scale enters | q, rounded | scores, rounded | q, f32 | q, f32 | scores, f32 |
// | hidden scores | set to -2.4e38 | plus finfo.min | not computed | not computed | not computed |
// | softmax | bf16 | f32, then bf16 | f32 | f32 | f32, p then bf16 |
// | activations between operations | bf16 | bf16 | varies | f32 | bf16 |
//
// Nobody is wrong. But nobody can be compared to the bit either: here is how far Hugging Face's bf16 run is off the truth,
// block by block, beside its f32 run.

// %%
NB_CELL
nb::Curve in_bf16{"HF in bf16", {}, {}};
Row stream_size;
for (int64_t i = 0; i < config.layers; ++i) {
  const std::string out = fmt::format("layers.{}.out", i);
  in_bf16.x.push_back(static_cast<double>(i));
  in_bf16.y.push_back(compare(hf_bf16.load("a." + out), exact.at(out), mask).largest);
  const Row v = exact.at(out).to_vector();
  stream_size.push_back(std::sqrt(std::inner_product(v.begin(), v.end(), v.begin(), 0.0) / static_cast<double>(v.size())));
}
nb::plot({in_bf16, error_hf, error_ours, {"rms of the stream", in_bf16.x, stream_size}}, {"Error of a block's output", "block", "", false, true});
const double bf16_hf = compare(hf_bf16.load("a.logits"), exact.at("logits"), mask).largest,
             bf16_jax = compare(jax.load("a.logits_bf16_run"), exact.at("logits"), mask).largest,
             bf16_both = compare(hf_bf16.load("a.logits"), jax.load("a.logits_bf16_run"), mask).largest;
fmt::print("logits in bf16: HF is off by {:.2f}, JAX by {:.2f}, and they differ by {:.2f}\n", bf16_hf, bf16_jax, bf16_both);
nb::check(bf16_hf > 3000 * logits_hf, "bf16 is several thousand times as far from the truth as f32");
nb::check(bf16_both > 0.5 * bf16_hf, "two good programs in bf16 differ by as much as each of them is off");

// %% [markdown]
// ## Every known mistake
//
// Now the point of it all. `models/gemma/twin.h` is a Gemma of primitives like the one above, with a switch for each
// mistake that ports of Gemma have made. Make them one at a time, and see how far the logits move: against f32's noise,
// and against bf16's.

// %%
NB_CELL
struct Made {
  std::string name, what;
  double moved;
};
std::vector<Made> mistakes;
NamedTensors on_cpu;
for (const auto& [name, value] : named) on_cpu.emplace_back(name, value.detach().to(Device::cpu));
for (const Discrepancy& d : discrepancies()) {
  if (d.kind != Discrepancy::Kind::mistake || !d.concerns(config)) continue;
  const NoGrad off;
  GemmaTwin twin(config, on_cpu, d.dtype);
  d.apply(twin.config, twin.choices);
  mistakes.push_back({d.name, d.what, compare(twin.logits(tokens), exact.at("logits"), mask).largest});
}
std::sort(mistakes.begin(), mistakes.end(), [](const Made& a, const Made& b) { return a.moved > b.moved; });
std::vector<std::vector<std::string>> mistake_rows;
nb::Curve moved{"mistakes", {}, {}, true}, noise_f32{"HF in f32", {}, {}}, noise_bf16{"HF in bf16", {}, {}};
int hidden_by_bf16 = 0;
for (size_t i = 0; i < mistakes.size(); ++i) {
  const Made& m = mistakes[i];
  hidden_by_bf16 += m.moved < bf16_hf;
  mistake_rows.push_back({m.name, m.what, fmt::format("{:.2g}", m.moved), fmt::format("{:.0f}", m.moved / logits_hf), fmt::format("{:.2f}", m.moved / bf16_hf)});
  for (nb::Curve* c : {&moved, &noise_f32, &noise_bf16}) c->x.push_back(static_cast<double>(i + 1));
  moved.y.push_back(m.moved), noise_f32.y.push_back(logits_hf), noise_bf16.y.push_back(bf16_hf);
}
nb::table({"mistake", "what it is", "moves logits by", "times f32's noise", "times bf16's noise"}, mistake_rows);
nb::plot({moved, noise_f32, noise_bf16}, {"Mistakes and noise", "mistake, by size", "largest change of a logit", false, true});
nb::check(mistakes.size() >= 20, "this model can show twenty mistakes at least");
nb::check(mistakes.back().moved > 100 * logits_hf, "in f32 the smallest of them stands a hundred times above the noise");
nb::check(hidden_by_bf16 > 0 && mistakes.back().name == "gelu_erf", "in bf16 the erf GELU drowns");

// %% [markdown]
// Hence the order of work: **f32 first**, against a reference in f32, until only rounding is left; then bf16, with a
// tolerance measured from two programs that are known to be right.
//
// ## Finding the place
//
// A wrong logit says that something is wrong somewhere in seven blocks. Taps say where: go through them in the order of
// the computation, and stop at the first one that is off by more than rounding. Two mistakes, one in the feed-forward block
// and one in the mask:

// %%
NB_CELL
const auto first_off = [&](const ByHand& mistaken) -> std::string {
  const Values v = mistaken.run(tokens.ids, tokens.positions);
  for (int64_t i = 0; i < config.layers; ++i)
    for (const std::string& tap : taps_in_order) {
      const std::string name = fmt::format("layers.{}.{}", i, tap);
      if (compare(v.at(name), hugging_face.at(name), mask).largest > 1e-4) return name;
    }
  return "none";
};
ByHand with_erf = by_hand(DType::f32, nb::device()), with_window = with_erf;
with_erf.erf_gelu = true;
with_window.window_off = 1;
const std::string found_erf = first_off(with_erf), found_window = first_off(with_window);
fmt::print("erf GELU: first off at {};  window of 9: first off at {};  no mistake: {}\n", found_erf, found_window,
           first_off(by_hand(DType::f32, nb::device())));
nb::check(found_erf == "layers.0.mlp", "the erf GELU is found in the first feed-forward block");
nb::check(found_window == "layers.0.attn", "the window off by one in the first attention");

// %% [markdown]
// `facet check blocks MODEL --ref FILE` does this for any checkpoint and any recorded values (`tools/dump_hf.py`,
// `tools/dump_jax.py` record them); `facet check discrepancies` does the section before.
//
// ## Gradients too
//
// A model can compute the right logits and learn the wrong thing: a fused operation has a second half. Hugging Face's
// gradients of the mean loss over the real tokens, in f64, for every weight; the largest error of ours relative to the
// largest entry of each.

// %%
NB_CELL
const int64_t B = tokens.ids.dim(0), T = tokens.ids.dim(1);
std::vector<int32_t> next(B * T, -1);
int64_t counted = 0;
for (int64_t b = 0; b < B; ++b)
  for (int64_t i = 0; i + 1 < T; ++i)
    if (mask.at({b, i + 1}) != 0) next[b * T + i] = static_cast<int32_t>(tokens.ids.at({b, i + 1})), ++counted;
const Tensor weight_of_token = Tensor::full({B, T}, 1.0 / static_cast<double>(counted), DType::f32);
for (Parameter* p : parameters(*model)) p->set_trains(true);
const double loss = linear_cross_entropy_backward(model->hidden(tokens), model->head().value(), Tensor::from(next, {B, T}),
                                                  weight_of_token);
std::map<std::string, double> worst_gradient;  // by kind of weight
double worst_of_all = 0;
for (const Parameter* p : parameters(*model)) {
  const Row found = p->grad().to_vector(), expected = hf_f64.load("a.grad." + hf_name(p->name)).to_vector();
  double top = 0;
  for (double v : expected) top = std::max(top, std::abs(v));
  const double error = nb::largest_difference(found, expected) / top;
  const size_t dot = p->name.rfind('.', p->name.size() - 8);  // "layers.3.mlp.up_proj.weight" -> "up_proj"
  double& kind = worst_gradient[p->name.substr(dot == std::string::npos ? 0 : dot + 1, p->name.rfind('.') - (dot == std::string::npos ? 0 : dot + 1))];
  kind = std::max(kind, error);
  worst_of_all = std::max(worst_of_all, error);
}
std::vector<std::vector<std::string>> gradient_rows;
for (const auto& [kind, error] : worst_gradient) gradient_rows.push_back({kind, fmt::format("{:.1e}", error)});
nb::table({"weight, worst of all layers", "largest error of its gradient, relative"}, gradient_rows);
const double loss_error = std::abs(loss - hf_f64.load("a.loss").item());
fmt::print("loss {:.6f}, off by {:.1e}; {} gradients, off by {:.1e} at most\n", loss, loss_error, parameters(*model).size(), worst_of_all);
nb::check(loss_error < 1e-5, "the loss is Hugging Face's");
nb::check(worst_of_all < 5e-5, "and so is the gradient of every weight");

// %% [markdown]
// ## Where to read on
//
// - `models/gemma/model.cpp`: the block as the library runs it, one screen, with its taps
// - `models/gemma/twin.h` and `docs/discrepancies.md`: all mistakes and roundings, on four models, with what each moves
// - `tests/models/gemma_golden_test.cpp`: this lesson as a test, for Gemma 1, 2 and 3
// - `tensor/kernels/norm_rope.h`, `tensor/kernels/attention.h`, `tensor/kernels/geglu.h` and their neighbours: the pages of the kernels;
//   each says where it rounds
// - [Gemma 3](https://arxiv.org/abs/2503.19786), section 2; [the JAX library](https://github.com/google-deepmind/gemma), `gm/nn/_modules.py`;
//   transformers' `modeling_gemma3.py`
//
// Try it: put ε = 1e-5 into `by_hand` (lesson 02) and see whether `first_off` finds it, and at which tap. Then move the post
// norm behind the addition, and guess the size of the effect before you look it up in the table.

// %% active="cpp"
return nb::finish();
}
