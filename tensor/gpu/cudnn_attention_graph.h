// The graphs behind cudnn_attention.h, for it and for the tests that read them back.
#pragma once
#include "tensor/gpu/cudnn_graph.h"
#include "tensor/kernels/attention.h"

#ifdef FACET_HAS_CUDNN
namespace facet::gpu::cudnn {

/// Numbers of the tensors in memory; 0: not part of the graph.
struct ForwardGraph {
  Graph graph;
  int q = 0, k = 0, v = 0, y = 0, lse = 0;
};
struct BackwardGraph {
  Graph graph;
  int q = 0, k = 0, v = 0, y = 0, lse = 0, dy = 0, dq = 0, dk = 0, dv = 0;
  int delta = 0;   ///< workspace, f32 [B, H, T]
  int dq_sum = 0;  ///< workspace, f32 [B, H, T, Dh]; none when deterministic
};
/// Finalised. Shapes and strides of the windows are taken, not their memory; a null lse is left out.
ForwardGraph forward_graph(const AttentionInputs& x, const View& y, const View& lse);
BackwardGraph backward_graph(const AttentionInputs& x, const View& y, const View& lse, const View& dy, const View& dq, const View& dk,
                             const View& dv, bool deterministic);

}  // namespace facet::gpu::cudnn
#endif
