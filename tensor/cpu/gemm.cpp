// The door: checks, dtypes and layouts; f64 by Eigen. The only file with Eigen products.
#define EIGEN_DONT_PARALLELIZE
#define EIGEN_STACK_ALLOCATION_LIMIT (2 << 20)  // the tiles below then need no heap for Eigen's own packing
#include "tensor/kernels/gemm.h"

#include <Eigen/Core>
#include <algorithm>

#include "tensor/cpu/gemm_packed.h"
#include "tensor/error.h"
#include "tensor/kernels/copy.h"
#include "tensor/parallel.h"
#include "tensor/pool_vector.h"
#include "tensor/tensor.h"

namespace facet::cpu {
namespace {

Out output(void* data, DType dtype, const Shape& shape) {
  Out o;
  o.data = data;
  o.dtype = dtype;
  o.shape = shape;
  o.stride = dense_strides(shape);
  return o;
}

void check(const View& a, const View& b, const Out& c) {
  const Shape &x = a.shape, &y = b.shape, &z = c.shape;
  if (x.rank != 2 || y.rank != 2 || z.rank != 2 || x[1] != y[0] || z[0] != x[0] || z[1] != y[1])
    fail(Kind::usage, "gemm: a {} times b {} into c {}: expected [M, P] x [P, N] -> [M, N]", to_string(x), to_string(y),
         to_string(z));
  auto f32_like = [](DType t) { return t == DType::f32 || t == DType::bf16; };
  const bool f64 = a.dtype == DType::f64 && b.dtype == DType::f64 && c.dtype == DType::f64;
  if (!f64 && !(f32_like(a.dtype) && f32_like(b.dtype) && f32_like(c.dtype)))
    fail(Kind::usage, "gemm: a {}, b {}, c {}: expected all f64, or each f32 or bf16", name_of(a.dtype), name_of(b.dtype),
         name_of(c.dtype));
}

// ---- f64

using Eigen::Dynamic;
template <int Order>
using Map = Eigen::Map<const Eigen::Matrix<double, Dynamic, Dynamic, Order>, 0, Eigen::OuterStride<>>;

// Calls f with an Eigen map of a window that has a unit stride.
template <class F>
void mapped(const double* p, int64_t rows, int64_t columns, int64_t row_step, int64_t column_step, F&& f) {
  if (column_step == 1) f(Map<Eigen::RowMajor>(p, rows, columns, Eigen::OuterStride<>(row_step)));
  else f(Map<Eigen::ColMajor>(p, rows, columns, Eigen::OuterStride<>(column_step)));
}

bool has_unit_stride(const View& v) { return v.stride[0] == 1 || v.stride[1] == 1; }

// Tiles of fixed size, each with all its terms in the order Eigen takes for that size.
void gemm_f64(const View& a, const View& b, const Out& c, double alpha) {
  constexpr int64_t tile_rows = 128, tile_columns = 192;
  const int64_t m = c.shape[0], n = c.shape[1], p = a.shape[1];
  const int64_t down = (m + tile_rows - 1) / tile_rows, across = (n + tile_columns - 1) / tile_columns;
  parallel_for(down * across, 1, std::min(m, tile_rows) * std::min(n, tile_columns) * p / 4, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const int64_t i = t / across * tile_rows, j = t % across * tile_columns;
      const int64_t rows = std::min(tile_rows, m - i), columns = std::min(tile_columns, n - j);
      Eigen::Map<Eigen::Matrix<double, Dynamic, Dynamic, Eigen::RowMajor>, 0, Eigen::Stride<Dynamic, Dynamic>> to(
          c.as<double>() + i * c.stride[0] + j * c.stride[1], rows, columns,
          Eigen::Stride<Dynamic, Dynamic>(c.stride[0], c.stride[1]));
      Scratch space(sizeof(double) * rows * columns);
      Eigen::Map<Eigen::Matrix<double, Dynamic, Dynamic, Eigen::RowMajor>> tile(space.as<double>(), rows, columns);
      mapped(a.as<double>() + i * a.stride[0], rows, p, a.stride[0], a.stride[1], [&](const auto& ma) {
        mapped(b.as<double>() + j * b.stride[1], p, columns, b.stride[0], b.stride[1],
               [&](const auto& mb) { tile.noalias() = ma * mb; });
      });
      if (c.accumulate) to += alpha * tile;
      else to = alpha * tile;
    }
  });
}

// ---- f32 and bf16

GemmOperand rows_of(const View& a) { return {a.data, a.dtype, a.shape[0], a.stride[0], a.stride[1], 0}; }
GemmOperand columns_of(const View& b) { return {b.data, b.dtype, b.shape[1], b.stride[1], b.stride[0], 0}; }

// What the packed product can write: f32 rows. Other destinations get f32 scratch, copied (rounded, added) at the end.
bool writable(const Out& c) { return c.dtype == DType::f32 && (c.stride[1] == 1 || c.shape[1] == 1); }

}  // namespace

