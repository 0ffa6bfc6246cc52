// The kernels of attention and what each is for. attention_forward.cu and attention_backward.cu choose by dtype and shape alone.
#pragma once
#include "tensor/kernels/attention.h"

namespace facet::gpu::attn {

/// Shared memory a block may take: the device's, or less, so that tests on one device run what others would.
size_t shared_limit();
void limit_shared(size_t bytes);
/// Processors that blocks of bf16 kernels should keep busy, likewise. No bit depends on it.
int processors();
void limit_processors(int most);

inline constexpr int64_t few_queries = 8;  ///< up to so many tokens: few_forward
void mma_forward(const AttentionInputs& x, Out y, Out lse);    ///< bf16, Dh <= 256
void few_forward(const AttentionInputs& x, Out y, Out lse);    ///< Dh <= 256: keys are read once for up to 8 rows of queries
void plain_forward(const AttentionInputs& x, Out y, Out lse);  ///< f32, and bf16 of any Dh

struct Problem;
struct Index;
struct RowInfo;
void mma_backward(const AttentionInputs& x, const Problem& p, const Index& index, const RowInfo* infos, int32_t n_rows, View dy, Out dq, Out dk,
                  Out dv);
void plain_backward(const AttentionInputs& x, const Problem& p, const Index& index, const RowInfo* infos, int32_t n_rows, View dy, Out dq, Out dk,
                    Out dv);

}  // namespace facet::gpu::attn
