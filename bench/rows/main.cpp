// The row-wise kernels against the machine: bytes each must move (from its header) per second, and that as a share of copying
// the same number of bytes over the same footprint in the same run. Times are the best of interleaved rounds.
//
//   bench_rows [threads]
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <functional>
#include <vector>

#include "tensor/cpu/tier.h"
#include "tensor/kernels/adamw.h"
#include "tensor/kernels/copy.h"
#include "tensor/kernels/embedding.h"
#include "tensor/kernels/geglu.h"
#include "tensor/kernels/norm_rope.h"
#include "tensor/kernels/rms_norm.h"
#include "tensor/parallel.h"
#include "tensor/rope_table.h"
#include "tensor/tensor.h"

using namespace facet;

namespace {

double seconds(const std::function<void()>& f) {
  const auto start = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

Tensor noise(const Shape& shape, DType dtype) {
  Tensor t = Tensor::empty(shape);
  uint32_t state = 12345;
  for (float *p = t.out().as<float>(), *end = p + t.numel(); p < end; ++p) {
    state = state * 1664525u + 1013904223u;
    *p = static_cast<float>(static_cast<int32_t>(state)) * 0x1p-30f;
  }
  return t.to(dtype);
}

/// Runs f, which moves `bytes`, and a copy of as many bytes in turn; prints the best of each.
void report(const char* name, double bytes, const std::function<void()>& f) {
  const int64_t n = std::max<int64_t>(1, static_cast<int64_t>(bytes / 8));  // a copy reads and writes four bytes an element
  const Tensor from = Tensor::zeros({n}), to = Tensor::zeros({n});
  const Out out = to.out();
  const View in = from.view();
  double best = 1e9, best_copy = 1e9, spent = 0;
  for (int round = 0; round < 3 || (spent < 0.15 && round < 300); ++round) {
    const double t = seconds(f), c = seconds([&] { copy(in, out); });
    spent += t + c;
    if (round == 0) continue;  // warms caches, pages and pool
    best = std::min(best, t);
    best_copy = std::min(best_copy, c);
  }
  fmt::print("  {:<24} {:9.1f} us {:8.1f} GB/s   copy {:7.1f} GB/s   {:5.0f} %\n", name, best * 1e6, bytes / best * 1e-9,
             bytes / best_copy * 1e-9, 100 * best_copy / best);
}

void run(const char* title, DType dtype, int64_t n, int64_t d, int64_t f, int64_t heads, int64_t dh, int64_t vocabulary) {
  fmt::print("{}: {} rows, D {}, F {}, {} heads of {}, {}\n", title, n, d, f, heads, dh, name_of(dtype));
  const double e = static_cast<double>(size_of(dtype));
  {
    const Tensor x = noise({n, d}, dtype), dy = noise({n, d}, dtype), w = noise({d}, dtype);
    const Tensor y = Tensor::zeros({n, d}, dtype), rstd = Tensor::zeros({n}), dw = Tensor::zeros({d});
    const double row = e * static_cast<double>(n * d);
    report("rms_norm", 2 * row, [&] { rms_norm(x.view(), w.view(), 1e-6, y.out(), rstd.out()); });
    report("rms_norm_backward", 3 * row,
           [&] { rms_norm_backward(dy.view(), x.view(), w.view(), rstd.view(), y.out(), dw.out()); });
  }
  {
    const Shape shape{1, n, heads, dh};
    const Tensor x = noise(shape, dtype), dy = noise(shape, dtype), w = noise({dh}, dtype);
    const Tensor y = Tensor::zeros(shape, dtype), rstd = Tensor::zeros({n * heads}), dw = Tensor::zeros({dh});
    std::vector<int32_t> list(static_cast<size_t>(n));
    for (int64_t i = 0; i < n; ++i) list[static_cast<size_t>(i)] = static_cast<int32_t>(i % 512);
    const Tensor positions = Tensor::from(list, {1, n});
    const RopeTable table(dh, 1e4);
    const RopeRows rows = table.rows(list, DType::f32);
    const double all = e * static_cast<double>(n * heads * dh);
    report("norm_rope", 2 * all, [&] { norm_rope(x.view(), w.view(), 1e-6, positions.view(), rows, y.out(), rstd.out()); });
    report("norm_rope_backward", 3 * all, [&] {
      norm_rope_backward(dy.view(), x.view(), w.view(), rstd.view(), positions.view(), rows, y.out(), dw.out());
    });
  }
  {
    const Tensor gate = noise({n, f}, dtype), up = noise({n, f}, dtype), dy = noise({n, f}, dtype);
    const Tensor y = Tensor::zeros({n, f}, dtype), dup = Tensor::zeros({n, f}, dtype);
    const double all = e * static_cast<double>(n * f);
    report("geglu", 3 * all, [&] { geglu(gate.view(), up.view(), y.out()); });
    report("geglu_backward", 5 * all, [&] { geglu_backward(dy.view(), gate.view(), up.view(), y.out(), dup.out()); });
  }
  {
    const Tensor table = noise({vocabulary, d}, dtype), dy = noise({n, d}, dtype), y = Tensor::zeros({n, d}, dtype);
    const Tensor gradient = Tensor::zeros({vocabulary, d});
    std::vector<int32_t> list(static_cast<size_t>(n));
    for (int64_t i = 0; i < n; ++i) list[static_cast<size_t>(i)] = static_cast<int32_t>(i * 7919 % vocabulary);
    const Tensor ids = Tensor::from(list, {n});
    const double row = static_cast<double>(n * d);
    report("embedding", 2 * e * row, [&] { embedding(ids.view(), table.view(), 25.3, y.out()); });
    report("embedding_backward", (e + 8) * row, [&] { embedding_backward(ids.view(), dy.view(), 25.3, gradient.out(true)); });
  }
  if (dtype == DType::f32) {
    const int64_t parameters = 3 * d * f;
    const Tensor p = noise({parameters}, DType::f32), g = noise({parameters}, DType::f32);
    const Tensor m = Tensor::zeros({parameters}), v = Tensor::zeros({parameters});
    AdamwStep step;
    step.lr = 1e-4;
    report("adamw", 28.0 * static_cast<double>(parameters), [&] { adamw(p.out(), {}, g.view(), m.out(), v.out(), step); });
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1) set_threads(std::atoi(argv[1]));
  fmt::print("{} thread(s), {} bodies\n", threads(), cpu::name_of(cpu::current_tier()));
  for (DType dtype : {DType::f32, DType::bf16}) {
    run("demo", dtype, 3072, 96, 256, 4, 24, 512);
    run("270M", dtype, 512, 640, 2048, 4, 256, 32768);
    run("beyond cache", dtype, 32768, 640, 2048, 4, 256, 32768);
  }
}
