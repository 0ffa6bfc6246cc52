#include "tensor/kernels/gather.h"

#include <algorithm>
#include <cstring>

#include "tensor/cpu/bf16.h"
#include "tensor/cpu/strides.h"
#include "tensor/parallel.h"
#include "tensor/profile.h"

namespace facet::cpu {
namespace {

// Positions of index, and of the window that is addressed through it, for all dimensions but the last and (where the window is
// concerned) `dim`.
struct Walk {
  Shape outer, outer_index, outer_window, outer_plain;  // strides over all dimensions but the last
  int64_t n, index_step, window_step, plain_step, jump;  // along the last; jump: window's step in `dim`

  Walk(const View& index, const View& window, const View& plain, int dim) {
    outer = index.shape;
    outer_index = index.stride;
    outer_window = window.stride;
    outer_plain = plain.stride;
    jump = window.stride.dim[dim];
    outer_window.dim[dim] = 0;
    const int last = outer.rank - 1;
    n = outer.dim[last];
    index_step = outer_index.dim[last];
    window_step = outer_window.dim[last];
    plain_step = outer_plain.dim[last];
    for (Shape* s : {&outer, &outer_index, &outer_window, &outer_plain}) s->rank = last;
  }
  // One index serves a whole row: rows move as rows.
  bool slices(int dim) const { return index_step == 0 && dim != outer.rank; }
};

template <class T>
void gather_as(const View& x, int dim, const View& index, const Out& y) {
  const Walk w(index, x, y, dim);
  const T* px = x.as<T>();
  T* py = y.as<T>();
  const int32_t* ids = index.as<int32_t>();
  parallel_for(w.outer.numel(), std::max<int64_t>(1, 4096 / w.n), w.n, [&](int64_t a, int64_t b) {
    for (int64_t r = a; r < b; ++r) {
      const int32_t* id = ids + offset_of(r, w.outer, w.outer_index);
      const T* from = px + offset_of(r, w.outer, w.outer_window);
      T* to = py + offset_of(r, w.outer, w.outer_plain);
      if (w.slices(dim) && w.window_step == 1 && w.plain_step == 1)
        std::memcpy(to, from + *id * w.jump, static_cast<size_t>(w.n) * sizeof(T));
      else
        for (int64_t j = 0; j < w.n; ++j) to[j * w.plain_step] = from[j * w.window_step + id[j * w.index_step] * w.jump];
    }
  });
}

template <class T, class Y>
void scatter_add_as(const View& source, int dim, const View& index, const Out& y) {
  using A = std::conditional_t<std::is_same_v<T, double> || std::is_same_v<Y, double>, double, float>;
  Walk w(index, y, source, dim);
  const T* ps = source.as<T>();
  Y* py = y.as<Y>();
  const int32_t* ids = index.as<int32_t>();
  const auto add = [](Y& to, T v) { to = convert<Y>(convert<A>(to) + convert<A>(v)); };
  // Work that may meet in one element of y stays in one piece and in index order: everything along `dim`.
  int64_t along = 1, along_index = 0, along_plain = 0;
  const int64_t columns = 256;
  if (dim != w.outer.rank) {
    along = w.outer.dim[dim];
    along_index = w.outer_index.dim[dim];
    along_plain = w.outer_plain.dim[dim];
    w.outer.dim[dim] = 1;
  }
  const int64_t tiles = dim == w.outer.rank ? 1 : (w.n + columns - 1) / columns;
  parallel_for(w.outer.numel() * tiles, std::max<int64_t>(1, 4096 / (along * std::min(w.n, columns))), along * std::min(w.n, columns),
               [&](int64_t a, int64_t b) {
    for (int64_t i = a; i < b; ++i) {
      const int64_t r = i / tiles, begin = i % tiles * columns, end = tiles == 1 ? w.n : std::min(w.n, begin + columns);
      for (int64_t k = 0; k < along; ++k) {
        const int32_t* id = ids + offset_of(r, w.outer, w.outer_index) + k * along_index;
        const T* from = ps + offset_of(r, w.outer, w.outer_plain) + k * along_plain;
        Y* to = py + offset_of(r, w.outer, w.outer_window);
        for (int64_t j = begin; j < end; ++j) add(to[j * w.window_step + id[j * w.index_step] * w.jump], from[j * w.plain_step]);
      }
    }
  });
}

}  // namespace

void gather(View x, int dim, View index, Out y) {
  const KernelScope scope("gather");
  if (y.numel() == 0) return;
  switch (size_of(x.dtype)) {
    case 8: return gather_as<uint64_t>(x, dim, index, y);
    case 4: return gather_as<uint32_t>(x, dim, index, y);
    default: return gather_as<uint16_t>(x, dim, index, y);
  }
}

void scatter_add(View source, int dim, View index, Out y) {
  const KernelScope scope("scatter_add");
  if (!y || source.numel() == 0) return;
  by_float_dtype(source.dtype, [&](auto s) {
    by_float_dtype(y.dtype, [&](auto t) { scatter_add_as<decltype(s), decltype(t)>(source, dim, index, y); });
  });
}

}  // namespace facet::cpu
