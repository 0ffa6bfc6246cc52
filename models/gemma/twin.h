// Gemma written out once more, of primitive operations alone: every score, every probability and every logit is held, nothing is fused,
// nothing is clever. It is what the model of model.h must agree with, and it can be wrong on purpose: each way in which programs are known
// to differ from Gemma, or from each other, is a setting. `facet check discrepancies` runs them; docs/discrepancies.md lists them.
#pragma once
#include <map>

#include "models/gemma/config.h"
#include "models/gemma/names.h"
#include "nn/language_model.h"

namespace facet {

/// What a program may do otherwise and no GemmaConfig says. The defaults are Gemma.
struct TwinChoices {
  enum class Scale : uint8_t { f32, bf16, none };
  Scale embedding_scale = Scale::f32;  ///< what sqrt(D) is rounded to before rows are multiplied by it

  bool plus_one = true;                ///< the factor of a norm is 1 + w, not w
  bool plus_one_in_bf16 = false;       ///< 1 + w is rounded to bf16
  bool norm_to_bf16 = false;           ///< what a norm gives is rounded to bf16 ...
  bool norm_to_bf16_early = false;     ///< ... and so is x / rms, before the multiplication by 1 + w
  std::string without_norm;            ///< name of a norm that is left out: "post_attention_layernorm"
  bool post_norm_after_sum = false;    ///< norm(x + f(x)) instead of x + norm(f(x))

  bool rope_interleaved = false;       ///< pairs (2i, 2i + 1) instead of (i, i + Dh/2)
  bool rope_angles_in_f32 = false;     ///< position times frequency, both in f32
  bool rope_table_in_bf16 = false;     ///< cos and sin are rounded to bf16 before they rotate
  double rope_factor_local = 1;        ///< divides positions of local layers as well
  bool qk_norm_after_rope = false;
  bool positions_from_edge = false;    ///< 0, 1, 2, ... from the left edge of the row, padding or not

  bool kv_head_by_modulo = false;      ///< query head h reads key head h mod K instead of h / (H/K)
  bool cap_after_mask = false;         ///< the soft-cap lifts hidden scores to -cap
  bool scale_on_query = false;         ///< q is scaled instead of the scores
  bool scores_in_bf16 = false;         ///< scores are rounded to bf16 before the softmax

  bool gate_up_swapped = false;
  bool erf_gelu = false;
  bool joined_products = false;        ///< q, k, v are one product; gate and up are one product
  bool halved_sums = false;            ///< a projection is the sum of two products over half of its inputs each
};

/// The model's arithmetic in the dtype of its weights (f32 or f64).
struct GemmaTwin {
  /// Weights by our names, as named_values(model) gives them; they are converted to `dtype`.
  GemmaTwin(const GemmaConfig&, const NamedTensors&, DType dtype);
  /// [B, T, V], final soft-cap included. Positions as in Tokens; no segments.
  Tensor logits(const Tokens&) const;

  GemmaConfig config;
  TwinChoices choices;

 private:
  const Tensor& weight(const std::string& name) const;
  Tensor project(const Tensor& x, const Tensor& w) const;
  Tensor norm(const Tensor& x, const std::string& name) const;
  Tensor rotate(const Tensor& x, const Tensor& positions, bool local) const;
  Tensor attention(const Tensor& x, const std::string& at, const Tensor& positions, bool local) const;
  Tensor feed_forward(const Tensor& x, const std::string& at) const;
  std::map<std::string, Tensor> weights_;
};

/// softmax(mask(cap(scale q k^T))), held whole. q [B, T, H, Dh], k [B, T, H, Dh] (a key head per query head), positions [B, T] -> [B, H, T, T].
Tensor attention_probabilities(const Tensor& q, const Tensor& k, const Tensor& positions, int64_t window, double scale, double cap,
                               const TwinChoices& = {});
/// Heads of k or v [B, T, K, Dh] as query heads read them: [B, T, H, Dh].
Tensor repeat_heads(const Tensor& x, int64_t heads, bool by_modulo = false);

/// One way to differ.
struct Discrepancy {
  enum class Kind : uint8_t {
    mistake,   ///< gives another model: any reference must tell it apart
    rounding,  ///< the same model, rounded otherwise: how much that moves the logits is worth knowing
  };
  const char* name;
  Kind kind;
  const char* what;                              ///< one line
  bool (*concerns)(const GemmaConfig&);          ///< whether this model can show it
  void (*apply)(GemmaConfig&, TwinChoices&);
  void (*compare_with)(TwinChoices&) = nullptr;  ///< what the effect is measured against; absent: the default choices
  DType dtype = DType::f64;                      ///< f32 where the order of sums is the difference
};
const std::vector<Discrepancy>& discrepancies();

}  // namespace facet
