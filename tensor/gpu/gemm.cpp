// Who computes which product on the GPU:
//
//   skinny    up to 16 rows (or columns) against dense, aligned rows of weights: decoding. Reads the weights once
//   lt        bf16 or f32 operands alike, dense in one direction, 2^20 multiplications or more: cuBLASLt, one call for each of at most
//             eight turns of the loops that are not a batch
//   lt_terms  f32 times bf16: the f32 operand becomes three bf16 matrices whose sum it is, exactly; three calls that add up in f32. Converting
//             bf16 to f32 instead would be one call at a tenth of the speed; rounding f32 to bf16 would be another result
//   mma       bf16 operands otherwise: strides without a 1, many small products, no cuBLASLt
//   fma       everything else
#include "tensor/gpu/gemm.h"

#include <algorithm>
#include <optional>

#include "tensor/gpu/gemm_bodies.h"
#include "tensor/gpu/lt.h"
#include "tensor/gpu/pool.h"
#include "tensor/kernels/copy.h"
#include "tensor/kernels/geglu.h"
#include "tensor/kernels/gemm.h"
#include "tensor/kernels/linear_geglu.h"
#include "tensor/pool_vector.h"
#include "tensor/profile.h"

namespace facet::gpu {
namespace {

constexpr int64_t lt_least = 1 << 20;  // multiplications of one call: below, starting a kernel is most of the time, and own ones start faster
constexpr int64_t lt_most_calls = 8;
constexpr int64_t terms_bytes = int64_t{64} << 20;  // workspace of a split operand; more is done in slices

bool aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

bool fits_skinny(const Product& g) {
  if (g.m > skinny_rows || g.kept.count.rank || g.summed.count.rank) return false;
  if (g.b.dtype == DType::f32 && g.a.dtype != DType::f32) return false;
  auto packs = [&](const Factor& f, int64_t row, int64_t count) {  // rows of the terms, dense, on 16 bytes
    return aligned(f.data) && (count == 1 || row * size_of(f.dtype) % 16 == 0);
  };
  const int64_t pack = g.b.dtype == DType::bf16 ? 8 : 4;
  return g.p % pack == 0 && g.a.column == 1 && g.b.row == 1 && packs(g.a, g.a.row, g.m) && packs(g.b, g.b.column, g.n) && g.n >= 8;
}

int64_t turns(const Product& g) {  // calls that a loop over products needs when a call takes one batch
  const Shape& k = g.kept.count;
  int64_t n = g.summed.count.numel();
  for (int i = 0; i + 1 < k.rank; ++i) n *= k.dim[i];
  return n;
}

/// Calls f(product of one call) for all turns but those of the innermost kept loop.
template <class F>
void each_call(const Product& g, F f) {
  Loops outer = g.kept;
  Product one = g;
  one.kept = {}, one.summed = {};
  if (const int l = g.kept.count.rank - 1; l >= 0) {
    one.kept.push(g.kept.count.dim[l], g.kept.a.dim[l], g.kept.b.dim[l], g.kept.c.dim[l]);
    outer.count.rank = l;
  }
  auto moved = [](Factor f, int64_t by) {
    f.data = f.at(by);
    return f;
  };
  for (int64_t z = 0; z < outer.count.numel(); ++z)
    for (int64_t s = 0; s < g.summed.count.numel(); ++s) {
      const Loops::Offsets at = outer.at(z), more = g.summed.at(s);
      Product call = one;
      call.a = moved(g.a, at.a + more.a), call.b = moved(g.b, at.b + more.b), call.c = moved(g.c, at.c);
      call.accumulate = g.accumulate || s > 0;
      f(call);
    }
}

/// The product of one call, to ask about.
Product first_call(const Product& g) {
  Product one = g;
  one.summed = {};
  if (const int l = g.kept.count.rank - 1; l > 0) {
    one.kept = {};
    one.kept.push(g.kept.count.dim[l], g.kept.a.dim[l], g.kept.b.dim[l], g.kept.c.dim[l]);
  }
  return one;
}

// f32 on the left, bf16 on the right.
Product f32_first(const Product& g) { return g.a.dtype == DType::f32 ? g : transposed(g); }

GemmPath path_of(const Product& g, bool lt) {
  if (g.empty() || g.zero()) return GemmPath::nothing;
  if (fits_skinny(g) || fits_skinny(transposed(g))) return GemmPath::skinny;
  const Product call = first_call(g);
  const int64_t work = g.m * g.n * g.p * call.kept.count.numel();
  const bool rounds_once = g.summed.count.rank == 0 || g.c.dtype == DType::f32;
  if (lt && work >= lt_least && turns(g) <= lt_most_calls && rounds_once) {
    if (lt_takes(call)) return GemmPath::lt;
    Product terms = f32_first(call);
    terms.a.dtype = DType::bf16, terms.a.row = terms.p, terms.a.column = 1;  // what the split operand will be
    terms.c.dtype = DType::f32;
    if (g.a.dtype != g.b.dtype && g.kept.count.rank == 0 && g.summed.count.rank == 0 && lt_takes(terms)) return GemmPath::lt_terms;
  }
  return g.a.dtype == DType::bf16 && g.b.dtype == DType::bf16 ? GemmPath::mma : GemmPath::fma;
}

Out window(void* data, DType dtype, int64_t rows, int64_t columns) {
  Out o;
  o.data = data;
  o.dtype = dtype;
  o.device = Device::gpu;
  o.shape = {rows, columns};
  o.stride = {columns, 1};
  return o;
}
Out window_of(const Product& g) {
  Out o = window(const_cast<void*>(g.c.data), g.c.dtype, g.m, g.n);
  o.stride = {g.c.row, g.c.column};
  o.accumulate = g.accumulate;
  return o;
}

void own(const char* op, const Product& g) {
  if (g.a.dtype == DType::bf16 && g.b.dtype == DType::bf16) product_mma(op, g);
  else product_fma(op, g);
}

// f32 a: in slices of rows, each split, three products one upon the other.
void by_terms(const char* op, const Product& any) {
  const Product g = f32_first(any);
  if (g.c.dtype != DType::f32) {
    const Scratch space(sizeof(float) * static_cast<size_t>(g.m * g.n), "f32 sums of a product");
    Product f32 = g;
    f32.c = {space.as<void>(), DType::f32, g.n, 1};
    f32.accumulate = false;
    by_terms(op, f32);
    return gpu::copy(window(space.as<void>(), DType::f32, g.m, g.n), window_of(g));
  }
  const int64_t pitch = (g.p + 7) / 8 * 8;
  const int64_t slice = std::clamp<int64_t>(terms_bytes / (6 * pitch) / 128 * 128, 128, std::max<int64_t>(g.m, 128));
  const Scratch space(static_cast<size_t>(6 * pitch * ((std::min(slice, g.m) + 7) / 8 * 8)), "an f32 operand as bf16 terms");
  for (int64_t from = 0; from < g.m; from += slice) {
    Product part = g;
    part.m = std::min(slice, g.m - from);
    part.c.data = g.c.at(from * g.c.row);
    // Split along the direction that is dense, so that reading is.
    const bool along = g.a.column == 1 || g.a.row != 1;
    const int64_t lines = along ? part.m : g.p, length = along ? g.p : part.m, width = (length + 7) / 8 * 8;
    split_terms(op, static_cast<const float*>(g.a.at(from * g.a.row)), lines, length, along ? g.a.row : g.a.column, along ? g.a.column : g.a.row,
                space.as<bf16>(), width);
    part.a = {nullptr, DType::bf16, along ? width : 1, along ? 1 : width};
    for (int t = 2; t >= 0; --t) {  // the smallest first
      part.a.data = space.as<bf16>() + t * lines * width;
      part.accumulate = g.accumulate || t < 2;
      if (!product_lt(op, part)) product_mma(op, part);
    }
  }
}

void skinny(const char* op, const Product& g) {
  const Product t = fits_skinny(g) ? g : transposed(g);
  product_skinny(op, {&t, 1});
}

void count(const Product& g) { count_product(g.m * g.kept.count.numel(), g.p * g.summed.count.numel(), g.n); }

void run(const char* op, const Product& g) {
  if (g.empty()) return;
  if (g.zero()) {
    if (g.accumulate) return;
    Product once = g;
    once.summed = {};
    each_call(once, [](const Product& call) {
      Out c = window_of(call);
      if (call.kept.count.rank) {
        c.shape = {call.kept.count.dim[0], call.m, call.n};
        c.stride = {call.kept.c.dim[0], call.c.row, call.c.column};
      }
      gpu::fill(c, 0);
    });
    return;
  }
  count(g);
  GemmPath path = path_of(g, true);
  if ((path == GemmPath::lt || path == GemmPath::lt_terms) && !lt_why_not().empty()) path = path_of(g, false);  // loaded when it is wanted
  switch (path) {
    case GemmPath::nothing: return;
    case GemmPath::skinny: return skinny(op, g);
    case GemmPath::lt:
      return each_call(g, [op](const Product& call) {
        if (!product_lt(op, call)) own(op, call);
      });
    case GemmPath::lt_terms: return by_terms(op, g);
    case GemmPath::mma: return product_mma(op, g);
    case GemmPath::fma: return product_fma(op, g);
  }
}

/// Several weights as one, where they and their outputs lie side by side.
bool joins(const Product& left, const Product& right) {
  return left.b.dtype == right.b.dtype && left.c.dtype == right.c.dtype && left.accumulate == right.accumulate && left.b.row == right.b.row &&
         left.b.column == right.b.column && left.c.row == right.c.row && left.c.column == right.c.column &&
         left.b.at(left.n * left.b.column) == right.b.data && left.c.at(left.n * left.c.column) == right.c.data;
}

}  // namespace

const char* name_of(GemmPath p) {
  constexpr const char* names[] = {"nothing", "skinny", "lt", "lt_terms", "mma", "fma"};
  return names[static_cast<int>(p)];
}

GemmPath gemm_path(const View& a, const View& b, const Out& c, bool lt) { return path_of(product_of("gemm", a, b, c, 1), lt); }

void gemm(View a, View b, Out c, double alpha) { run("gemm", product_of("gemm", a, b, c, alpha)); }

void gemm_batched(View a, View b, Out c, double alpha) { run("gemm_batched", product_of("gemm_batched", a, b, c, alpha)); }

void linear(View x, std::span<const View> w, std::span<const Out> y) {
  pool_vector<Product> large, few;
  for (size_t i = 0; i < w.size(); ++i) {
    if (!y[i]) continue;
    const Product g = product_of("linear", x, facet::transposed(w[i]), y[i], 1);
    if (!g.empty() && !g.zero() && fits_skinny(g)) {
      count(g);
      if (!few.empty() && (few.back().b.dtype != g.b.dtype || few.size() == skinny_products)) {
        product_skinny("linear", few);
        few.clear();
      }
      few.push_back(g);
    } else if (!large.empty() && joins(large.back(), g)) {
      large.back().n += g.n;
    } else {
      large.push_back(g);
    }
  }
  if (!few.empty()) product_skinny("linear", few);
  for (const Product& g : large) run("linear", g);
}

void linear_geglu(View x, View w_gate, View w_up, Out y) {
  constexpr const char* op = "linear_geglu";
  const Product gate = product_of(op, x, facet::transposed(w_gate), y, 1), up = product_of(op, x, facet::transposed(w_up), y, 1);
  if (gate.empty()) return;
  const bool narrow = x.dtype == DType::bf16 && w_gate.dtype == DType::bf16;
  if (narrow && !gate.zero() && fits_skinny(gate) && fits_skinny(up)) {
    count(gate), count(up);
    return product_skinny_geglu(op, gate, up);
  }
  const int64_t F = y.shape[1];
  const Scratch space(static_cast<size_t>(2 * y.numel() * size_of(y.dtype)), "gates and what goes through them");
  Out products[2];  // rows side by side: of weights that are, too, they are one product
  for (int i = 0; i < 2; ++i) {
    products[i] = window(space.as<char>() + i * F * size_of(y.dtype), y.dtype, y.shape[0], F);
    products[i].stride[0] = 2 * F;
  }
  const View weights[] = {w_gate, w_up};
  gpu::linear(x, weights, products);
  gpu::geglu(products[0], products[1], y);
}

void linear_dx(std::span<const View> dy, std::span<const View> w, Out dx) {
  const auto terms = std::count_if(dy.begin(), dy.end(), [](const View& v) { return static_cast<bool>(v); });
  if (dx.numel() == 0) return;
  const bool apart = terms > 1 && dx.dtype == DType::bf16;  // one rounding
  std::optional<Scratch> space;
  Out to = dx;
  if (apart) {
    space.emplace(sizeof(float) * static_cast<size_t>(dx.numel()), "sum of gradients");
    to = window(space->as<void>(), DType::f32, dx.shape[0], dx.shape[1]);
  }
  for (size_t i = 0; i < dy.size(); ++i) {
    if (!dy[i]) continue;
    run("linear_dx", product_of("linear_dx", dy[i], w[i], to, 1));
    to.accumulate = true;
  }
  if (!to.accumulate) gpu::fill(to, 0);
  if (apart) gpu::copy(to, dx);
}

void linear_dw(View dy, View x, Out dw) { run("linear_dw", product_of("linear_dw", facet::transposed(dy), x, dw, 1)); }

}  // namespace facet::gpu
