// What a graph of cuDNN means, computed slowly on the CPU from its finalised descriptors: sizes, strides, types, modes and which tensor goes
// where are read back from the library. What the library does not tell comes from the graph's own records: the list of operations, elementwise
// functions with their operands, and the values of scalars (as at execution).
#pragma once
#include <map>

#include "tensor/gpu/cudnn_graph.h"

#ifdef FACET_HAS_CUDNN
namespace facet::test {

/// `memory`: host addresses of every tensor that is neither virtual nor a scalar. Throws std::runtime_error for what it does not know, for a
/// tensor without memory, and for one that is read before it is written.
void evaluate(const gpu::cudnn::Graph&, const std::map<int64_t, void*>& memory);

}  // namespace facet::test
#endif
