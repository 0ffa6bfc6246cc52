#include "tensor/gpu/measured_choice.h"

#include <cstdio>

namespace facet::gpu {

void warn_of_library(const char* op, const char* library, size_t result, const Nearness& n) {
  std::fprintf(stderr,
               "facet: warning: %s: result %zu of %s differs from the own kernels' (normalised square error %.2g, largest difference %.2g of a row's root mean "
               "square); own kernels compute it\n",
               op, result + 1, library, n.nmse, n.of_row);
}

}  // namespace facet::gpu
