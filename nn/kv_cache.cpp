#include "nn/kv_cache.h"

#include <algorithm>

#include "tensor/kernels/copy.h"
#include "tensor/kernels/ring_write.h"

namespace facet {

LayerCache::LayerCache(int64_t batch, int64_t length, int64_t kv_heads, int64_t head_dim, DType dtype)
    : keys_(Tensor::empty({batch, length, kv_heads, head_dim}, dtype)),
      values_(Tensor::empty({batch, length, kv_heads, head_dim}, dtype)),
      positions_(Tensor::full({batch, length}, -1, DType::i32)) {
  // Slots that one row has not reached while another has are masked, yet their products are formed: no NaN may lie there.
  fill(keys_.out(), 0);
  fill(values_.out(), 0);
}

void LayerCache::write(const Tensor& k, const Tensor& v, const Tensor& positions) {
  if (positions.dim(1) > length())
    fail(Kind::usage, "kv cache: {} tokens at once do not fit a ring of {} slots; prefill in smaller chunks", positions.dim(1),
         length());
  int64_t highest = -1;
  for (int64_t b = 0; b < positions.dim(0); ++b)
    for (int64_t t = 0; t < positions.dim(1); ++t)
      highest = std::max(highest, static_cast<int64_t>(positions.at({b, t})));
  used_ = std::max(used_, std::min(length(), highest + 1));
  ring_write(k.view(), positions.view(), keys_.out(), positions_.out());
  ring_write(v.view(), positions.view(), values_.out(), {});
}

int64_t LayerCache::bytes() const {
  return 2 * keys_.numel() * size_of(keys_.dtype()) + positions_.numel() * size_of(DType::i32);
}

void LayerCache::forget(int64_t b, int32_t from) {
  Out p = positions_.out();
  int32_t* row = p.as<int32_t>() + b * p.stride[0];
  for (int64_t s = 0; s < length(); ++s)
    if (row[s] >= from) row[s] = -1;
}

int64_t KvCache::bytes() const {
  int64_t n = 0;
  for (const LayerCache& l : layers) n += l.bytes();
  return n;
}

void KvCache::forget(int64_t b, int32_t from) {
  for (LayerCache& l : layers) l.forget(b, from);
}

}  // namespace facet
