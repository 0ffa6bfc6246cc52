#include "nn/kv_cache.h"

#include <algorithm>

#include "tensor/kernels/ring_write.h"

namespace facet {
namespace {

// The memory of a cache tensor by rows and slots.
class Slots {
 public:
  explicit Slots(const Tensor& t) : Slots(t.out()) {}
  void fill(int64_t row, int64_t begin, int64_t end, int byte) const { fill_bytes(device_, at(row, begin), byte, bytes(end - begin)); }
  /// The first `n` slots of row `from` into row `to` of `target`.
  void copy(int64_t from, const Slots& target, int64_t to, int64_t n) const { copy_bytes(device_, target.at(to, 0), at(from, 0), bytes(n)); }
  void swap(int64_t a, int64_t b, int64_t n) const {
    const Tensor t = Tensor::empty({static_cast<int64_t>(bytes(n) / 4)}, DType::i32, device_);  // a slot is a whole number of 4 bytes
    char* other = t.out().as<char>();
    copy_bytes(device_, other, at(a, 0), bytes(n));
    copy_bytes(device_, at(a, 0), at(b, 0), bytes(n));
    copy_bytes(device_, at(b, 0), other, bytes(n));
  }

 private:
  explicit Slots(const Out& o)
      : data_(o.as<char>()), row_bytes_(o.stride[0] * size_of(o.dtype)), slot_bytes_(o.stride[1] * size_of(o.dtype)), device_(o.device) {}
  char* at(int64_t row, int64_t slot) const { return data_ + row * row_bytes_ + slot * slot_bytes_; }
  size_t bytes(int64_t slots) const { return static_cast<size_t>(slots * slot_bytes_); }
  char* data_;
  int64_t row_bytes_, slot_bytes_;
  Device device_;
};

/// One row of positions, to be read and changed on the CPU and put back.
class PositionRow {
 public:
  PositionRow(const Tensor& positions, int64_t row) : there_(positions.slice(0, row, row + 1)), here_(there_.to(Device::cpu)) {}
  int32_t* begin() { return here_.out().as<int32_t>(); }
  void put_back() { there_.set(here_); }

