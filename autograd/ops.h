// Every differentiable operation. Tier 0: primitives with numpy broadcasting, for lessons, losses and the composite twins of
// tests. Tier 1: the fused operations a Gemma runs on; their kernels' headers in tensor/kernels/ are the textbook pages.
//
// Letters: B batch, T query tokens, S cached tokens, N = B*T rows, D model width, H query heads, K key/value heads, Dh head
// size, F feed-forward width, V vocabulary. Operands must agree in dtype unless a line says otherwise; a mismatch of shape or
// dtype throws Error(Kind::usage) naming the operation, the arguments and both sides.
#pragma once
#include <span>
#include <string>
#include <vector>

#include "autograd/tape.h"
#include "tensor/rng.h"
#include "tensor/rope_table.h"
#include "tensor/tensor.h"

namespace facet {

// ---- tier 0: elementwise (f32, bf16, f64)
Tensor add(const Tensor& a, const Tensor& b);
Tensor sub(const Tensor& a, const Tensor& b);
Tensor mul(const Tensor& a, const Tensor& b);
Tensor div(const Tensor& a, const Tensor& b);
Tensor maximum(const Tensor& a, const Tensor& b);  ///< ties: half of the gradient to each, as JAX
Tensor minimum(const Tensor& a, const Tensor& b);
Tensor add(const Tensor& a, double b);
Tensor mul(const Tensor& a, double b);
Tensor pow(const Tensor& a, const Tensor& b);
Tensor pow(const Tensor& a, double b);
Tensor neg(const Tensor& x);
Tensor exp(const Tensor& x);
Tensor log(const Tensor& x);
Tensor tanh(const Tensor& x);
Tensor sqrt(const Tensor& x);
Tensor rsqrt(const Tensor& x);
Tensor square(const Tensor& x);
Tensor abs(const Tensor& x);
Tensor sin(const Tensor& x);
Tensor cos(const Tensor& x);
Tensor sigmoid(const Tensor& x);
Tensor log_sigmoid(const Tensor& x);
Tensor softplus(const Tensor& x);
Tensor relu(const Tensor& x);
Tensor silu(const Tensor& x);
Tensor gelu_tanh(const Tensor& x);
Tensor gelu_erf(const Tensor& x);
Tensor softcap(const Tensor& x, double cap);  ///< cap * tanh(x / cap)
Tensor cast(const Tensor& x, DType);          ///< gradient is cast back

inline Tensor operator+(const Tensor& a, const Tensor& b) { return add(a, b); }
inline Tensor operator-(const Tensor& a, const Tensor& b) { return sub(a, b); }
inline Tensor operator*(const Tensor& a, const Tensor& b) { return mul(a, b); }
inline Tensor operator/(const Tensor& a, const Tensor& b) { return div(a, b); }
inline Tensor operator-(const Tensor& a) { return neg(a); }
inline Tensor operator*(const Tensor& a, double b) { return mul(a, b); }
inline Tensor operator*(double a, const Tensor& b) { return mul(b, a); }
inline Tensor operator+(const Tensor& a, double b) { return add(a, b); }
inline Tensor operator-(const Tensor& a, double b) { return add(a, -b); }

// Comparisons give i32 zeros and ones (no gradient by nature); where takes such a condition. Operands may be i32 too.
Tensor equal(const Tensor& a, const Tensor& b);
Tensor less(const Tensor& a, const Tensor& b);
Tensor less_equal(const Tensor& a, const Tensor& b);
Tensor greater(const Tensor& a, const Tensor& b);
Tensor greater_equal(const Tensor& a, const Tensor& b);
Tensor where(const Tensor& condition, const Tensor& a, const Tensor& b);

// ---- tier 0: reductions. No dims = all.
Tensor sum(const Tensor& x, std::vector<int> dims = {}, bool keep = false);
Tensor mean(const Tensor& x, std::vector<int> dims = {}, bool keep = false);
Tensor max(const Tensor& x, int dim = -1, bool keep = false);     ///< ties share the gradient equally, as JAX
Tensor var(const Tensor& x, int dim = -1, bool keep = false);     ///< population variance
Tensor argmax(const Tensor& x, int dim = -1, bool keep = false);  ///< i32, first of ties; no gradient by nature
Tensor cumsum(const Tensor& x, int dim = -1);
struct TopK { Tensor values, indices; };
TopK top_k(const Tensor& x, int k);                               ///< along the last dimension, largest first, ties by index
Tensor softmax(const Tensor& x, int dim = -1);
Tensor log_softmax(const Tensor& x, int dim = -1);
Tensor logsumexp(const Tensor& x, int dim = -1, bool keep = false);

// ---- tier 0: shapes and indices
Tensor reshape(const Tensor& x, const Shape& shape);  ///< a view when the layout allows, else one copy
Tensor permute(const Tensor& x, std::vector<int> order);
Tensor transpose(const Tensor& x, int a = -2, int b = -1);
Tensor slice(const Tensor& x, int dim, int64_t begin, int64_t end, int64_t step = 1);
Tensor concat(const std::vector<Tensor>& x, int dim);
std::vector<Tensor> split(const Tensor& x, const std::vector<int64_t>& sizes, int dim);  ///< one node, several outputs
Tensor expand(const Tensor& x, const Shape& shape);
Tensor take(const Tensor& x, const Tensor& index, int dim);                   ///< whole slices by index: [.., index.shape, ..]
Tensor gather(const Tensor& x, int dim, const Tensor& index);                 ///< y[..i..] = x[..index[..i..]..], ranks equal
Tensor scatter_add(const Tensor& x, int dim, const Tensor& index, const Tensor& source);  ///< x with source added at index

// ---- tier 0: products
Tensor matmul(const Tensor& a, const Tensor& b);  ///< [.., M, P] x [.., P, N], leading dimensions broadcast
Tensor einsum(const std::string& spec, const std::vector<Tensor>& operands);  ///< "bhqd,bhkd->bhqk"; spaces ignored

// ---- tier 1: fused
/// y[n, :] = table[ids[n], :] * scale. ids i32 [..], table [V, D] -> [.., D] in `compute` dtype. The gradient scatters rows into the table's
/// sink; no dense second table. `compute`: dtype of y (bf16 tables may feed f32 activations).
Tensor embedding(const Tensor& ids, const Tensor& table, double scale, DType compute);

/// y = x w^T: x [.., I], w [O, I] -> [.., O] in x's dtype. w may be bf16 under f32 activations.
Tensor linear(const Tensor& x, const Tensor& w);
/// Several outputs from one pass over x: y[i] = x w[i]^T (q, k and v; gate and up).
pool_vector<Tensor> linear(const Tensor& x, std::span<const Tensor> w);
/// y + scale * x w^T: y [.., O], x [.., I], w [O, I], all of one dtype, or w bf16 under f32. The product is added into the memory of
/// a dense y that is moved in and nobody else holds (the fresh result of another operation), so the sum costs no pass of its own;
/// otherwise into a copy. What an adapter adds to a projection.
Tensor add_linear(Tensor y, const Tensor& x, const Tensor& w, double scale = 1);

/// y = x * rsqrt(mean(x^2) + eps) * (1 + w) over the last dimension, in the accumulation type, one rounding. w [D].
Tensor rms_norm(const Tensor& x, const Tensor& w, double eps);
/// sum = x + h and norm = rms_norm(sum, w, eps), in one pass over memory and with the same bits. x and h of one shape and dtype.
struct SumNorm {
  Tensor sum, norm;
};
SumNorm add_rms_norm(const Tensor& x, const Tensor& h, const Tensor& w, double eps);
/// The same of sum = x + rms_norm(h, w_h, eps).
SumNorm norm_add_norm(const Tensor& x, const Tensor& h, const Tensor& w_h, const Tensor& w, double eps);
/// y = (x - mean) * rstd * w + b over the last dimension (SigLIP, GPT-2). w, b [D].
Tensor layer_norm(const Tensor& x, const Tensor& w, const Tensor& b, double eps);

/// Per head: rms_norm over Dh with weight w (absent: none), then rotation of the pairs (i, i + Dh/2) by the angle of each
/// row's position, taken from the model's table (tensor/rope_table.h). x [B, T, H, Dh], positions i32 [B, T] (negative: rotated
/// as 0). Norm first, as Gemma 3.
Tensor norm_rope(const Tensor& x, const Tensor& w, double eps, const Tensor& positions, const RopeTable& table);

/// Who sees whom: key j is visible to query i when k_positions[j] >= 0, k_positions[j] <= q_positions[i] (if causal),
/// q_positions[i] - k_positions[j] < window (if window > 0), and the segments agree (if given): equal, or the key's is the trunk of the
/// query's branch (tensor/kernels/attention.h). A negative query position sees nothing.
/// One mechanism for packing, padding on either side, ring caches and prefixes; slot order means nothing.
struct AttentionMask {
  Tensor q_positions;  ///< i32 [B, T]
  Tensor k_positions;  ///< i32 [B, S]; absent: q_positions
  Tensor q_segments;   ///< i32 [B, T]; absent: all one segment
  Tensor k_segments;   ///< i32 [B, S]; absent: q_segments
  int64_t window = 0;  ///< 0: unlimited; W: the last W positions including the query's own
  bool causal = true;
  bool plain = false;  ///< positions are known to be 0, 1, 2, ... in every row, of queries and keys: a library may then compute it
};
/// softmax(cap(scale * q k^T)) v without ever holding T x S. q [B, T, H, Dh], k and v [B, S, K, Dh], H a multiple of K (query head
/// h reads head h / (H/K)); -> [B, T, H, Dh]. cap 0: none. A row that sees no key gives zeros.
Tensor attention(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionMask& mask, double scale, double cap = 0);

/// x with each element kept with probability 1 - p and scaled by 1 / (1 - p), else 0. The mask is a function of the key and is drawn
/// again in backward, so a recomputed forward pass that is given the same key drops the same elements.
Tensor dropout(const Tensor& x, double p, Key key);

/// gelu_tanh(gate) * up.
Tensor geglu(const Tensor& gate, const Tensor& up);

struct CrossEntropyOptions {
  double cap = 0;              ///< final soft-cap of the logits (Gemma 2); 0: none
  double label_smoothing = 0;  ///< e: (1-e) nll + e mean_v(-logp)
  double z_loss = 0;           ///< adds z * lse^2
  int64_t block = 0;           ///< rows of logits held at a time; 0: as many as are fast and small (autograd/ops/linear_loss.h)
};
/// Sum over the rows with labels[n] >= 0 of weights[n] * loss(h[n] w^T, labels[n]); f32 scalar (f64 for f64). h [.., D], w [V, D]
/// (the tied table or a head; may be bf16 under f32 h; its gradient is f32), labels i32 [..], weights f32 or f64 [..] or absent
/// (all 1; they get no gradient). Rows with a negative label or weight 0 are dropped before the product, the others go by in
/// blocks: [N, V] is never held. A token-weighted mean passes 1 / tokens as weight, tokens counted over all micro-batches of a
/// step: then micro-batches of any cut add up to the big batch. Backward computes the logits again (4 products in all).
Tensor linear_cross_entropy(const Tensor& h, const Tensor& w, const Tensor& labels, const Tensor& weights = {},
                            const CrossEntropyOptions& options = {});
/// The same loss as the root of a training step: value, dh and dw in one pass over the logits (3 products), dw straight into w's
/// gradient, then backward from h. Returns the value. Under NoGrad, or when neither h nor w is traced: the value alone.
double linear_cross_entropy_backward(const Tensor& h, const Tensor& w, const Tensor& labels, const Tensor& weights = {},
                                     const CrossEntropyOptions& options = {});
/// log softmax(z[n])[labels[n]] of z = cap * tanh(h w^T / cap) / temperature: f32 (f64 for f64) of the labels' shape, 0 where
/// labels[n] < 0. What preference and policy losses are made of; rows whose gradient comes back 0 cost no product.
Tensor linear_log_probs(const Tensor& h, const Tensor& w, const Tensor& labels, double cap = 0, double temperature = 1);

}  // namespace facet
