// Results with room behind their rows, where somebody asked for it (RowRoom, autograd/joined_ops.h).
#pragma once
#include "tensor/tensor.h"

namespace facet {

/// Tensor::empty, with the room of the RowRoom in force, for an operation whose kernel writes rows at any one distance.
Tensor empty_rows(const Shape&, DType, Device);

}  // namespace facet
