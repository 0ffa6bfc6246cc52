// How things are timed on a machine that is shared: contenders take turns in slices of some milliseconds, the best slice of each
// counts (neighbours only ever make a slice slower), and what is reported is a ratio within one run.
#pragma once
#include <functional>
#include <vector>

#include "tensor/tensor.h"

namespace facet::bench {

/// Seconds: of this thread's processor time while kernels run on one thread, so that waiting for a busy machine does not count;
/// else of the clock on the wall. With a GPU: of that clock, once the GPU has done what it was asked to.
double now();
/// Where what is timed computes from here on.
void time_on(Device);

/// Seconds of one call on the GPU: the best of three series of calls, each about so long and waited for once, at its end.
double device_seconds(const std::function<void()>& f, double series_seconds);

/// Does some work and says how much, in any unit.
using Work = std::function<double()>;
/// The best rate of each contender in work per nanosecond (GFLOP/s, GB/s). One call of each before that does not count.
std::vector<double> race(const std::vector<Work>& contenders, double slice_seconds = 0.002, int slices = 8);

double median(std::vector<double>);

/// Fused multiply-adds on all threads: FLOPs.
double multiply_adds();
/// The field read through by all threads: bytes.
double read(const Tensor& field);
/// One tensor copied to another of its size: bytes read and written.
double copy_bytes(const Tensor& from, const Tensor& to);

/// Uniform in [-1, 1).
Tensor noise(const Shape&, DType = DType::f32);

}  // namespace facet::bench
