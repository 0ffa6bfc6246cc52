#include "tensor/kernels/norm_rope.h"

#include "tensor/cpu/rows.h"
#include "tensor/cpu/simd.h"
#include "tensor/parallel.h"
#include "tensor/scratch.h"

namespace facet::cpu::FACET_TIER {
namespace {

struct Sizes {
  int64_t tokens, t, h, d, half, chunk;
  explicit Sizes(const View& x)
      : tokens(x.shape.dim[0] * x.shape.dim[1]), t(x.shape.dim[1]), h(x.shape.dim[2]), d(x.shape.dim[3]), half(d / 2) {
    chunk = h * d >= 8192 ? 1 : 8192 / (h * d > 0 ? h * d : 1);
  }
  /// Where head 0 of a token begins.
  int64_t at(const View& x, int64_t token) const { return token / t * x.stride.dim[0] + token % t * x.stride.dim[1]; }
  int64_t position(const View& positions, int64_t token) const {
    const int32_t p = positions.as<int32_t>()[token];
    return p > 0 ? p : 0;
  }
};

template <class T, bool norm>
void forward(const View& x, const View& w, double eps, const View& positions, const RopeRows& table, const Out& y,
             const Out& rstd) {
  using A = Acc<T>;
  const Sizes s(x);
  Scratch scratch(s.d * sizeof(A));
  A* const scale = scratch.as<A>();
  one_plus(w, s.d, scale);
  parallel_for(s.tokens, s.chunk, s.h * s.d, [&](int64_t begin, int64_t end) {
    for (int64_t token = begin; token < end; ++token) {
      const T* const xt = x.as<T>() + s.at(x, token);
      T* const yt = y.as<T>() + token * s.h * s.d;
      const A* const cosine = table.row<A>(s.position(positions, token));
      for (int64_t h = 0; h < s.h; ++h) {
        const T* const x1 = xt + h * x.stride.dim[2];
        T* const y1 = yt + h * s.d;
        A root = 1;
        if constexpr (norm) {
          Vec<T> sum = broadcast<T>(0);
          for_row<T>(s.d, [&](int64_t i, auto part) {
            const Vec<T> v = load(x1 + i, part);
            sum += v * v;
          });
          root = 1 / sqrt(reduce_add(sum) / static_cast<A>(s.d) + static_cast<A>(eps));
          if (rstd) rstd.as<A>()[token * s.h + h] = root;
        }
        const Vec<T> k = broadcast<T>(root);
        for_row<T>(s.half, [&](int64_t i, auto part) {
          const int64_t j = i + s.half;
          Vec<T> a = load(x1 + i, part), b = load(x1 + j, part);
          if constexpr (norm) {
            a *= k * load(scale + i, part);
            b *= k * load(scale + j, part);
          }
          const Vec<T> c = load(cosine + i, part), n = load(cosine + j, part);
          put(y1 + i, a * c - b * n, part, y.accumulate);
          put(y1 + j, b * c + a * n, part, y.accumulate);
        });
      }
    }
  });
}

template <class T, bool norm>
void backward(const View& dy, const View& x, const View& w, const View& rstd, const View& positions, const RopeRows& table,
              const Out& dx, const Out& dw) {
  using A = Acc<T>;
  const Sizes s(dy);
  const Partials blocks(s.tokens, s.chunk);
  Scratch scratch((s.d + (dw ? blocks.count * s.d : 0)) * sizeof(A));
  A* const scale = scratch.as<A>();
  A* const partial = scale + s.d;
  one_plus(w, s.d, scale);
  parallel_for(s.tokens, blocks.chunk, 2 * s.h * s.d, [&](int64_t begin, int64_t end) {
    A* const sums = partial + begin / blocks.chunk * s.d;
    if (dw)
      for (int64_t i = 0; i < s.d; ++i) sums[i] = 0;
    for (int64_t token = begin; token < end; ++token) {
      const A* const cosine = table.row<A>(s.position(positions, token));
      for (int64_t h = 0; h < s.h; ++h) {
        const T* const dy1 = dy.as<T>() + s.at(dy, token) + h * dy.stride.dim[2];
        T* const dx1 = dx ? dx.as<T>() + s.at(dx, token) + h * dx.stride.dim[2] : nullptr;
        // dn of element i and of its partner i + Dh/2
        const auto turned_back = [&](int64_t i, auto part, Vec<T>& a, Vec<T>& b) __attribute__((always_inline)) {
          const Vec<T> c = load(cosine + i, part), n = load(cosine + s.half + i, part);
          const Vec<T> u = load(dy1 + i, part), v = load(dy1 + s.half + i, part);
          a = u * c + v * n;
          b = v * c - u * n;
        };
        if constexpr (!norm) {
          for_row<T>(s.half, [&](int64_t i, auto part) {
            Vec<T> a, b;
            turned_back(i, part, a, b);
            put(dx1 + i, a, part, dx.accumulate);
            put(dx1 + s.half + i, b, part, dx.accumulate);
          });
        } else {
          const T* const x1 = x.as<T>() + s.at(x, token) + h * x.stride.dim[2];
          const A root = rstd.as<A>()[token * s.h + h];
          const Vec<T> k = broadcast<T>(root);
          Vec<T> dot = broadcast<T>(0);
          for_row<T>(s.half, [&](int64_t i, auto part) {
            const int64_t j = i + s.half;
            Vec<T> a, b;
            turned_back(i, part, a, b);
            const Vec<T> xa = load(x1 + i, part), xb = load(x1 + j, part);
            if (dw) {
              store(sums + i, load(sums + i, part) + a * (xa * k), part);
              store(sums + j, load(sums + j, part) + b * (xb * k), part);
            }
            dot += a * load(scale + i, part) * xa + b * load(scale + j, part) * xb;
          });
          if (!dx) continue;
          const Vec<T> mean = broadcast<T>(reduce_add(dot) / static_cast<A>(s.d) * root * root);
          for_row<T>(s.half, [&](int64_t i, auto part) {
            const int64_t j = i + s.half;
            Vec<T> a, b;
            turned_back(i, part, a, b);
            put(dx1 + i, (a * load(scale + i, part) - load(x1 + i, part) * mean) * k, part, dx.accumulate);
            put(dx1 + j, (b * load(scale + j, part) - load(x1 + j, part) * mean) * k, part, dx.accumulate);
          });
        }
      }
    }
  });
  if (!dw) return;
  A* const total = dw.as<A>();
  for_row<A>(s.d, [&](int64_t i, auto part) {
    Vec<A> sum = broadcast<A>(0);
    for (int64_t b = 0; b < blocks.count; ++b) sum += load(partial + b * s.d + i, part);
    put(total + i, sum, part, dw.accumulate);
  });
}

}  // namespace

void norm_rope(View x, View w, double eps, View positions, RopeRows table, Out y, Out rstd) {
  by_float_dtype(x.dtype, [&](auto t) {
    by_bool(static_cast<bool>(w), [&](auto norm) { forward<decltype(t), norm()>(x, w, eps, positions, table, y, rstd); });
  });
}
void norm_rope_backward(View dy, View x, View w, View rstd, View positions, RopeRows table, Out dx, Out dw) {
  by_float_dtype(dy.dtype, [&](auto t) {
    by_bool(static_cast<bool>(w), [&](auto norm) { backward<decltype(t), norm()>(dy, x, w, rstd, positions, table, dx, dw); });
  });
}

}  // namespace facet::cpu::FACET_TIER

FACET_TIERED(norm_rope)
FACET_TIERED(norm_rope_backward)
