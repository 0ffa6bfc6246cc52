#include "tensor/cpu/map_rows.h"

#include <algorithm>

#include "tensor/cpu/strides.h"
#include "tensor/kernels/copy.h"
#include "tensor/parallel.h"
#include "tensor/profile.h"
#include "tensor/storage.h"

namespace facet::cpu {
namespace {

int64_t last(const Shape& s) { return s.rank ? s[-1] : 1; }
int64_t last_stride(const View& v) { return v.shape.rank && v.shape[-1] != 1 ? v.stride[-1] : 1; }
bool needs_copy(const View& v) { return last_stride(v) != 1; }

template <class V>
V row_of(const V& v, int64_t number) {
  V r = v;
  Shape shape = v.shape, stride = v.stride;
  if (shape.rank) --shape.rank, --stride.rank;
  r.data = v.template as<char>() + offset_of(number, shape, stride) * size_of(v.dtype);
  r.shape = {last(v.shape)};
  r.stride = {last_stride(v)};
  return r;
}
template <class V>
V dense_row(V v, void* buffer) {
  v.data = buffer;
  v.stride = {1};
  return v;
}

}  // namespace

void map_rows(RowsFn f, std::initializer_list<View> x, std::initializer_list<Out> y) {
  const KernelScope scope("row_wise");
  const View& first = *x.begin();
  const int64_t rows = first.shape.rank ? first.shape.rows() : 1, n = last(first.shape);
  if (rows == 0) return;
  size_t bytes = 0;  // of the copies that strided operands need
  const auto room = [&](const View& v) { return needs_copy(v) ? static_cast<size_t>((last(v.shape) * size_of(v.dtype) + 63) / 64 * 64) : 0; };
  for (const View& v : x) bytes += room(v);
  for (const Out& v : y) bytes += room(v);
  parallel_for(rows, std::max<int64_t>(1, 4096 / std::max<int64_t>(1, n)), 4 * n, [&](int64_t a, int64_t b) {
    const Scratch scratch(bytes);
    for (int64_t i = a; i < b; ++i) {
      Row row{{}, {}, n, y.size() ? last(y.begin()->shape) : 0, false};
      char* buffer = scratch.as<char>();
      int k = 0;
      for (const View& v : x) {
        View r = row_of(v, i);
        if (needs_copy(v)) {
          Out copied;
          static_cast<View&>(copied) = dense_row(r, buffer);
          cpu::copy(r, copied);
          r = copied;
          buffer += room(v);
        }
        row.x[k++] = r.data;
      }
      char* const outputs = buffer;
      k = 0;
      for (const Out& v : y) {
        const Out r = row_of(v, i);
        row.y[k++] = needs_copy(v) ? buffer : r.as<char>();
        buffer += room(v);
      }
      const bool strided = y.size() && needs_copy(*y.begin());
      row.accumulate = y.begin()->accumulate && !strided;  // a strided destination is added to when the row is copied back
      f(row);
      buffer = outputs;
      for (const Out& v : y) {
        if (needs_copy(v)) cpu::copy(dense_row(static_cast<View>(row_of(v, i)), buffer), row_of(v, i));
        buffer += room(v);
      }
    }
  });
}

}  // namespace facet::cpu
