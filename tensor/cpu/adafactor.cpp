#include "tensor/kernels/adafactor.h"

#include "tensor/cpu/simd.h"
#include "tensor/parallel.h"
#include "tensor/scratch.h"

namespace facet::cpu::FACET_TIER {
namespace {

// A parameter in blocks of rows, at most 64 of them and a function of its shape alone: each leaves partial sums, which are added in order.
// Without factors a parameter is one column of "rows" of `width_of_flat` elements, the last one shorter.
constexpr int64_t most_blocks = 64;
constexpr int64_t width_of_flat = 1024;

// P: the stored parameter, A: everything that is computed.
template <class P, class A>
struct Adafactor {
  P* p;
  A* master;
  const A* g;
  A *rows, *cols, *v;
  int64_t n, height, width;
  AdafactorConstants<A> step;
  A row_mean = 0;
  const A* col_factor = nullptr;  // 1 / sqrt(cols)

  int64_t rows_each() const { return (height + most_blocks - 1) / most_blocks; }
  int64_t blocks() const { return (height + rows_each() - 1) / rows_each(); }
  /// Calls f(block, row, first element, elements) for every row.
  template <class F>
  void each_row(int cost, F&& f) const {
    parallel_for(blocks(), 1, rows_each() * width * cost, [&](int64_t first, int64_t last) {
      for (int64_t b = first; b < last; ++b) {
        const int64_t end = (b + 1) * rows_each() < height ? (b + 1) * rows_each() : height;
        for (int64_t r = b * rows_each(); r < end; ++r) f(b, r, r * width, n - r * width < width ? n - r * width : width);
      }
    });
  }

  void row_and_column_moments() {
    const Scratch scratch(static_cast<size_t>(blocks() * width) * sizeof(A));
    A* const partial = scratch.as<A>();
    __builtin_memset(partial, 0, static_cast<size_t>(blocks() * width) * sizeof(A));
    const Vec<A> scale = broadcast<A>(step.grad_scale);
    each_row(3, [&](int64_t b, int64_t r, int64_t at, int64_t) {
      A* const sums = partial + b * width;
      Vec<A> sum{};
      for_row<A>(width, [&](int64_t c, auto part) {
        const Vec<A> d = load(g + at + c, part) * scale, s = d * d;
        store(sums + c, load(sums + c, part) + s, part);
        sum += s;
      });
      rows[r] = step.kept * rows[r] + step.added * (reduce_add(sum) / static_cast<A>(width) + step.eps);
    });
    for (int64_t c = 0; c < width; ++c) {
      double sum = 0;
      for (int64_t b = 0; b < blocks(); ++b) sum += static_cast<double>(partial[b * width + c]);
      cols[c] = step.kept * cols[c] + step.added * (static_cast<A>(sum / static_cast<double>(height)) + step.eps);
    }
    double sum = 0;
    for (int64_t r = 0; r < height; ++r) sum += static_cast<double>(rows[r]);
    row_mean = static_cast<A>(sum / static_cast<double>(height));
  }
  A row_factor(int64_t r) const { return rows ? 1 / math::sqrt(rows[r] / row_mean) : 1; }
  template <class Part>
  Vec<A> u(A factor, int64_t at, int64_t c, Part part) const {
    const Vec<A> d = load(g + at + c, part) * broadcast<A>(step.grad_scale);
    if (rows) return d * broadcast<A>(factor) * load(col_factor + c, part);
    const Vec<A> root = sqrt(load(v + at + c, part));
    return d / (root > broadcast<A>(0) ? root : broadcast<A>(1));  // beyond the end of a row v is 0 and so is d
  }
  template <class Part>
  Vec<A> value(int64_t i, Part part) const {
    if (master) return load(master + i, part);
    return load(p + i, part);
  }

  void run() {
    if (rows) row_and_column_moments();
    const Scratch factors(static_cast<size_t>(rows ? width : 0) * sizeof(A));
    for (int64_t c = 0; rows && c < width; ++c) factors.as<A>()[c] = 1 / math::sqrt(cols[c]);
    col_factor = factors.as<A>();

    double squares[2][most_blocks] = {};
    const Vec<A> scale = broadcast<A>(step.grad_scale), eps = broadcast<A>(step.eps);
    each_row(6, [&](int64_t b, int64_t r, int64_t at, int64_t count) {
      const A factor = row_factor(r);
      Vec<A> uu{}, pp{};
      for_row<A>(count, [&](int64_t c, auto part) {
        if (!rows) {
          const Vec<A> d = load(g + at + c, part) * scale;
          store(v + at + c, broadcast<A>(step.kept) * load(v + at + c, part) + broadcast<A>(step.added) * (d * d + eps), part);
        }
        const Vec<A> d = u(factor, at, c, part), w = value(at + c, part);
        uu += d * d;
        pp += w * w;
      });
      squares[0][b] += static_cast<double>(reduce_add(uu));
      squares[1][b] += static_cast<double>(reduce_add(pp));
    });
    double total[2] = {};
    for (int k = 0; k < 2; ++k)
      for (int64_t b = 0; b < blocks(); ++b) total[k] += squares[k][b];
    const auto count_all = static_cast<double>(n);

    const Vec<A> rate = broadcast<A>(static_cast<A>(adafactor_rate(step, total[0] / count_all, total[1] / count_all)));
    const Vec<A> decay = broadcast<A>(step.weight_decay);
    each_row(6, [&](int64_t, int64_t r, int64_t at, int64_t count) {
      const A factor = row_factor(r);
      for_row<A>(count, [&](int64_t c, auto part) {
        Vec<A> w = value(at + c, part);
        w = w - (rate * u(factor, at, c, part) + decay * w);
        if (master) store(master + at + c, w, part);
        store(p + at + c, w, part);
      });
    });
  }
};

template <class P, class A>
void adafactor_as(const Out& p, const Out& master, const View& g, const Out& rows, const Out& cols, const Out& v, const AdafactorStep& s) {
  const AdafactorConstants<A> step = constants_of<A>(s);
  if (step.skip || p.numel() == 0) return;
  const int64_t n = p.numel(), width = rows ? cols.numel() : width_of_flat, height = rows ? rows.numel() : (n + width - 1) / width;
  Adafactor<P, A>{p.as<P>(), std::is_same_v<P, A> ? nullptr : master.as<A>(), g.as<A>(), rows.as<A>(), cols.as<A>(), v.as<A>(), n, height, width, step}.run();
}

}  // namespace

void adafactor(Out p, Out master, View g, Out rows, Out cols, Out v, const AdafactorStep& step) {
  if (p.dtype == DType::bf16) adafactor_as<bf16, float>(p, master, g, rows, cols, v, step);
  else if (p.dtype == DType::f64) adafactor_as<double, double>(p, master, g, rows, cols, v, step);
  else adafactor_as<float, float>(p, master, g, rows, cols, v, step);
}

}  // namespace facet::cpu::FACET_TIER

FACET_TIERED(adafactor)
