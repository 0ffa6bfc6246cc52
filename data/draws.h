// Random choices one after the other, for generators of data.
#pragma once
#include <cstdint>
#include <iterator>
#include <utility>

#include "tensor/rng.h"

namespace facet {

/// Draws from a key's stream by counting; the same key gives the same choices everywhere.
class Draws {
 public:
  explicit Draws(Key key) : key_(key) {}
  uint32_t word() { return threefry2x32(key_, {0, count_++}).a; }
  /// 0...n-1, n >= 1, without bias (the few words beyond a multiple of n are passed over).
  uint32_t below(uint32_t n) {
    const uint32_t limit = UINT32_MAX - (UINT32_MAX % n + 1) % n;
    for (;;)
      if (const uint32_t w = word(); w <= limit) return w % n;
  }
  bool chance(double p) { return word() < p * 4294967296.0; }
  template <class List>
  const auto& pick(const List& list) {
    return list[below(static_cast<uint32_t>(std::size(list)))];
  }
  template <class List>
  void shuffle(List& list) {
    for (size_t i = list.size(); i > 1; --i) std::swap(list[i - 1], list[below(static_cast<uint32_t>(i))]);
  }

 private:
  Key key_;
  uint32_t count_ = 0;
};

}  // namespace facet
