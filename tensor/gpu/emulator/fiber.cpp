#include "tensor/gpu/emulator/fiber.h"

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tensor/error.h"
#include "tensor/gpu/emulator/sanitizers.h"

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#if defined(FACET_EMULATOR_TSAN)
// The host's threads meet inside OpenMP, which is not instrumented, and their memcpy is seen: of no interest here.
extern "C" const char* __tsan_default_suppressions() { return "race:facet::parallel_for\nrace:facet::cpu::\nrace:facet::RangeFn\n"; }
#endif

namespace facet::gpu::emulator {
namespace {
// Pages that are never touched cost nothing. Instrumented frames are several times as large.
constexpr size_t stack_bytes = sanitized ? 1 << 19 : 1 << 18;
}  // namespace

#if defined(__x86_64__)
// 7 ns; ucontext asks the kernel to save the signal mask each time, 230 ns.
extern "C" void facet_emulator_switch(void** save, void* load);
asm(R"(
.text
.globl facet_emulator_switch
.type facet_emulator_switch, @function
facet_emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size facet_emulator_switch, .-facet_emulator_switch
)");

namespace {
void prepare(Stack& s, void (*entry)()) {
  void** top = reinterpret_cast<void**>(s.bottom + s.bytes);
  *--top = nullptr;  // where entry would return to; also what the calling convention wants of the stack's alignment
  *--top = reinterpret_cast<void*>(entry);
  for (int i = 0; i < 6; ++i) *--top = nullptr;  // registers
  s.pointer = top;
}
void exchange(Stack& from, Stack& to) { facet_emulator_switch(&from.pointer, to.pointer); }
}  // namespace
#else
namespace {
void prepare(Stack& s, void (*entry)()) {
  auto* c = s.pointer ? static_cast<ucontext_t*>(s.pointer) : new ucontext_t;
  getcontext(c);
  c->uc_stack.ss_sp = s.bottom;
  c->uc_stack.ss_size = s.bytes;
  c->uc_link = nullptr;
  makecontext(c, entry, 0);
  s.pointer = c;
}
void exchange(Stack& from, Stack& to) {
  if (!from.pointer) from.pointer = new ucontext_t;
  swapcontext(static_cast<ucontext_t*>(from.pointer), static_cast<ucontext_t*>(to.pointer));
}
}  // namespace
#endif

Stack* new_stack(void (*entry)()) {
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  void* p = mmap(nullptr, stack_bytes + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
  if (p == MAP_FAILED) fail(Kind::memory, "emulated GPU: the system refuses a stack of {} bytes for a thread of a block", stack_bytes);
  mprotect(p, page, PROT_NONE);
  auto* s = new Stack;
  s->bottom = static_cast<char*>(p) + page;
  s->bytes = stack_bytes;
  prepare(*s, entry);
  return s;
}

void restart(Stack& s, void (*entry)()) {
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(s.bottom, s.bytes);  // frames that nobody left
#endif
  s.fake_stack = nullptr;
  prepare(s, entry);
}

void renew(Stack& s, void (*entry)()) {
  mmap(s.bottom, s.bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK | MAP_FIXED, -1, 0);
  restart(s, entry);
}

void switch_stack(Stack& from, Stack& to) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&from.fake_stack, to.bottom, to.bytes);
  exchange(from, to);
  __sanitizer_finish_switch_fiber(from.fake_stack, nullptr, nullptr);
#else
  exchange(from, to);
#endif
}

void arrived_on_fresh_stack() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
}

void describe_own_stack([[maybe_unused]] Stack& s) {
#if defined(__SANITIZE_ADDRESS__)
  pthread_attr_t a;
  void* bottom = nullptr;
  if (pthread_getattr_np(pthread_self(), &a) == 0) {
    pthread_attr_getstack(&a, &bottom, &s.bytes);
    pthread_attr_destroy(&a);
  }
  s.bottom = static_cast<char*>(bottom);
#endif
}

}  // namespace facet::gpu::emulator