 private:
  Tensor there_, here_;
};

}  // namespace

LayerCache::LayerCache(int64_t batch, int64_t length, int64_t kv_heads, int64_t head_dim, DType dtype, Device device)
    : keys_(Tensor::empty({batch, length, kv_heads, head_dim}, dtype, device)),
      values_(Tensor::empty({batch, length, kv_heads, head_dim}, dtype, device)),
      positions_(Tensor::empty({batch, length}, DType::i32, device)),
      reached_(static_cast<size_t>(batch), 0),
      clean_(static_cast<size_t>(batch), 0),
      count_(batch) {
  fill_bytes(device, positions_.out().as<char>(), 0xff, static_cast<size_t>(positions_.numel()) * sizeof(int32_t));  // -1
}

void LayerCache::reach(const Tensor& positions) {
  if (positions.dim(0) != count_)
    fail(Kind::usage, "kv cache: {} rows of tokens, {} rows are selected", positions.dim(0), count_);
  if (positions.dim(1) > length())
    fail(Kind::usage, "kv cache: {} tokens at once do not fit a ring of {} slots; prefill in smaller chunks", positions.dim(1),
         length());
  const auto p = positions.data<int32_t>();
  const int64_t highest = p.empty() ? -1 : *std::max_element(p.begin(), p.end());
  used_ = std::max(used_, std::min(length(), highest + 1));
  clear_ahead();
}

void LayerCache::reach_all() {
  used_ = length();
  clear_ahead();
}

// Slots that one row has not reached while another has are masked, yet their products are formed: no NaN may lie there. Zeros go in some
// slots ahead, so that a step of decoding seldom writes any.
void LayerCache::clear_ahead() {
  constexpr int64_t ahead = 32;
  const Slots key_slots(keys_), value_slots(values_);
  for (int64_t b = first_; b < first_ + count_; ++b) {
    reached_[static_cast<size_t>(b)] = used_;
    int64_t& clean = clean_[static_cast<size_t>(b)];
    if (clean >= used_) continue;
    const int64_t end = std::min(length(), (used_ + ahead - 1) / ahead * ahead);
    key_slots.fill(b, clean, end, 0);
    value_slots.fill(b, clean, end, 0);
    clean = end;
  }
}

void LayerCache::write(const Tensor& k, const Tensor& v, const Tensor& positions) {
  const Rings to = rings();
  ring_write(k.view(), positions.view(), to.keys.out(), to.slots.out());
  ring_write(v.view(), positions.view(), to.values.out(), {});
}

Rings LayerCache::rings() { return {selected(keys_), selected(values_), selected(positions_)}; }

int64_t LayerCache::bytes() const {
  return 2 * keys_.numel() * size_of(keys_.dtype()) + positions_.numel() * size_of(DType::i32);
}

void LayerCache::select(int64_t first, int64_t count) {
  if (first < 0 || count < 1 || first + count > keys_.dim(0))
    fail(Kind::usage, "kv cache: rows {} to {} asked for, it has {}", first, first + count, keys_.dim(0));
  first_ = first, count_ = count;
  used_ = *std::max_element(reached_.begin() + first, reached_.begin() + first + count);
}

void LayerCache::swap(int64_t a, int64_t b) {
  const auto x = static_cast<size_t>(a), y = static_cast<size_t>(b);
  const int64_t slots = std::max(clean_[x], clean_[y]);
  for (const Tensor* t : {&keys_, &values_, &positions_}) Slots(*t).swap(a, b, slots);
  std::swap(reached_[x], reached_[y]);
  std::swap(clean_[x], clean_[y]);
}

void LayerCache::copy(const LayerCache& from, int64_t row, int64_t to, bool whole) {
  if (row < 0 || row >= from.keys_.dim(0) || to < 0 || to >= keys_.dim(0) || from.keys_.dim(2) != keys_.dim(2) ||
      from.keys_.dim(3) != keys_.dim(3) || from.keys_.dtype() != keys_.dtype())
    fail(Kind::usage, "kv cache: row {} of {} {} does not go into row {} of {} {}", row, name_of(from.keys_.dtype()),
         to_string(from.keys_.shape()), to, name_of(keys_.dtype()), to_string(keys_.shape()));
  const int64_t slots = from.reached_[static_cast<size_t>(row)];
  if (from.length() != length()) {
    bool in_order = slots <= length();
    if (!whole) {
      PositionRow row_positions(from.positions_, row);
      const int32_t* p = row_positions.begin();
      for (int64_t s = 0; s < slots && in_order; ++s) in_order = p[s] < 0 || p[s] == s;
    }
    if (!in_order)
      fail(Kind::usage, "kv cache: a row of a ring of {} slots that has gone round, or fills {}, does not go into one of {}",
           from.length(), slots, length());
  }
  if (&from == this && row == to) return;
  int64_t &reached = reached_[static_cast<size_t>(to)], &clean = clean_[static_cast<size_t>(to)];
  Slots(from.keys_).copy(row, Slots(keys_), to, slots);
  Slots(from.values_).copy(row, Slots(values_), to, slots);
  Slots(from.positions_).copy(row, Slots(positions_), to, slots);
  Slots(positions_).fill(to, slots, std::max(slots, reached), 0xff);  // -1
  clean = reached = slots;
}

void LayerCache::forget(int64_t b, int32_t from) {
  int64_t &reached = reached_[static_cast<size_t>(b)], &clean = clean_[static_cast<size_t>(b)];
  if (from <= 0) {
    Slots(positions_).fill(b, 0, reached, 0xff);  // -1
  } else if (reached > 0) {
    PositionRow positions(positions_, b);
    int32_t* row = positions.begin();
    for (int64_t s = 0; s < reached; ++s)
      if (row[s] >= from) row[s] = -1;
    positions.put_back();
  }
  // Below the length a position's slot is the position. Beyond it the ring has wrapped and any slot may hold one that stays.
  reached = std::min<int64_t>(reached, from);
  clean = std::min(clean, reached);
  if (b >= first_ && b < first_ + count_) select(first_, count_);
}

int64_t KvCache::bytes() const {
  int64_t n = 0;
  for (const LayerCache& l : layers) n += l.bytes();
  return n;
}

void KvCache::reach(const Tensor& positions) {
  for (LayerCache& l : layers) l.reach(positions);
}

void KvCache::reach_all() {
  for (LayerCache& l : layers) l.reach_all();
}

void KvCache::select(int64_t first, int64_t count) {
  for (LayerCache& l : layers) l.select(first, count);
}

void KvCache::swap(int64_t a, int64_t b) {
  for (LayerCache& l : layers) l.swap(a, b);
}

void KvCache::copy(const KvCache& from, int64_t row, int64_t to) {
  for (size_t i = 0; i < layers.size(); ++i) layers[i].copy(from.layers[i], row, to, from.layers[i].length() >= from.capacity);
}

void KvCache::forget(int64_t b, int32_t from) {
  for (LayerCache& l : layers) l.forget(b, from);
}

}  // namespace facet
