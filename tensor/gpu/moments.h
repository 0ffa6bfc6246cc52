// Moments on the device's own clock, for traces: a mark is queued behind what was launched before it and keeps when the device got there.
// Neither function throws: traces are written also of runs that fail. Defined where tensor/gpu/runtime.h is.
#pragma once
#include <cstdint>
#include <vector>

namespace facet::gpu {

/// Queues a mark and returns its number, from 0 on. -1: none, because a graph is being captured or the device takes no work.
int64_t mark_moment() noexcept;
/// Waits for the device; when it passed each mark, in seconds since the first. Empty when the device is lost. Numbers begin at 0 again.
std::vector<double> read_moments() noexcept;

}  // namespace facet::gpu
