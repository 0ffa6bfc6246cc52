#include "tensor/gpu/product.h"

#include <algorithm>
#include <utility>

#include "tensor/error.h"
#include "tensor/tensor.h"

namespace facet::gpu {

void Loops::push(int64_t n, int64_t step_a, int64_t step_b, int64_t step_c) {
  if (n == 1) return;
  const int l = count.rank - 1;
  if (l >= 0 && a.dim[l] == step_a * n && b.dim[l] == step_b * n && c.dim[l] == step_c * n) {
    count.dim[l] *= n, a.dim[l] = step_a, b.dim[l] = step_b, c.dim[l] = step_c;
  } else {
    count.push(n), a.push(step_a), b.push(step_b), c.push(step_c);
  }
}

namespace {

Factor matrix(const View& v) {
  const int r = v.shape.rank;
  return {v.data, v.dtype, v.stride[r - 2], v.stride[r - 1]};
}

// The innermost loop as more rows of a and c, when b is the same in all its turns.
void rows_from_loop(Product& g) {
  Loops& k = g.kept;
  const int l = k.count.rank - 1;
  if (l < 0 || k.b.dim[l] != 0 || k.a.dim[l] != g.m * g.a.row || k.c.dim[l] != g.m * g.c.row) return;
  g.m *= k.count.dim[l];
  --k.count.rank, --k.a.rank, --k.b.rank, --k.c.rank;
}

// The innermost sum as a longer one.
void terms_from_loop(Product& g) {
  Loops& s = g.summed;
  const int l = s.count.rank - 1;
  if (l < 0 || s.a.dim[l] != g.p * g.a.column || s.b.dim[l] != g.p * g.b.row) return;
  g.p *= s.count.dim[l];
  --s.count.rank, --s.a.rank, --s.b.rank, --s.c.rank;
}

}  // namespace

Product transposed(const Product& g) {
  Product t = g;
  std::swap(t.m, t.n);
  t.a = g.b, t.b = g.a;
  std::swap(t.kept.a, t.kept.b);
  std::swap(t.summed.a, t.summed.b);
  for (Factor* f : {&t.a, &t.b, &t.c}) std::swap(f->row, f->column);
  return t;
}

Product product_of(const char* op, const View& a, const View& b, const Out& c, double alpha) {
  auto wrong = [&] {
    fail(Kind::usage, "{}: a {} times b {} into c {}: expected [.., M, P] x [.., P, N] -> [.., M, N] with leading dimensions that "
         "broadcast", op, to_string(a.shape), to_string(b.shape), to_string(c.shape));
  };
  if (std::min({a.shape.rank, b.shape.rank, c.shape.rank}) < 2) wrong();
  if (a.shape[-1] != b.shape[-2] || c.shape[-2] != a.shape[-2] || c.shape[-1] != b.shape[-1]) wrong();
  for (const View* v : {&a, &b, static_cast<const View*>(&c)})
    if (v->dtype != DType::f32 && v->dtype != DType::bf16)
      fail(Kind::usage, "{}: a {}, b {}, c {}: on the GPU expected f32 or bf16", op, name_of(a.dtype), name_of(b.dtype), name_of(c.dtype));

  Product g;
  g.m = c.shape[-2], g.n = c.shape[-1], g.p = a.shape[-1];
  g.a = matrix(a), g.b = matrix(b), g.c = matrix(c);
  g.alpha = static_cast<float>(alpha);
  g.accumulate = c.accumulate;
  const int rank = std::max({a.shape.rank, b.shape.rank, c.shape.rank});
  for (int i = 0; i < rank - 2; ++i) {
    auto size = [&](const View& v) { return i < rank - v.shape.rank ? 1 : v.shape.dim[i - (rank - v.shape.rank)]; };
    auto step = [&](const View& v) { return size(v) == 1 ? 0 : v.stride.dim[i - (rank - v.shape.rank)]; };
    int64_t n = 1;
    for (int64_t s : {size(a), size(b), size(c)}) {
      if (s != 1 && n != 1 && s != n) wrong();
      if (s != 1) n = s;
    }
    (size(c) == n ? g.kept : g.summed).push(n, step(a), step(b), step(c));
  }
  rows_from_loop(g);
  g = transposed(g);
  rows_from_loop(g);
  g = transposed(g);
  terms_from_loop(g);
  return g;
}

}  // namespace facet::gpu
