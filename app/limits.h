// What bounds a model's speed here, measured on its own weights in the same run as what is compared with it.
#pragma once
#include <string>
#include <vector>

#include "autograd/parameter.h"
#include "app/command.h"
#include "bench/support/race.h"

namespace facet::app {

template <class F>
double seconds(F&& f) {
  const double begin = bench::now();
  f();
  return bench::now() - begin;
}

/// What --device says; with a GPU, bench::now() waits for it from here on.
Device timed_device(const Common&);
/// "4 threads, avx512" or the GPU's name.
std::string where_timed(Device);

/// What the GPU can do at most, in this run: a square product (FLOP/s), a copy (bytes read and written per second; the driver's and our
/// kernel's, the better one counts).
double product_rate(int64_t n, DType, double series_seconds);
/// What the steps of a run are compared with: fused multiply-adds on all threads, or a large product on the GPU. Some milliseconds' work.
double peak_flops(Device, DType);
struct CopyRate {
  double driver, kernel;
  double best() const { return driver > kernel ? driver : kernel; }
};
CopyRate copy_rate(int64_t bytes, double series_seconds);

double bytes_of(const std::vector<Parameter*>&);
/// Reads all weights once on all threads; nothing can decode faster than this. On a GPU: copies half of them, which moves as many bytes.
void read_all(const std::vector<Parameter*>&);

/// Every matrix but `without` times so many rows; nothing that computes the products apart can be faster.
class Products {
 public:
  Products(const std::vector<Parameter*>&, int64_t rows, const Parameter* without = nullptr);
  void operator()() const;
  double flops() const { return flops_; }

 private:
  std::vector<Tensor> weights_, x_;
  double flops_ = 0;
};

}  // namespace facet::app
