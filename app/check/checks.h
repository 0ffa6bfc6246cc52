// The checks of `facet check`: a model on disk against numbers from elsewhere.
#pragma once
#include "app/check/reference.h"
#include "app/check/report.h"
#include "data/tokenizer.h"
#include "models/gemma/model.h"

namespace facet::app {

struct OptimizerSettings;  // app/optimizer_settings.h

struct CheckTolerances {
  double taps = 1e-4;   ///< of the reference's root mean square
  double grads = 1e-4;  ///< of the reference's largest entry
  double absolute = 0;  ///< overrides both when positive (--tol)
};

/// Logits and loss of every set.
void check_logits(LanguageModel&, const Reference&, const CheckTolerances&, CheckReport&);
/// Every tap of every set, in forward order: the first red one is where to look.
void check_blocks(LanguageModel&, const Reference&, const CheckTolerances&, CheckReport&);
/// Loss and gradient of every parameter: token-weighted mean over the shifted real tokens.
void check_grads(LanguageModel&, const Reference&, const CheckTolerances&, CheckReport&);
/// Cached decoding of [SET.]prompt, mask, fed with [SET.]generated: logits of every step, and the greedy choice.
void check_generation(LanguageModel&, const std::vector<std::string>& references, const CheckTolerances&, CheckReport&);
/// The model and its twin of primitive operations (models/gemma/twin.h) agree with the reference's logits, and each known mistake of that
/// twin does not: a reference that cannot tell is red. How far other roundings move the logits is printed beside.
void check_discrepancies(Gemma&, const Reference&, const CheckTolerances&, CheckReport&);
/// Every contract of an operation (tests/contracts): on the CPU in f64 against its slow twin and central differences, on the GPU against the CPU.
void check_ops(Device, CheckReport&);
/// A training step of the model again from copies of all its state: the same loss, weights and optimizer, to the bit, and the original is
/// left alone. `threads_too`: once more on another number of threads. The model is trained by it.
void check_step(Gemma&, const OptimizerSettings&, uint64_t seed, bool threads_too, CheckReport&);
/// Every feed-forward block on normal rows: the fused operation against one of primitives; `fused_vs_split`: gate and up as one product
/// against two, with a histogram of the distances.
void check_mlp(Gemma&, uint64_t seed, bool fused_vs_split, CheckReport&);
/// A JSON file with "encode", "decode" or "cases" (chats), or a list of [text, ids] or of chats: ids, pieces, text.
void check_tokenizer(const Tokenizer&, const std::string& json_path, CheckReport&);
/// What needs no reference: special pieces, one bos, text that comes back. `rows` of the model's table; 0: there is no model.
void check_tokenizer_alone(const Tokenizer&, int64_t rows, CheckReport&);

}  // namespace facet::app
