// The operations of a model at that model's sizes, as contracts for a device (device.h). The awkward sizes of contracts() break kernels; these run
// the kernels a model runs: tiles of its head and its widths, products that a library computes, a whole vocabulary. What only a real GPU
// would get wrong there, `facet conformance` finds by them. They have no slow twins.
#pragma once
#include "tests/contracts/contract.h"

namespace facet::test {

struct Sizes {
  std::string name;  ///< begins the names of its contracts
  int64_t tokens, width, hidden, heads, kv_heads, head_dim, vocab, window;
};
Contracts contracts_at(const Sizes&);

/// Those of attention alone: rows of training, whole, behind a window, packed and branched, with a cap; one query and a few over a cache.
Contracts attention_at(const Sizes&);

}  // namespace facet::test
