// Batches of products: leading dimensions become loops, or longer rows, or a longer sum.
#include <algorithm>

#include "tensor/error.h"
#include "tensor/kernels/copy.h"
#include "tensor/kernels/gemm.h"
#include "tensor/parallel.h"
#include "tensor/profile.h"
#include "tensor/tensor.h"

namespace facet::cpu {
namespace {

// Leading dimensions with the strides of a, b and c, neighbours merged that all three walk as one.
struct Loops {
  Shape count, a, b, c;

  void push(int64_t n, int64_t step_a, int64_t step_b, int64_t step_c) {
    const int l = count.rank - 1;
    if (n == 1) return;
    if (l >= 0 && a.dim[l] == step_a * n && b.dim[l] == step_b * n && c.dim[l] == step_c * n) {
      count.dim[l] *= n, a.dim[l] = step_a, b.dim[l] = step_b, c.dim[l] = step_c;
    } else {
      count.push(n), a.push(step_a), b.push(step_b), c.push(step_c);
    }
  }
  void move(int64_t index, View& x, View& y, Out& z) const {
    auto by = [](View& v, int64_t elements) { v.data = static_cast<const char*>(v.data) + elements * size_of(v.dtype); };
    for (int i = count.rank - 1; i >= 0; --i) {
      const int64_t at = index % count.dim[i];
      index /= count.dim[i];
      by(x, at * a.dim[i]), by(y, at * b.dim[i]), by(z, at * c.dim[i]);
    }
  }
};

template <class V>
V matrix(V v) {
  const int r = v.shape.rank;
  v.shape = {v.shape[r - 2], v.shape[r - 1]};
  v.stride = {v.stride[r - 2], v.stride[r - 1]};
  return v;
}

}  // namespace

void gemm_batched(View a, View b, Out c, double alpha) {
  const KernelScope scope("gemm_batched");
  auto wrong = [&] {
    fail(Kind::usage, "gemm_batched: a {} times b {} into c {}: expected [.., M, P] x [.., P, N] -> [.., M, N] with leading "
         "dimensions that broadcast", to_string(a.shape), to_string(b.shape), to_string(c.shape));
  };
  const int rank = std::max({a.shape.rank, b.shape.rank, c.shape.rank});
  if (std::min({a.shape.rank, b.shape.rank, c.shape.rank}) < 2) wrong();
  View ma = matrix(a), mb = matrix(b);
  Out mc = matrix(c);
  Loops kept, summed;
  for (int i = 0; i < rank - 2; ++i) {
    auto size = [&](const View& v) { return i < rank - v.shape.rank ? 1 : v.shape.dim[i - (rank - v.shape.rank)]; };
    auto step = [&](const View& v) { return size(v) == 1 ? 0 : v.stride.dim[i - (rank - v.shape.rank)]; };
    int64_t n = 1;
    for (int64_t s : {size(a), size(b), size(c)}) {
      if (s != 1 && n != 1 && s != n) wrong();
      if (s != 1) n = s;
    }
    (size(c) == n ? kept : summed).push(n, step(a), step(b), step(c));
  }
  if (mc.numel() == 0 || kept.count.numel() == 0) return;
  if (summed.count.numel() == 0) ma.shape.dim[1] = mb.shape.dim[0] = 0, summed = {};  // a sum of nothing
  if (summed.count.rank && c.dtype == DType::bf16) {  // one rounding
    const Tensor sum = Tensor::empty(c.shape);
    cpu::gemm_batched(a, b, sum.out(), alpha);
    return cpu::copy(sum.view(), c);
  }

  // One b for a batch of a whose rows follow each other: a taller product.
  if (const int l = kept.count.rank - 1; l >= 0 && kept.b.dim[l] == 0 && kept.a.dim[l] == ma.shape[0] * ma.stride[0] &&
                                         kept.c.dim[l] == mc.shape[0] * mc.stride[0]) {
    ma.shape.dim[0] *= kept.count.dim[l];
    mc.shape.dim[0] *= kept.count.dim[l];
    --kept.count.rank;
  }
  // A sum over a batch whose steps of P follow each other: a longer sum.
  if (const int l = summed.count.rank - 1; l >= 0 && summed.a.dim[l] == ma.shape[1] * ma.stride[1] &&
                                           summed.b.dim[l] == mb.shape[0] * mb.stride[0]) {
    ma.shape.dim[1] *= summed.count.dim[l];
    mb.shape.dim[0] *= summed.count.dim[l];
    --summed.count.rank;
  }

  auto one = [&](int64_t index) {
    View x = ma, y = mb;
    Out z = mc;
    kept.move(index, x, y, z);
    for (int64_t s = 0; s < summed.count.numel(); ++s, z.accumulate = true) {
      View xs = x, ys = y;
      summed.move(s, xs, ys, z);
      cpu::gemm(xs, ys, z, alpha);
    }
  };
  const int64_t batch = kept.count.numel();
  if (batch < 4) {  // few: threads inside each product
    for (int64_t i = 0; i < batch; ++i) one(i);
  } else {
    parallel_for(batch, 1, mc.numel() * ma.shape[1] * summed.count.numel() / 16, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) one(i);
    });
  }
}

}  // namespace facet::cpu
