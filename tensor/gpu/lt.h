// Products by cuBLASLt. The library is opened when the first large product comes, and looked for by the loader and in the toolkit the program
// was built with; without it the own kernels do everything. Host code only: no kernel and no header of CUDA's here.
//
// Row-major products are given to it as what they are in its column-major eyes: c^T = b^T a^T, with a transposition wherever an operand is
// dense along the terms. bf16 operands have f32 sums and a bf16 or f32 result; f32 operands are multiplied in f32 (no TF32).
//
// Which of its algorithms is best is measured once per problem (shape, layout, dtypes, alignment, "+="), see lt_choice.h. While a graph is
// captured nothing is measured: then the library's own first suggestion is taken.
#pragma once
#include <string>

#include "tensor/gpu/product.h"

namespace facet::gpu {

/// Empty when cuBLASLt serves; else why not, one sentence. The first call loads the library.
const std::string& lt_why_not();
/// Such as "13.1.0"; empty without the library.
std::string lt_version();

/// A matrix as cuBLASLt sees it: column-major, `transposed` when it is dense the other way; ld is the distance of its columns.
struct LtMatrix {
  bool transposed = false;
  int64_t rows = 0, columns = 0, ld = 0;  ///< as stored: before the transposition
};
/// The c^T = b^T a^T of a product. False where there is no such description: no stride of 1, rows that overlap.
struct LtLayout {
  LtMatrix first, second, result;  ///< of b, a, c
  int64_t batch = 1, first_step = 0, second_step = 0, result_step = 0;
  bool swapped = false;            ///< c is dense along its columns: c = a b instead
};
bool lt_layout(const Product&, LtLayout&);
/// Whether cuBLASLt takes it in one call: layouts, dtypes, at most one loop and no sum of products. A function of the product alone.
bool lt_takes(const Product&);

/// False when the library has no algorithm for it. Throws Error(Kind::environment) naming `op` when it fails.
bool product_lt(const char* op, const Product&);
/// Plans it keeps, of the products that were computed last.
inline constexpr size_t most_lt_plans = 4096;  // a model has some dozens for each shape that passes through it; a plan is 2 KB of descriptors: 8 MB
size_t lt_plans();

}  // namespace facet::gpu
