// The bodies between which tensor/gpu/gemm.cpp chooses, beside those of cuBLASLt (lt.h). The caller has checked what each asks for;
// products are neither empty() nor zero().
#pragma once
#include <span>

#include "tensor/gpu/product.h"

namespace facet::gpu {

/// Anything (gemm.cu).
void product_fma(const char* op, const Product&);
/// a and b bf16, any strides; dense ones are fast (gemm_mma.cu).
void product_mma(const char* op, const Product&);

/// Up to 16 rows against rows of weights, several weights at once (gemm_skinny.cu): all products share a, m <= 16, p; no loops;
/// a.column = 1, b.row = 1, bases and other strides multiples of 16 bytes, p a multiple of 16 bytes of a row of b;
/// b bf16 with any a, or all b f32 with a f32.
inline constexpr int skinny_rows = 16, skinny_products = 4;
void product_skinny(const char* op, std::span<const Product>);
/// geglu of two such products of one shape, all bf16, into gate.c.
void product_skinny_geglu(const char* op, const Product& gate, const Product& up);

/// f32 [lines, length] with strides (line_step, step) as three bf16 matrices whose sum is exactly x (gemm_terms.cu): terms[t] is
/// [lines, length] with strides (pitch, 1), pitch a multiple of 8 >= length, one after the other `lines * pitch` elements apart.
/// An infinity or NaN stands in the first alone.
void split_terms(const char* op, const float* x, int64_t lines, int64_t length, int64_t line_step, int64_t step, bf16* terms, int64_t pitch);

}  // namespace facet::gpu
