#include "nn/kv_cache.h"

#include <algorithm>

#include "tensor/kernels/copy.h"
#include "tensor/kernels/ring_write.h"

namespace facet {

LayerCache::LayerCache(int64_t batch, int64_t length, int64_t kv_heads, int64_t head_dim, DType dtype)
    : keys_(Tensor::empty({batch, length, kv_heads, head_dim}, dtype)),
      values_(Tensor::empty({batch, length, kv_heads, head_dim}, dtype)),
      positions_(Tensor::full({batch, length}, -1, DType::i32)),
      filled_(static_cast<size_t>(batch), 0),
      count_(batch) {}

void LayerCache::write(const Tensor& k, const Tensor& v, const Tensor& positions) {
  if (positions.dim(0) != count_)
    fail(Kind::usage, "kv cache: {} rows of tokens, {} rows are selected", positions.dim(0), count_);
  if (positions.dim(1) > length())
    fail(Kind::usage, "kv cache: {} tokens at once do not fit a ring of {} slots; prefill in smaller chunks", positions.dim(1),
         length());
  const auto p = positions.data<int32_t>();
  const int64_t highest = p.empty() ? -1 : *std::max_element(p.begin(), p.end());
  used_ = std::max(used_, std::min(length(), highest + 1));
  // Slots that one row has not reached while another has are masked, yet their products are formed: no NaN may lie there.
  for (int64_t b = first_; b < first_ + count_; ++b) {
    int64_t& filled = filled_[static_cast<size_t>(b)];
    if (filled >= used_) continue;
    fill(keys_.slice(0, b, b + 1).slice(1, filled, used_).out(), 0);
    fill(values_.slice(0, b, b + 1).slice(1, filled, used_).out(), 0);
    filled = used_;
  }
  ring_write(k.view(), positions.view(), keys_.slice(0, first_, first_ + count_).out(),
             positions_.slice(0, first_, first_ + count_).out());
  ring_write(v.view(), positions.view(), values_.slice(0, first_, first_ + count_).out(), {});
}

int64_t LayerCache::bytes() const {
  return 2 * keys_.numel() * size_of(keys_.dtype()) + positions_.numel() * size_of(DType::i32);
}

void LayerCache::select(int64_t first, int64_t count) {
  if (first < 0 || count < 1 || first + count > keys_.dim(0))
    fail(Kind::usage, "kv cache: rows {} to {} asked for, it has {}", first, first + count, keys_.dim(0));
  first_ = first, count_ = count;
  used_ = *std::max_element(filled_.begin() + first, filled_.begin() + first + count);
}

void LayerCache::swap(int64_t a, int64_t b) {
  int64_t &x = filled_[static_cast<size_t>(a)], &y = filled_[static_cast<size_t>(b)];
  const int64_t slots = std::max(x, y);
  for (const Tensor& t : {keys_, values_, positions_}) {
    const Out o = t.out();
    const int64_t step = o.stride[0] * size_of(o.dtype), bytes = slots * o.stride[1] * size_of(o.dtype);
    char* data = o.as<char>();
    std::swap_ranges(data + a * step, data + a * step + bytes, data + b * step);
  }
  std::swap(x, y);
}

void LayerCache::forget(int64_t b, int32_t from) {
  const Out p = positions_.out();
  int32_t* row = p.as<int32_t>() + b * p.stride[0];
  int64_t& filled = filled_[static_cast<size_t>(b)];
  for (int64_t s = 0; s < filled; ++s)
    if (row[s] >= from) row[s] = -1;
  // Below the length a position's slot is the position. Beyond it the ring has wrapped and any slot may hold one that stays.
  filled = std::min<int64_t>(filled, from);
  if (b >= first_ && b < first_ + count_) select(first_, count_);
}

int64_t KvCache::bytes() const {
  int64_t n = 0;
  for (const LayerCache& l : layers) n += l.bytes();
  return n;
}

void KvCache::select(int64_t first, int64_t count) {
  for (LayerCache& l : layers) l.select(first, count);
}

void KvCache::swap(int64_t a, int64_t b) {
  for (LayerCache& l : layers) l.swap(a, b);
}

void KvCache::forget(int64_t b, int32_t from) {
  for (LayerCache& l : layers) l.forget(b, from);
}

}  // namespace facet
