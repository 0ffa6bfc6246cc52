// Tensors that lie side by side in device memory, without a gap: weights of one input and their gradients are then one matrix each, and one
// product serves them all (autograd/joined_ops.h). Each stays a tensor of its own, with its own count of handles; the block they share
// goes back to the pool with the last of them.
//
//   {
//     const SideBySide row(bytes_of_all);
//     q = q.to(Device::gpu), k = k.to(Device::gpu), v = v.to(Device::gpu);
//   }
#pragma once
#include <cstddef>

namespace facet::gpu {

/// What is allocated while one lives is served in order from a block of so many bytes, taken from the pool when the first comes. What does not
/// fit, or would not begin on 16 bytes, is served as ever. Under a GuardScope everything is.
class SideBySide {
 public:
  explicit SideBySide(size_t bytes);
  ~SideBySide();
  SideBySide(const SideBySide&) = delete;
};

}  // namespace facet::gpu
