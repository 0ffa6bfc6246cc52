// What a failed call of the driver means to whoever runs the program; the same words from the CUDA runtime and from the emulator.
#pragma once
#include <string>

namespace facet::gpu {

enum class Failure : unsigned char {
  memory,   ///< the device has no more
  refused,  ///< this call, nothing else
  lost,     ///< a sticky error: every later call fails too, whatever broke the device
};

/// What to add to a message about a failed call: " The last operation was rms_norm of bf16 [2048, 640], f32 [640]." It need not be the one
/// that failed: the device runs behind, and copies and fills of the engine's own are no operations. Empty when there was none.
std::string after_operation();

/// Throws Error(Kind::memory or Kind::environment): the operation `op` made the call `call`, which ended with the driver's error
/// `text` of this `name`; with after_operation().
[[noreturn]] void fail_call(const char* op, const std::string& call, const char* text, const char* name, Failure);

/// Something went another way than was hoped, and goes on: "facet: warning: ..." on standard error.
void warn(const std::string& what);

/// FACET_GPU_SYNC: the host waits for every launch, so that an error is found at the operation that made it. Nothing is recorded then
/// (tensor/gpu/graph.h): inside of a replayed graph there is nothing to wait for.
bool waits_for_launches();

}  // namespace facet::gpu
