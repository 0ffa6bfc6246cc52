// Ids in ascending order, and where each came from: what a deterministic scatter needs.
#pragma once
#include "tensor/gpu/pool.h"

namespace facet::gpu {

/// Sorts n < 2^31 ids of [0, limit) in device memory; any other id counts as `limit` and comes last. Equal ids keep their order. A
/// radix sort of 10 bits a pass: two passes for a vocabulary of 262,144, each of which reads and writes 8 bytes an id.
class SortedIds {
 public:
  SortedIds(const char* op, const int32_t* ids, int64_t n, int64_t limit);
  const int32_t* id() const { return id_; }        ///< [n] in device memory, ascending
  const int32_t* place() const { return place_; }  ///< [n]: id()[i] was ids[place()[i]]

 private:
  Scratch memory_;
  int32_t *id_, *place_;
};

}  // namespace facet::gpu
