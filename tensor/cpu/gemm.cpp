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
#include "tensor/profile.h"
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
  const KernelScope scope("gemm");
  check(a, b, c);
  if (c.numel() == 0) return;
  if (a.shape[1] == 0) {
    if (!c.accumulate) cpu::fill(c, 0);
    return;
  }
  if (a.dtype == DType::f64) {
    if (!has_unit_stride(a) || !has_unit_stride(b)) {  // Eigen's fast paths want one
      View& strided = has_unit_stride(a) ? b : a;
      Scratch space(sizeof(double) * strided.numel());
      const Out dense = output(space.as<void>(), DType::f64, strided.shape);
      cpu::copy(strided, dense);
      strided = dense;
      return cpu::gemm(a, b, c, alpha);
    }
    count_product(a.shape[0], a.shape[1], b.shape[1]);
    return gemm_f64(a, b, c, alpha);
  }
  if (!writable(c) && c.dtype == DType::f32 && c.stride[0] == 1) {  // c^T = b^T a^T has unit columns
    Out t = c;
    static_cast<View&>(t) = transposed(c);
    return cpu::gemm(transposed(b), transposed(a), t, alpha);
  }
  if (!writable(c)) {
    Scratch space(sizeof(float) * c.numel());
    const Out f32 = output(space.as<void>(), DType::f32, c.shape);
    cpu::gemm(a, b, f32, alpha);
    return cpu::copy(f32, c);
  }
  count_product(a.shape[0], a.shape[1], b.shape[1]);
  const GemmGroup one{columns_of(b), c.as<float>(), c.stride[0], c.accumulate};
  gemm_packed(rows_of(a), a.shape[1], {&one, 1}, static_cast<float>(alpha));
}

void linear(View x, std::span<const View> w, std::span<const Out> y) {
  const KernelScope scope("linear");
  pool_vector<GemmGroup> groups;
  groups.reserve(w.size());
  for (size_t i = 0; i < w.size(); ++i) {
    if (!y[i]) continue;
    const View b = transposed(w[i]);
    if (x.dtype != DType::f64) check(x, b, y[i]);
    if (x.dtype == DType::f64 || !writable(y[i]) || x.shape[1] == 0) cpu::gemm(x, b, y[i]);
    else if (y[i].numel()) {
      count_product(x.shape[0], x.shape[1], b.shape[1]);
      groups.push_back({columns_of(b), y[i].as<float>(), y[i].stride[0], y[i].accumulate});
    }
  }
  if (!groups.empty()) gemm_packed(rows_of(x), x.shape[1], groups, 1);
}

void linear_dx(std::span<const View> dy, std::span<const View> w, Out dx) {
  const KernelScope scope("linear_dx");
  Out to = dx;
  Scratch space(dx.dtype == DType::bf16 ? sizeof(float) * dx.numel() : 1);
  if (dx.dtype == DType::bf16) to = output(space.as<void>(), DType::f32, dx.shape);
  for (size_t i = 0; i < dy.size(); ++i) {
    if (!dy[i]) continue;
    cpu::gemm(dy[i], w[i], to);
    to.accumulate = true;
  }
  if (!to.accumulate) cpu::fill(to, 0);
  if (dx.dtype == DType::bf16) cpu::copy(to, dx);
}

void linear_dw(View dy, View x, Out dw) {
  const KernelScope scope("linear_dw");
  cpu::gemm(transposed(dy), x, dw);
}

}  // namespace facet::cpu
