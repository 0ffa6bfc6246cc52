// What bounds a model's speed here, measured on its own weights in the same run as what is compared with it.
#pragma once
#include <vector>

#include "autograd/parameter.h"
#include "bench/support/race.h"

namespace facet::app {

template <class F>
double seconds(F&& f) {
  const double begin = bench::now();
  f();
  return bench::now() - begin;
}

double bytes_of(const std::vector<Parameter*>&);
/// Reads all weights once on all threads; nothing can decode faster than this.
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
