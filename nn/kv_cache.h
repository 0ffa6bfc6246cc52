// Keys and values of earlier tokens, with their positions. Slot = position mod ring length: a local layer keeps only what its window
// can reach, and masks come from the stored positions, so that slot order means nothing.
#pragma once
#include <vector>

#include "tensor/tensor.h"

namespace facet {

/// One layer's ring. Keys are stored after norm and RoPE, so nothing is ever rotated again.
class LayerCache {
 public:
  /// `length` slots for each of `batch` rows; K heads of size Dh, stored as `dtype`.
  LayerCache(int64_t batch, int64_t length, int64_t kv_heads, int64_t head_dim, DType dtype);

  /// Stores k, v [B, T, K, Dh] at positions i32 [B, T] (negative: skipped).
  void write(const Tensor& k, const Tensor& v, const Tensor& positions);

  /// The slots in use: k, v [B, S, K, Dh] and their positions [B, S] (-1: empty).
  Tensor keys() const { return keys_.slice(1, 0, used_); }
  Tensor values() const { return values_.slice(1, 0, used_); }
  Tensor positions() const { return positions_.slice(1, 0, used_); }
  int64_t length() const { return keys_.dim(1); }
  int64_t bytes() const;

  /// Empties row b, or drops its entries at positions >= `from`.
  void forget(int64_t b, int32_t from = 0);

 private:
  Tensor keys_, values_, positions_;
  int64_t used_ = 0;  ///< slots below this may be filled
};

/// All layers of a model for a batch of sequences.
struct KvCache {
  std::vector<LayerCache> layers;
  int64_t capacity = 0;  ///< positions that fit
  int64_t chunk = 0;     ///< most tokens of one row that may be written at once
  int64_t bytes() const;
  void forget(int64_t b, int32_t from = 0);
};

}  // namespace facet
