#include "bench/support/race.h"

#include <algorithm>
#include <chrono>
#include <ctime>

#include "bench/support/loops.h"
#include "tensor/gpu/runtime.h"
#include "tensor/kernels/copy.h"
#include "tensor/parallel.h"
#include "tensor/pool_vector.h"

namespace facet::bench {

namespace {
Device timed = Device::cpu;
}
void time_on(Device device) { timed = device; }

double now() {
  if (timed == Device::gpu) gpu::synchronize();
  timespec t;
  clock_gettime(threads() > 1 || timed == Device::gpu ? CLOCK_MONOTONIC : CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

double device_seconds(const std::function<void()>& f, double series_seconds) {
  using Clock = std::chrono::steady_clock;
  for (int i = 0; i < 3; ++i) f();  // tunes products, fills the pool, records graphs
  gpu::synchronize();
  int64_t calls = 1;
  double best = 0;
  for (int series = 0; series < 3;) {
    const auto begin = Clock::now();
    for (int64_t i = 0; i < calls; ++i) f();
    gpu::synchronize();
    const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    const double each = seconds / static_cast<double>(calls);
    best = best == 0 ? each : std::min(best, each);
    if (seconds < series_seconds / 2 && calls < 10000) calls = std::max(calls + 1, static_cast<int64_t>(series_seconds / each));
    else ++series;
  }
  return best;
}

std::vector<double> race(const std::vector<Work>& contenders, double slice_seconds, int slices) {
  std::vector<double> best(contenders.size());
  for (const Work& work : contenders) work();  // warms caches, pages and pool
  for (int s = 0; s < slices; ++s) {
    for (size_t c = 0; c < contenders.size(); ++c) {
      const double begin = now();
      double done = 0, elapsed;
      do {
        done += contenders[c]();
        elapsed = now() - begin;
      } while (elapsed < slice_seconds);
      best[c] = std::max(best[c], done / elapsed / 1e9);
    }
  }
  return best;
}

double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}

double multiply_adds() {
  pool_vector<double> flops(static_cast<size_t>(threads()));
  parallel_for(threads(), 1, 1 << 20, [&](int64_t i, int64_t) { flops[static_cast<size_t>(i)] = cpu::fma_loop(2000); });
  double sum = 0;
  for (double f : flops) sum += f;
  return sum;
}

double read(const Tensor& field) {
  constexpr int64_t piece = 1 << 16;
  const int64_t n = field.numel();
  const float* x = field.data<float>().data();
  parallel_for((n + piece - 1) / piece, 1, piece,
               [&](int64_t i, int64_t) { cpu::read_loop(x + i * piece, std::min(piece, n - i * piece)); });
  return 4.0 * static_cast<double>(n);
}

double copy_bytes(const Tensor& from, const Tensor& to) {
  copy(from.view(), to.out());
  return 2.0 * static_cast<double>(from.numel() * size_of(from.dtype()));
}

Tensor noise(const Shape& shape, DType dtype) {
  Tensor t = Tensor::empty(shape);
  uint32_t state = 12345;
  for (float *p = t.out().as<float>(), *end = p + t.numel(); p < end; ++p) {
    state = state * 1664525u + 1013904223u;
    *p = static_cast<float>(static_cast<int32_t>(state)) * 0x1p-31f;
  }
  return t.to(dtype);
}

}  // namespace facet::bench
