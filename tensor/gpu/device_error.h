// What a failed call of the driver means to whoever runs the program; the same words from the CUDA runtime and from the emulator.
#pragma once
#include <string>

namespace facet::gpu {

enum class Failure : unsigned char {
  memory,   ///< the device has no more
  refused,  ///< this call, nothing else
  lost,     ///< a sticky error: every later call fails too, whatever broke the device
};

/// Throws Error(Kind::memory or Kind::environment): the operation `op` made the call `call`, which ended with the driver's error
/// `text` of this `name`.
[[noreturn]] void fail_call(const char* op, const std::string& call, const char* text, const char* name, Failure);

/// FACET_GPU_SYNC: the host waits for every launch, so that an error is found at the operation that made it.
bool waits_for_launches();

}  // namespace facet::gpu
