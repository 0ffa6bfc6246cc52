// What training and inference know of a model: tokens in, hidden rows out, and the table its head multiplies with.
#pragma once
#include "nn/kv_cache.h"
#include "nn/module.h"

namespace facet {

/// The tokens of a batch and where they stand.
struct Tokens {
  Tensor ids;        ///< i32 [B, T]
  Tensor positions;  ///< i32 [B, T]; -1: padding
  Tensor segments;   ///< i32 [B, T], absent: one document per row. Documents of one row do not see each other;
                     ///< trunk << 16 | branch: branches see their trunk (branch 0) too (tensor/kernels/attention.h)
  bool plain = false;  ///< positions are known to be 0, 1, ..., T-1 in every row: what is on a GPU cannot be looked at there
  /// All of them there. To the GPU: ids below 0 or from `vocab` on throw Error(Kind::usage), since nobody looks at them there.
  Tokens on(Device, int64_t vocab) const;
  void check(int64_t vocab) const;
  /// Known or, on the CPU, found to be plain, and without segments: attention may then take shortcuts.
  bool is_plain() const;
};

/// Positions 0, 1, ..., T-1 in every row.
Tokens plain_tokens(const Tensor& ids);
/// Positions counted over the ones of `mask` i32 [B, T] (padding on either side): -1 where it is 0.
Tokens masked_tokens(const Tensor& ids, const Tensor& mask);

/// What backward computes again instead of keeping; each more than the one before it.
///   norms  what is elementwise: norms (q's and k's with their angles), the gated product of the feed-forward block, dropout
///   mlp    the feed-forward block, its products included
///   block  everything between the blocks' inputs
enum class Recompute : uint8_t { none, norms, mlp, block };

class BodyGraphs;

struct LanguageModel : Module {
  Recompute recompute = Recompute::none;
  /// Present: training passes are recorded and replayed (nn/body_graphs.h).
  std::shared_ptr<BodyGraphs> graphs;

  /// Where the parameters are, and with them every activation.
  Device device() const { return head().value().device(); }
  /// Moves every parameter, all adapters included (their gradients are forgotten). Before an optimizer is made.
  void to(Device);
  /// On the GPU: makes what depends on positions below `positions` (angles) before a graph is recorded that will meet them.
  virtual void reserve(int64_t /*positions*/) const {}
  /// Of activations. On the CPU f32 (f64 for f64 weights); on the GPU what the weights are kept in.
  DType compute() const;

  /// Hidden rows after the final norm [B, T, D]. With a cache, its keys and values are extended and attended to. Tokens may lie on the CPU
  /// whatever the model's device; those on the GPU are neither checked nor made room for in the cache (KvCache::reach).
  virtual Tensor hidden(const Tokens&, KvCache* cache = nullptr) = 0;
  /// The head's table [V, D] and the soft-cap of its logits (0: none).
  virtual const Parameter& head() const = 0;
  virtual double final_cap() const = 0;
  virtual int64_t vocab() const = 0;
  virtual int64_t layers() const = 0;
  virtual int64_t context() const = 0;  ///< positions the model was made for

  /// What attention's backward pass over plain rows takes beside its results, where a GPU's library computes it.
  virtual double attention_workspace(int64_t /*rows*/, int64_t /*length*/) const { return 0; }

  /// An empty cache for `batch` rows of up to `capacity` positions, written at most `chunk` tokens a row at a time.
  virtual KvCache new_cache(int64_t batch, int64_t capacity, int64_t chunk) const = 0;

  /// Floating-point operations of one forward pass over n tokens at mean context t, the head for `head_rows` of them.
  virtual double forward_flops(double n, double t, double head_rows) const = 0;

  /// The same of a step: forward, the gradients that are passed on, and those of what trains. Default: three forward passes.
  virtual double step_flops(double n, double t, double head_rows) const { return 3 * forward_flops(n, t, head_rows); }

  /// About how many bytes a training step over `tokens` tokens keeps for backward, given what trains.
  virtual double activation_bytes(double tokens, Recompute) const = 0;

  /// hidden rows [.., D] -> logits [.., V], capped.
  Tensor logits(const Tensor& hidden) const;
};

}  // namespace facet
