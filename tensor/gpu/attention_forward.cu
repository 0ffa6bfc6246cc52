// Attention forward: which kernel runs is a matter of dtype, head size and the number of queries alone, never of the batch.
// Whole rows of training may go to cuDNN instead, where that was measured to be faster.
#include "tensor/gpu/attention_paths.h"
#include "tensor/gpu/cudnn_attention.h"

namespace facet::gpu {

void attention_forward(const AttentionInputs& x, Out y, Out lse) {
  if (x.q.numel() == 0) return;
  if (x.q.shape[1] <= attn::few_queries && x.q.shape[3] <= 256) attn::few_forward(x, y, lse);
  else attention_forward_by_choice(x, y, lse, own_attention_forward);
}

void own_attention_forward(const AttentionInputs& x, Out y, Out lse) {
  if (x.q.dtype == DType::bf16 && x.q.shape[3] <= 256) attn::mma_forward(x, y, lse);
  else attn::plain_forward(x, y, lse);
}

}  // namespace facet::gpu
