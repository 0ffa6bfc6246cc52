// Keys and values of earlier tokens, with their positions. Slot = position mod ring length: a local layer keeps only what its window
// can reach, and masks and the order of sums come from the stored positions. Slot order means nothing: hidden rows are bit for bit those
// of one pass without a cache (tensor/kernels/attention.h).
#pragma once
#include <vector>

#include "autograd/inference_ops.h"

namespace facet {

/// One layer's ring. Keys are stored after norm and RoPE, so nothing is ever rotated again.
class LayerCache {
 public:
  /// `length` slots for each of `batch` rows; K heads of size Dh, stored as `dtype` on `device`.
  LayerCache(int64_t batch, int64_t length, int64_t kv_heads, int64_t head_dim, DType dtype, Device device = Device::cpu);

  /// Makes room for positions [n, T] of the n selected rows, which lie on the CPU whatever the cache's device: what is written next is within
  /// reach. Throws Error(Kind::usage) when they do not fit.
  void reach(const Tensor& positions);
  /// Stores k, v [n, T, K, Dh] of the selected rows at positions i32 [n, T] (negative: skipped), all on the cache's device, within reach.
  void write(const Tensor& k, const Tensor& v, const Tensor& positions);
  /// The same memory to be written by an operation, under the same promise.
  Rings rings();

  /// The slots in use of the selected rows: k, v [n, S, K, Dh] and their positions [n, S] (-1: empty).
  Tensor keys() const { return window(keys_); }
  Tensor values() const { return window(values_); }
  Tensor positions() const { return window(positions_); }
  int64_t length() const { return keys_.dim(1); }
  int64_t bytes() const;

  void reach_all();
  /// Rows [first, first + count) are the batch from now on; at first all are.
  void select(int64_t first, int64_t count);
  /// Exchanges two rows.
  void swap(int64_t a, int64_t b);
  /// Row `to` becomes what row `row` of `from` is, which may be this cache or one with rings of another length; then nothing of that row
  /// may have been overwritten yet, and all of it must fit (Error(Kind::usage)). `whole`: nothing can have been, so nobody looks, which on a GPU
  /// means waiting.
  void copy(const LayerCache& from, int64_t row, int64_t to, bool whole = false);
  /// Empties row b, or drops its entries at positions >= `from`.
  void forget(int64_t b, int32_t from = 0);

 private:
  void clear_ahead();
  Tensor selected(const Tensor& t) const { return t.slice(0, first_, first_ + count_); }
  Tensor window(const Tensor& t) const { return selected(t).slice(1, 0, used_); }

  Tensor keys_, values_, positions_;
  std::vector<int64_t> reached_;  ///< of every row: slots below may hold keys
  std::vector<int64_t> clean_;    ///< of every row: slots below hold keys or zeros; never less than reached_
  int64_t first_ = 0, count_ = 0, used_ = 0;
};

/// All layers of a model for a batch of sequences.
struct KvCache {
  std::vector<LayerCache> layers;
  int64_t capacity = 0;  ///< positions that fit
  int64_t chunk = 0;     ///< most tokens of one row that may be written at once
  int64_t bytes() const;
  void reach(const Tensor& positions);
  /// From now on every slot is in use, empty ones masked: shapes no longer depend on how far the rows have come, as a captured graph wants it.
  void reach_all();
  void select(int64_t first, int64_t count);
  void swap(int64_t a, int64_t b);
  void copy(const KvCache& from, int64_t row, int64_t to);
  void forget(int64_t b, int32_t from = 0);
};

}  // namespace facet
