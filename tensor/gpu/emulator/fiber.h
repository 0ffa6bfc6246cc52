// Stacks and the switch between them. A switch saves the registers that a called function must keep and exchanges the stack pointer;
// the sanitizers are told of each one (sanitizers.h).
#pragma once
#include <cstddef>

namespace facet::gpu::emulator {

/// One stack with what is needed to go on where it was left. The host's own stack is one too.
struct Stack {
  void* pointer = nullptr;     ///< saved stack pointer
  char* bottom = nullptr;
  size_t bytes = 0;
  void* fake_stack = nullptr;  ///< AddressSanitizer's
};

/// A fresh stack that begins in entry(), which must not return. A guard page lies below it.
Stack* new_stack(void (*entry)());
/// Makes an abandoned stack begin in entry() again; whatever was on it is forgotten.
void restart(Stack&, void (*entry)());
/// The same with fresh memory: the race detector forgets who wrote there.
void renew(Stack&, void (*entry)());
/// Leaves `from` and goes on where `to` was left. Returns when somebody switches back.
void switch_stack(Stack& from, Stack& to);
/// The first thing on a fresh stack.
void arrived_on_fresh_stack();
/// Takes down where the calling thread's own stack lies.
void describe_own_stack(Stack&);

}  // namespace facet::gpu::emulator
