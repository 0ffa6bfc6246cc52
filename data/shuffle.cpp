#include "data/shuffle.h"

#include "tensor/rng.h"

namespace facet {

std::vector<int64_t> shuffled(int64_t n, uint64_t seed, ShuffleUse use, uint64_t index) {
  const Key of_use = fold_in(key(seed), static_cast<uint32_t>(use));
  const Tensor order = permutation(fold_in(of_use, static_cast<uint32_t>(index)), n);
  const auto values = order.data<int32_t>();
  return {values.begin(), values.end()};
}

}  // namespace facet
