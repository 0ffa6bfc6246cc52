// sum_to: y (+)= x summed over the dimensions in which y has size 1 or is missing (aligned at the last dimension): the gradient
// of broadcasting. Any strides for x; y any strides. Sums are kept in the accumulation type and run in index order per element.
#pragma once
#include "tensor/view.h"

namespace facet {
namespace cpu {
void sum_to(View x, Out y);
}
using cpu::sum_to;
}  // namespace facet
