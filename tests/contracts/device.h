// The device mode of contracts: `fused` forward and backward on a GPU, emulated or real, against the same on the CPU, in f32 and bf16.
//
//   near        normalised mean square error, largest difference over the row's root mean square, share of elements further than 4 ulp:
//               each within its limit, or as near to the f64 result as the CPU's is; NaN nowhere that the CPU has none, infinities in
//               place
//   repeatable  three runs, the same bits
//   guarded     nothing is written beside a buffer (sentinels of 1 KB), and what is read was written (fresh memory is NaN)
//   returned    no run leaves memory behind
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "tests/contracts/contract.h"

namespace facet::test {

/// How far a is from b. Shapes must agree. NaN equals NaN and infinities equal themselves, in place; elsewhere they are infinitely far.
/// Attention's sums have rounded factors, so an element has the error of the larger ones beside it, and rows cancel to nothing: there the
/// root mean square of all of b is the least that elements and rows are measured by.
struct Distance {
  double nmse = 0;     ///< sum (a - b)^2 / sum b^2
  double of_row = 0;   ///< largest |a - b| over the root mean square of b's row; rows shorter than 16 count as one
  double beyond = 0;   ///< share of elements further than 4 ulp of the dtype
  int64_t elements = 0;
};
Distance distance(const Tensor& a, const Tensor& b, DType ulps_of, Arithmetic = Arithmetic::sums);
/// Largest distance that is no defect (a copy: none at all).
Distance limit_of(Arithmetic, DType, bool backward);

struct DeviceOptions {
  int64_t most_elements = 0;  ///< samples with more elements in their inputs and outputs are left out; 0: none
  std::vector<DType> dtypes = {DType::f32, DType::bf16};
  int runs = 3;  ///< at least 2
};

struct DeviceResult {
  std::string name;
  int ran = 0;                         ///< samples times dtypes
  int left_out = 0;                    ///< too large
  std::vector<std::string> failures;   ///< sentences
  double worst = 0;                    ///< largest distance as a share of its limit
  double seconds = 0;
  bool ok() const { return failures.empty(); }
};

/// Throws Error(Kind::environment) without a device.
DeviceResult run_on_device(const Contract&, const DeviceOptions& = {});

}  // namespace facet::test
