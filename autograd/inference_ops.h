// Operations of passes that record no gradient, where several of ops.h are one kernel: a decoding step on a GPU is mostly the gaps between
// kernels. Each gives the bits of the operations it stands for; with an input that is traced, its result throws in backward.
#pragma once
#include "autograd/tape.h"
#include "tensor/rope_table.h"

namespace facet {

/// A layer's products for its tokens: q [B, T, H, Dh], k and v [B, T, K, Dh]; w_q, w_k [Dh] of the norms, or both absent.
struct QueryKeyValue {
  Tensor q, k, v, w_q, w_k;
};
/// Where keys and values are kept: [B, R, K, Dh] in the dtype of the products; slots i32 [B, R] hold the positions.
struct Rings {
  Tensor keys, values, slots;
};
/// norm_rope of q is returned; norm_rope of k, v and the positions i32 [B, T] are written into the rings at position mod R (negative:
/// nowhere). Two tokens of a row must not share a slot.
Tensor norm_rope_write(const QueryKeyValue&, double eps, const Tensor& positions, const RopeTable&, const Rings&);

/// geglu(x w_gate^T, x w_up^T): x [.., I], weights [F, I] -> [.., F]. The dtypes of linear.
Tensor linear_geglu(const Tensor& x, const Tensor& w_gate, const Tensor& w_up);

}  // namespace facet