void gemm(View a, View b, Out c, double alpha) {
  check(a, b, c);
  if (c.numel() == 0) return;
  if (a.shape[1] == 0) {
    if (!c.accumulate) fill(c, 0);
    return;
  }
  if (a.dtype == DType::f64) {
    if (!has_unit_stride(a) || !has_unit_stride(b)) {  // Eigen's fast paths want one
      View& strided = has_unit_stride(a) ? b : a;
      Scratch space(sizeof(double) * strided.numel());
      const Out dense = output(space.as<void>(), DType::f64, strided.shape);
      copy(strided, dense);
      strided = dense;
      return gemm(a, b, c, alpha);
    }
    return gemm_f64(a, b, c, alpha);
  }
  if (!writable(c) && c.dtype == DType::f32 && c.stride[0] == 1) {  // c^T = b^T a^T has unit columns
    Out t = c;
    static_cast<View&>(t) = transposed(c);
    return gemm(transposed(b), transposed(a), t, alpha);
  }
  if (!writable(c)) {
    Scratch space(sizeof(float) * c.numel());
    const Out f32 = output(space.as<void>(), DType::f32, c.shape);
    gemm(a, b, f32, alpha);
    return copy(f32, c);
  }
  const GemmGroup one{columns_of(b), c.as<float>(), c.stride[0], c.accumulate};
  gemm_packed(rows_of(a), a.shape[1], {&one, 1}, static_cast<float>(alpha));
}

void gemm_batched(View a, View b, Out c, double alpha) {
  const int lead = c.shape.rank - 2;
  if (a.shape.rank < 2 || b.shape.rank < 2 || lead < 0 || a.shape.rank > lead + 2 || b.shape.rank > lead + 2)
    fail(Kind::usage, "gemm_batched: a {} times b {} into c {}: expected [.., M, P] x [.., P, N] -> [.., M, N]",
         to_string(a.shape), to_string(b.shape), to_string(c.shape));
  // Strides of the leading dimensions, 0 where an operand repeats; neighbours that all three walk as one are merged.
  Shape count, sa, sb, sc;
  auto stride_of = [&](const View& v, int i) -> int64_t {
    const int j = i - (lead + 2 - v.shape.rank);
    if (j < 0 || (v.shape[j] == 1 && c.shape[i] != 1)) return 0;
    if (v.shape[j] != c.shape[i])
      fail(Kind::usage, "gemm_batched: leading dimensions of {} do not broadcast to those of c {}", to_string(v.shape),
           to_string(c.shape));
    return v.stride[j];
  };
  for (int i = 0; i < lead; ++i) {
    const int64_t n = c.shape[i], x = stride_of(a, i), y = stride_of(b, i), z = c.stride[i];
    if (n == 1) continue;
    const int l = count.rank - 1;
    if (l >= 0 && sa.dim[l] == x * n && sb.dim[l] == y * n && sc.dim[l] == z * n) {
      count.dim[l] *= n, sa.dim[l] = x, sb.dim[l] = y, sc.dim[l] = z;
    } else {
      count.push(n), sa.push(x), sb.push(y), sc.push(z);
    }
  }
  auto matrix = [](auto v) {
    const int r = v.shape.rank;
    v.shape = {v.shape[r - 2], v.shape[r - 1]};
    v.stride = {v.stride[r - 2], v.stride[r - 1]};
    return v;
  };
  View ma = matrix(a), mb = matrix(b);
  Out mc = matrix(c);
  // A batch of a against one b whose rows follow each other is one taller product.
  const int l = count.rank - 1;
  if (l >= 0 && sb.dim[l] == 0 && sa.dim[l] == ma.shape[0] * ma.stride[0] && sc.dim[l] == mc.shape[0] * mc.stride[0]) {
    ma.shape.dim[0] *= count.dim[l];
    mc.shape.dim[0] *= count.dim[l];
    --count.rank;
  }
  auto one = [&](int64_t index) {
    View x = ma, y = mb;
    Out z = mc;
    int64_t oa = 0, ob = 0, oc = 0;
    for (int i = count.rank - 1; i >= 0; --i) {
      const int64_t at = index % count.dim[i];
      index /= count.dim[i];
      oa += at * sa.dim[i], ob += at * sb.dim[i], oc += at * sc.dim[i];
    }
    x.data = static_cast<const char*>(x.data) + oa * size_of(x.dtype);
    y.data = static_cast<const char*>(y.data) + ob * size_of(y.dtype);
    z.data = static_cast<const char*>(z.data) + oc * size_of(z.dtype);
    gemm(x, y, z, alpha);
  };
  const int64_t batch = count.numel(), madds = mc.numel() * ma.shape[1];
  check(ma, mb, mc);
  if (batch < 4) {  // few: threads inside each product
    for (int64_t i = 0; i < batch; ++i) one(i);
  } else {
    parallel_for(batch, 1, madds / 16, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) one(i);
    });
  }
}

void linear(View x, std::span<const View> w, std::span<const Out> y) {
  pool_vector<GemmGroup> groups;
  groups.reserve(w.size());
  for (size_t i = 0; i < w.size(); ++i) {
    if (!y[i]) continue;
    const View b = transposed(w[i]);
    if (x.dtype != DType::f64) check(x, b, y[i]);
    if (x.dtype == DType::f64 || !writable(y[i]) || x.shape[1] == 0) gemm(x, b, y[i]);
    else if (y[i].numel()) groups.push_back({columns_of(b), y[i].as<float>(), y[i].stride[0], y[i].accumulate});
  }
  if (!groups.empty()) gemm_packed(rows_of(x), x.shape[1], groups, 1);
}

void linear_dx(std::span<const View> dy, std::span<const View> w, Out dx) {
  Out to = dx;
  Scratch space(dx.dtype == DType::bf16 ? sizeof(float) * dx.numel() : 1);
  if (dx.dtype == DType::bf16) to = output(space.as<void>(), DType::f32, dx.shape);
  for (size_t i = 0; i < dy.size(); ++i) {
    if (!dy[i]) continue;
    gemm(dy[i], w[i], to);
    to.accumulate = true;
  }
  if (!to.accumulate) fill(to, 0);
  if (dx.dtype == DType::bf16) copy(to, dx);
}

void linear_dw(View dy, View x, Out dw) { gemm(transposed(dy), x, dw); }

}  // namespace facet::cpu
