// What decides how matrix products run on the GPU, and what a program may ask of them. The products themselves are tensor/kernels/gemm.h.
#pragma once
#include <cstddef>
#include <string>

#include "tensor/view.h"

namespace facet::gpu {

/// The bodies, see gemm.cpp for who gets what.
enum class GemmPath : uint8_t {
  nothing,  ///< no element of c, or no term
  skinny,   ///< up to 16 rows against rows of weights
  lt,       ///< cuBLASLt
  lt_terms, ///< cuBLASLt on an f32 operand split into three bf16 matrices, for f32 times bf16
  mma,      ///< own kernel, tensor cores
  fma,      ///< own kernel, f32 arithmetic
};
const char* name_of(GemmPath);
/// The path of c (+)= alpha a b (leading dimensions allowed), `lt`: whether cuBLASLt is there. A function of shapes, strides, dtypes and the
/// alignment of addresses.
GemmPath gemm_path(const View& a, const View& b, const Out& c, bool lt);

/// True, as at first: NVIDIA's libraries give the same bits in every run. False, or FACET_GPU_DETERMINISTIC=0: sums that cuBLASLt splits and dq of
/// cuDNN's attention may be added up in the order in which they are ready, which can save time and memory. Own kernels know one order.
void set_deterministic(bool);
bool deterministic();

/// Where the choice among cuBLASLt's algorithms comes from. FACET_GPU_TUNE=off|on|file.
enum class Tuning : uint8_t {
  off,   ///< its first suggestion
  file,  ///< what was stored, else its first suggestion
  on,    ///< what was stored, else measured and stored
};
void set_tuning(Tuning);
Tuning tuning();
/// Most workspace of one product, 32 MiB at first; FACET_GPU_WORKSPACE_MB.
void set_gemm_workspace(size_t bytes);
/// That, where cuBLASLt serves; own kernels take none to speak of.
size_t gemm_workspace();
/// Why cuBLASLt does not serve, or empty; for `facet env`.
std::string cublaslt_why_not();

}  // namespace facet::gpu
