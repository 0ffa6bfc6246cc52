#include "tensor/kernels/sum_to.h"

#include <algorithm>

#include "tensor/cpu/bf16.h"
#include "tensor/cpu/strides.h"
#include "tensor/cpu/sum_plan.h"
#include "tensor/cpu/sums.h"
#include "tensor/parallel.h"
#include "tensor/profile.h"
#include "tensor/storage.h"

namespace facet::cpu {
namespace {

constexpr int64_t strip = 1024;        // elements of one row that one partial sum covers
constexpr int64_t tile = 1024;         // columns summed side by side
constexpr int64_t fold = 32;           // partial sums added at a time

template <class A>
void emit(const Out& y, int64_t offset, int64_t stride, const A* v, int64_t n) {
  by_float_dtype(y.dtype, [&](auto t) {
    using T = decltype(t);
    T* p = y.as<T>() + offset;
    if (y.accumulate)
      for (int64_t i = 0; i < n; ++i) p[i * stride] = convert<T>(convert<A>(p[i * stride]) + v[i]);
    else
      for (int64_t i = 0; i < n; ++i) p[i * stride] = convert<T>(v[i]);
  });
}

// Each sum runs along memory: strips of its rows, several in flight.
template <class T>
void sum_rows(const SumPlan& p, const T* x, const Out& y, DType t) {
  using A = Acc<T>;
  const int64_t sums = p.kept.numel(), n = p.summed[-1], step = p.summed_x[-1], rows = p.summed.rows();
  const int64_t pieces = (n + strip - 1) / strip, group = std::max<int64_t>(1, strip / n);  // a long row | several short rows
  const int64_t strips = pieces > 1 ? rows * pieces : (rows + group - 1) / group;
  const auto strip_sum = [&](int64_t sum, int64_t s) {
    const T* base = x + offset_of(sum, p.kept, p.kept_x);
    A total = 0;
    if (pieces > 1) {
      const int64_t begin = s % pieces * strip;
      sum_run(t, base + offset_of(s / pieces * n, p.summed, p.summed_x) + begin * step, step, std::min(strip, n - begin), &total);
    } else {
      for (int64_t r = s * group; r < std::min(rows, (s + 1) * group); ++r)
        sum_run(t, base + offset_of(r * n, p.summed, p.summed_x), step, n, &total);
    }
    return total;
  };
  const int64_t cost = std::min(n * rows, strip), chunk = std::max<int64_t>(1, 4096 / cost);
  if (strips == 1) {
    parallel_for(sums, chunk, cost, [&](int64_t a, int64_t b) {
      for (int64_t k = a; k < b; ++k) {
        const A total = strip_sum(k, 0);
        emit(y, offset_of(k, p.kept, p.kept_y), 0, &total, 1);
      }
    });
    return;
  }
  const Scratch scratch(static_cast<size_t>(sums * strips) * sizeof(A));
  A* partial = scratch.as<A>();
  parallel_for(sums * strips, chunk, cost, [&](int64_t a, int64_t b) {
    for (int64_t i = a; i < b; ++i) partial[i] = strip_sum(i / strips, i % strips);
  });
  for (int64_t k = 0; k < sums; ++k) {
    A total = 0;
    sum_run(acc_dtype(t), partial + k * strips, 1, strips, &total);
    emit(y, offset_of(k, p.kept, p.kept_y), 0, &total, 1);
  }
}

// Neighbours in memory belong to different sums: tiles of columns, strips of rows.
template <class T>
void sum_tiles(const SumPlan& p, const T* x, const Out& y, DType t) {
  using A = Acc<T>;
  const int64_t n = p.kept[-1], step = p.kept_x[-1], outer = p.kept.rows(), rows = p.summed.numel(), run = p.summed[-1];
  const int64_t height = std::clamp<int64_t>(32768 / n, 64, 256);
  const int64_t strips = (rows + height - 1) / height, tiles = (n + tile - 1) / tile;
  const auto add_strip = [&](int64_t o, int64_t s, int64_t column, int64_t width, A* acc) {
    const T* base = x + offset_of(o * n, p.kept, p.kept_x) + column * step;
    const int64_t end = std::min(rows, (s + 1) * height);
    for (int64_t r = s * height; r < end;) {
      const int64_t count = std::min(end - r, run - r % run);
      sum_columns(t, base + offset_of(r, p.summed, p.summed_x), p.summed_x[-1], count, step, width, acc);
      r += count;
    }
  };
  const Scratch scratch(strips == 1 ? 0 : static_cast<size_t>(outer * strips * n) * sizeof(A));
  A* partial = scratch.as<A>();
  if (strips > 1) {
    parallel_for(outer * strips * tiles, 1, std::min(rows, height) * std::min(n, tile), [&](int64_t a, int64_t b) {
      for (int64_t i = a; i < b; ++i) {
        const int64_t column = i % tiles * tile, width = std::min(tile, n - column), os = i / tiles;
        A* acc = partial + os * n + column;
        std::fill_n(acc, width, A{});
        add_strip(os / strips, os % strips, column, width, acc);
      }
    });
  }
  parallel_for(outer * tiles, 1, std::min(rows, height) * std::min(n, tile), [&](int64_t a, int64_t b) {
    A acc[tile];
    for (int64_t i = a; i < b; ++i) {
      const int64_t column = i % tiles * tile, width = std::min(tile, n - column), o = i / tiles;
      std::fill_n(acc, width, A{});
      if (strips == 1) add_strip(o, 0, column, width, acc);
      // Partial sums are folded 32 at a time, in place: the error grows with the depth of the tree, not with its leaves.
      A* rows_left = partial + o * strips * n + column;
      for (int64_t left = strips; left > 1; left = (left + fold - 1) / fold)
        for (int64_t g = 0; g * fold < left; ++g) {
          std::fill_n(acc, width, A{});
          sum_columns(acc_dtype(t), rows_left + g * fold * n, n, std::min(fold, left - g * fold), 1, width, acc);
          std::copy_n(acc, width, rows_left + g * n);
        }
      emit(y, offset_of(o * n, p.kept, p.kept_y) + column * p.kept_y[-1], p.kept_y[-1], acc, width);
    }
  });
}

}  // namespace

void sum_to(View x, Out y) {
  const KernelScope scope("sum_to");
  if (!y || y.numel() == 0) return;
  if (x.numel() == 0) {  // sums of nothing
    const double zero = 0;
    for (int64_t k = 0; k < y.numel(); ++k) emit(y, offset_of(k, y.shape, y.stride), 0, &zero, 1);
    return;
  }
  const SumPlan p = make_sum_plan(x, y);
  by_float_dtype(x.dtype, [&](auto e) {
    using T = decltype(e);
    if (p.inner_summed) sum_rows(p, x.as<T>(), y, x.dtype);
    else sum_tiles(p, x.as<T>(), y, x.dtype);
  });
}

}  // namespace facet::cpu
