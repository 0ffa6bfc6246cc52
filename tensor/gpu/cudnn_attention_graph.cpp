#include "tensor/gpu/cudnn_attention_graph.h"

#ifdef FACET_HAS_CUDNN
#include <limits>

namespace facet::gpu::cudnn {
namespace {

constexpr float minus_infinity = -std::numeric_limits<float>::infinity();

/// [B, T, H, Dh] in the library's order [B, H, T, Dh]; with `turned` [B, H, Dh, T]. Where there is one, its step does not matter to us but
/// must be sensible to the library.
struct Layout {
  Dims sizes, strides;
  Layout(const View& v, bool turned) {
    const Shape &n = v.shape, &s = v.stride;
    sizes = {n[0], n[2], n[1], n[3]};
    strides = {s[0], s[2], s[1], s[3]};
    if (n[2] == 1) strides[1] = n[3];
    if (n[1] == 1) strides[2] = n[2] * n[3];
    if (n[0] == 1) strides[0] = n[1] * strides[2];
    if (turned) std::swap(sizes[2], sizes[3]), std::swap(strides[2], strides[3]);
  }
};
int window(Graph& g, const View& v, bool turned = false) {
  const Layout l(v, turned);
  return g.tensor(l.sizes, l.strides, CUDNN_DATA_BFLOAT16);
}

/// c = scale q k^T with what a query does not see at -inf; `shift` (lse), if given, is subtracted before that.
int scores(Graph& g, const AttentionInputs& x, int q, int k, const Dims& square, int shift) {
  int c = g.between(square);
  g.matmul(q, k, c);
  const auto then = [&](cudnnPointwiseMode_t mode, std::vector<int> more) {
    more.insert(more.begin(), c);
    c = g.between(square);
    g.pointwise(mode, more, c);
  };
  then(CUDNN_POINTWISE_MUL, {g.scalar(static_cast<float>(x.scale))});
  if (shift) then(CUDNN_POINTWISE_SUB, {shift});

  const auto index = [&](int axis) {
    const int i = g.between(square, CUDNN_DATA_INT32);
    g.pointwise(CUDNN_POINTWISE_GEN_INDEX, {c}, i, CUDNN_DATA_FLOAT, axis);
    return i;
  };
  const auto keep_where = [&](cudnnPointwiseMode_t comparison, int a, int b) {
    const int seen = g.between(square, CUDNN_DATA_BOOLEAN);
    g.pointwise(comparison, {a, b}, seen, CUDNN_DATA_BOOLEAN);
    then(CUDNN_POINTWISE_BINARY_SELECT, {g.scalar(minus_infinity), seen});
  };
  {
    const int row = index(2), column = index(3);
    keep_where(CUDNN_POINTWISE_CMP_GE, row, column);
  }
  if (x.window > 0) {
    const int row = index(2), column = index(3), reach = g.between(square);
    g.pointwise(CUDNN_POINTWISE_ADD, {column, g.scalar(static_cast<float>(x.window))}, reach);
    keep_where(CUDNN_POINTWISE_CMP_GT, reach, row);
  }
  return c;
}

struct Sizes {
  int64_t B, T, S, H, K, D;
  explicit Sizes(const AttentionInputs& x)
      : B(x.q.shape[0]), T(x.q.shape[1]), S(x.k.shape[1]), H(x.q.shape[2]), K(x.k.shape[2]), D(x.q.shape[3]) {}
  Dims square() const { return {B, H, T, S}; }
  Dims column() const { return {B, H, T, 1}; }
};

}  // namespace

ForwardGraph forward_graph(const AttentionInputs& x, const View& y, const View& lse) {
  const Sizes n(x);
  ForwardGraph f;
  Graph& g = f.graph;
  f.q = window(g, x.q);
  f.k = window(g, x.k, true);
  f.v = window(g, x.v);
  f.y = window(g, y);
  const int c = scores(g, x, f.q, f.k, n.square(), 0);

  const int most = g.between(n.column()), above = g.between(n.square()), e = g.between(n.square()), sum = g.between(n.column());
  g.reduce(CUDNN_REDUCE_TENSOR_MAX, c, most);
  g.pointwise(CUDNN_POINTWISE_SUB, {c, most}, above);
  g.pointwise(CUDNN_POINTWISE_EXP, {above}, e);
  g.reduce(CUDNN_REDUCE_TENSOR_ADD, e, sum);
  if (lse) {
    const int log = g.between(n.column());
    f.lse = g.tensor(n.column(), dense(n.column()), CUDNN_DATA_FLOAT);
    g.pointwise(CUDNN_POINTWISE_LOG, {sum}, log);
    g.pointwise(CUDNN_POINTWISE_ADD, {most, log}, f.lse);
  }
  const int p = g.between(n.square(), CUDNN_DATA_BFLOAT16);
  g.pointwise(CUDNN_POINTWISE_DIV, {e, sum}, p);
  g.matmul(p, f.v, f.y);
  g.finalize();
  return f;
}

BackwardGraph backward_graph(const AttentionInputs& x, const View& y, const View&, const View& dy, const View& dq, const View& dk, const View& dv,
                             bool deterministic) {
  const Sizes n(x);
  BackwardGraph f;
  Graph& g = f.graph;
  f.q = window(g, x.q);
  f.k = window(g, x.k, true);
  f.v = window(g, x.v, true);
  f.y = window(g, y);
  f.dy = window(g, dy);
  f.lse = g.tensor(n.column(), dense(n.column()), CUDNN_DATA_FLOAT);
  f.dq = window(g, dq);
  f.dk = window(g, dk);
  f.dv = window(g, dv);

  // delta passes through memory; the factor one stands where dropout would scale
  const Dims rows = {n.B, n.H, n.T, n.D};
  const int product = g.between(rows), sum = g.between(n.column());
  f.delta = g.tensor(n.column(), dense(n.column()), CUDNN_DATA_FLOAT);
  g.pointwise(CUDNN_POINTWISE_MUL, {f.dy, f.y}, product);
  g.reduce(CUDNN_REDUCE_TENSOR_ADD, product, sum);
  g.pointwise(CUDNN_POINTWISE_MUL, {sum, g.scalar(1)}, f.delta);

  const int c = scores(g, x, f.q, f.k, n.square(), f.lse);
  const int p = g.between(n.square());
  g.pointwise(CUDNN_POINTWISE_EXP, {c}, p);

  // a^T b [S, Dh] per query head, then summed over the query heads that share a key head
  const auto turned_product = [&](int a, int b, int out) {
    const int a_turned = g.between({n.B, n.H, n.S, n.T}, CUDNN_DATA_BFLOAT16, {n.H * n.T * n.S, n.T * n.S, 1, n.S});
    g.reshape(a, a_turned);
    if (n.H == n.K) return g.matmul(a_turned, b, out);
    const int per_head = g.between({n.B, n.H, n.S, n.D}, CUDNN_DATA_BFLOAT16);
    g.matmul(a_turned, b, per_head);
    g.reduce(CUDNN_REDUCE_TENSOR_ADD, per_head, out);
  };
  turned_product(p, f.dy, f.dv);

  const int dp = g.between(n.square()), centred = g.between(n.square()), weighted = g.between(n.square()), ds = g.between(n.square());
  g.matmul(f.dy, f.v, dp);
  g.pointwise(CUDNN_POINTWISE_SUB, {dp, f.delta}, centred);
  g.pointwise(CUDNN_POINTWISE_MUL, {centred, p}, weighted);
  g.pointwise(CUDNN_POINTWISE_MUL, {weighted, g.scalar(static_cast<float>(x.scale))}, ds);
  turned_product(ds, f.q, f.dk);

  const Layout key(x.k, false);
  const int k = g.between(key.sizes, CUDNN_DATA_BFLOAT16, key.strides);
  g.reshape(f.k, k);
  if (deterministic) {
    g.matmul(ds, k, f.dq);
  } else {
    f.dq_sum = g.tensor(rows, dense(rows), CUDNN_DATA_FLOAT);
    g.matmul(ds, k, f.dq_sum);
    g.pointwise(CUDNN_POINTWISE_IDENTITY, {f.dq_sum}, f.dq);
  }
  g.finalize();
  return f;
}

}  // namespace facet::gpu::cudnn
#endif
