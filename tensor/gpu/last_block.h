// Parts that several blocks have made, put together in the kernel that made them: by the block that comes last. A second kernel would wait for
// the first as a whole and then for the gap between two launches.
//
//   ... store a part in device memory ...
//   if (!last_block(&arrived[unit], parts)) return;
//   ... read all parts of the unit, in the order of their numbers and not of their arrival: sums have the same bits in every run ...
//
// `arrived` is a __device__ array of the kernel's file: zero when the program is loaded, and every launch leaves it so, since the last block puts
// its counter back. No two launches of one stream touch memory at the same time, so eager ones and all graphs share it: an overlapped one, too, comes here
// only behind wait_for_previous() (launch.h), when the counters of the launch before are zero again.
//
// Memory order. The barrier brings the stores of all threads before the fence of thread 0, the fence before the ticket; the atomic additions
// make one chain, so whoever draws the last ticket comes behind the fences of all others; its second fence and the barrier hand that on
// to its threads (release and acquire patterns of the PTX memory model; a grid barrier of cooperative groups is made the same way). A fence also
// drops what the L1 cache holds, where a line may be older than the parts: another unit's last block may have read its neighbours' part of it.
// So ordinary loads do, but none through the read-only path (ld.global.nc): what a kernel writes must not be `const __restrict__` there.
#pragma once
#include "tensor/gpu/device.h"

namespace facet::gpu {

/// True in all threads of that block, of the `blocks` that call this with one counter, which comes last: it sees what the others have stored before
/// their calls. Every thread of a block (in one dimension) must call it.
__device__ inline bool last_block(int32_t* arrived, int32_t blocks, Site site = Site::here()) {
  FACET_SHARED(bool, last, );
  sync_block(site);
  if (threadIdx.x == 0) {
    fence();
    last = atomic_add(arrived, 1) == blocks - 1;
    if (last) {
      fence();
      atomic_exchange(arrived, 0);
    }
  }
  sync_block(site);
  return last;
}

}  // namespace facet::gpu
