// Attention by cuDNN: one fused kernel forward, one (and a sum over heads) backward, for what training on whole rows needs. Everything else
// is the own kernels' (attention_forward.cu, attention_backward.cu), which take all cases. Formulas and conventions: tensor/kernels/attention.h.
//
// The operations are described to the library one by one, forward
//   s = q k^T,  c = scale s,  causal: row >= column ? c : -inf,  window: column + window > row ? c : -inf      (so row - column < window)
//   m = max c,  e = exp(c - m),  l = sum e,  lse = m + log l,  p = e / l (bf16),  y = p v
// and backward
//   delta = sum dy y,  p = exp(c - lse) (masked as above),  dv = p^T dy,  ds = scale p (dy v^T - delta),  dk = ds^T q,  dq = ds k
// in the forms its engines recognise; gradients of heads that share a key are added up afterwards. Rounding differs from the own kernels' in
// one place: they round scale q to bf16 before the product, cuDNN scales the f32 product.
//
// dq comes from a workspace that holds all of ds, 2 B H T S bytes, and has the same bits in every run. Where that is not asked for
// (set_deterministic, gemm.h) it is added up atomically in f32 instead: less memory and time, other bits every time.
//
// Host code only; no header of CUDA's is seen by who includes this.
#pragma once
#include <string>

#include "tensor/gpu/nearness.h"
#include "tensor/kernels/attention.h"

namespace facet::gpu {

/// Empty when cuDNN is there and the GPU is real; else why not, one sentence. The first call loads the library.
const std::string& cudnn_why_not();

/// Why these operands are not for cuDNN (a function of the arguments alone), or null when they are: bf16, positions 0..T-1 in every row
/// (x.plain), causal, as many keys as queries, no segments, no cap, Dh a multiple of 8 up to 256, 16-byte steps, nothing accumulated.
const char* cudnn_attention_refuses(const AttentionInputs& x, const Out& y, const Out& lse);
const char* cudnn_attention_refuses(const AttentionInputs& x, const View& y, const View& lse, const View& dy, const Out& dq, const Out& dk,
                                    const Out& dv);

/// Computes by cuDNN; false, with nothing written, where it does not serve or has no engine. Throws Error(Kind::environment) when it fails.
bool cudnn_attention_forward(const AttentionInputs& x, const Out& y, const Out& lse);
bool cudnn_attention_backward(const AttentionInputs& x, const View& y, const View& lse, const View& dy, const Out& dq, const Out& dk,
                              const Out& dv);

/// Bytes that its backward pass works in, for B rows of T tokens (measured on plans for an H200: the table in README.md): ds, or the f32 sum of
/// dq that atomics add to; and where heads share keys, dk and dv of every head.
int64_t cudnn_backward_workspace(int64_t B, int64_t T, int64_t H, int64_t K, int64_t Dh, bool deterministic);
/// Whether rows of T tokens may earn back what their two plans cost, some seconds of compiling in every run. Short ones do not, nor does a text of
/// a length of its own, which may never come again; rows that are cut to a length have a round one. A function of T alone: what was computed
/// before decides no bit.
bool cudnn_worth_a_plan(int64_t T);
/// What attention_backward_by_choice takes of the pool for cuDNN, for rows of up to T tokens that it serves; 0 where own kernels will compute, 0 too
/// where a measurement preferred them.
size_t cudnn_backward_takes(int64_t B, int64_t T, int64_t H, int64_t K, int64_t Dh, int64_t window);

/// How near they must be, as the GPU's attention is to the CPU's (tests/contracts/device.cpp).
inline constexpr Nearness attention_nearness{2e-5, 3e-2}, attention_backward_nearness{5e-5, 5e-2};
/// The own kernels, which cuDNN's results are compared with. Operands must not be empty.
void own_attention_forward(const AttentionInputs& x, Out y, Out lse);
void own_attention_backward(const AttentionInputs& x, View y, View lse, View dy, Out dq, Out dk, Out dv);

/// Computes by cuDNN where its results agree with those of `own` and it was measured to be faster, else by `own`, as rows that are not worth a plan
/// always are. Compared and measured at the
/// first call of a problem (measured_choice.h) and stored beside the choices of cuBLASLt.
void attention_forward_by_choice(const AttentionInputs& x, const Out& y, const Out& lse, void (*own)(const AttentionInputs&, Out, Out));
void attention_backward_by_choice(const AttentionInputs& x, const View& y, const View& lse, const View& dy, const Out& dq, const Out& dk,
                                  const Out& dv, void (*own)(const AttentionInputs&, View, View, View, Out, Out, Out));

}  // namespace facet::gpu
