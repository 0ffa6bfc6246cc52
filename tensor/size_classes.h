// Sizes of pooled blocks: four classes per octave, so a request is rounded up by a quarter at most.
#pragma once
#include <bit>
#include <cstddef>

namespace facet::size_classes {

inline constexpr int octaves = 48, per_octave = 4, count = octaves * per_octave;
inline constexpr size_t smallest = 64;

/// Class c holds smallest * 2^(c/4) * (1 + (c%4)/4) bytes.
constexpr size_t bytes_of(int c) { return (smallest << (c / per_octave)) / per_octave * static_cast<size_t>(per_octave + c % per_octave); }

/// The smallest class that holds `bytes`.
constexpr int class_of(size_t bytes) {
  if (bytes <= smallest) return 0;
  const int octave = std::bit_width((bytes - 1) / smallest) - 1;
  int c = octave * per_octave;
  while (bytes_of(c) < bytes) ++c;
  return c;
}

/// What a request takes of the pool.
constexpr size_t rounded(size_t bytes) { return bytes_of(class_of(bytes)); }

}  // namespace facet::size_classes
