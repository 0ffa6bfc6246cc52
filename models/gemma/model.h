// Gemma 1, 2 and 3 (text): one block, read it top to bottom in model.cpp.
#pragma once
#include <array>

#include "models/gemma/config.h"
#include "autograd/ops.h"
#include "nn/language_model.h"
#include "nn/layers.h"
#include "tensor/rng.h"

namespace facet {

/// Grouped-query attention with optional per-head norms, RoPE and a window.
struct GemmaAttention final : Module {
  GemmaAttention(const GemmaConfig&, int64_t layer, const RopeTable& rope, DType);
  /// x [B, T, D] -> [B, T, D].
  Tensor operator()(const Tensor& x, const Tokens&, LayerCache*) const;
  int64_t room() const { return room_for({&q_proj, &k_proj, &v_proj}); }  ///< behind each row of x
  void visit(Visitor&) override;

  Linear q_proj, k_proj, v_proj, o_proj;
  std::unique_ptr<RmsNorm> q_norm, k_norm;  ///< absent before Gemma 3
  RopeTable rope;
  int64_t heads, kv_heads, head_dim, window;
  double scale, cap, eps;
};

struct GemmaBlock final : Module {
  GemmaBlock(const GemmaConfig&, int64_t layer, const RopeTable& rope, DType);
  /// Whoever reads a residual sum: its norm, and the room it wants behind each row of that.
  struct Reader {
    const RmsNorm* norm = nullptr;
    int64_t room = 0;
  };
  Reader reader() const { return {&input_norm, attention.room()}; }
  /// x: the residual sum [B, T, D] and, unless this is the first to need it, input_norm of it. So is what comes back, with the norm of
  /// `next`: a sum and its norm are one pass over memory. Without `next`, the sum alone.
  SumNorm operator()(const SumNorm& x, Reader next, const Tokens&, LayerCache*, Recompute) const;
  void visit(Visitor&) override;

  RmsNorm input_norm;
  GemmaAttention attention;
  std::unique_ptr<RmsNorm> post_attention_norm;  ///< absent in Gemma 1
  RmsNorm pre_ffw_norm;
  GatedMlp mlp;
  std::unique_ptr<RmsNorm> post_ffw_norm;
};

/// A table of logits' own.
struct Head final : Module {
  Parameter weight;  ///< [V, D]
  Head(int64_t vocab, int64_t width, DType dtype) : weight(Tensor::zeros({vocab, width}, dtype)) {}
  void visit(Visitor& v) override { v("weight", weight); }
};

struct Gemma final : LanguageModel {
  /// Weights are zero until initialised or loaded. `storage` is what they are kept in (bf16 halves the memory); activations
  /// are f32, or f64 for f64 weights.
  explicit Gemma(const GemmaConfig&, DType storage = DType::f32);
  /// Normal with init_std for every matrix, norms zero. The same key gives the same weights on every machine.
  void init(Key);

  Tensor hidden(const Tokens&, KvCache* = nullptr) override;
  const Parameter& head() const override { return lm_head ? lm_head->weight : embed_tokens.weight; }
  double final_cap() const override { return config.final_cap; }
  int64_t vocab() const override { return config.vocab; }
  int64_t layers() const override { return config.layers; }
  int64_t context() const override { return config.context; }
  KvCache new_cache(int64_t batch, int64_t capacity, int64_t chunk) const override;
  void reserve(int64_t positions) const override;
  double forward_flops(double n, double t, double head_rows) const override;
  double step_flops(double n, double t, double head_rows) const override;
  double activation_bytes(double tokens, Recompute) const override;
  double attention_workspace(int64_t rows, int64_t length) const override;
  void visit(Visitor&) override;
  std::string describe() const override;

  GemmaConfig config;
  Embedding embed_tokens;
  std::vector<std::unique_ptr<GemmaBlock>> blocks;
  RmsNorm norm;
  std::unique_ptr<Head> lm_head;  ///< absent when the embedding serves as head

 private:
  /// What embeddings are multiplied with, by the dtype of activations: HF keeps sqrt(D) in the dtype it computes in, so it is rounded to f32,
  /// not to bf16, when activations are f32.
  std::array<double, 3> embedding_scales_{};
};

}  // namespace facet
