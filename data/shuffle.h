// Random orders of examples: a pure function of the seed, so that a resumed run sees the batches it would have seen.
#pragma once
#include <cstdint>
#include <vector>

namespace facet {

/// Purposes draw from different streams of one seed.
enum class ShuffleUse : uint32_t { epoch = 1, validation = 2, task = 3, batches = 4 };

/// A permutation of 0...n-1; `index` counts within the purpose (the epoch).
std::vector<int64_t> shuffled(int64_t n, uint64_t seed, ShuffleUse use, uint64_t index);

}  // namespace facet
