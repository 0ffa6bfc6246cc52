#include "tensor/gpu/emulator/memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <map>
#include <mutex>
#include <string>

#include "tensor/error.h"
#include "tensor/gpu/emulator/device.h"
#include "tensor/gpu/emulator/emulator.h"
#include "tensor/gpu/emulator/sanitizers.h"
#include "tensor/gpu/pool.h"

namespace facet::gpu::emulator {
namespace {

constexpr size_t alignment = 256;  // cudaMalloc's
constexpr size_t guard = address_sanitizer ? 0 : alignment;
constexpr int poison = 0xff, guard_byte = 0xa5;

/// One range of addresses for all buffers, so that one call closes or opens it; pages that are never touched cost nothing. Twice what the
/// device has: holes between buffers are no reason to be out of memory. The same pages lie open at another range, for the runtime.
constexpr size_t range_bytes = 2 * device_bytes;

struct Memory {
  std::map<char*, size_t> buffers;  // address and size of what is live
  size_t live_bytes = 0;
  int64_t allocations = 0;
  int64_t fails_in = 0, refusals = 0;  // after fails_in - 1 more allocations so many are refused; 0: none

  char* range = nullptr;
  ptrdiff_t to_open = 0;  // from a place in the range to the same byte in the open one
  std::map<char*, size_t> holes;
  std::mutex mutex;
  int open = 0;
  const char* last_user = "nothing yet";
  bool kernel_waits = false;  // last_user runs, but the kernel before it is not known to have ended
  struct sigaction before = {};
};
Memory& memory() {
  static Memory& m = *new Memory;
  return m;
}

// ---- closed to the host

void on_fault(int signal, siginfo_t* info, void*) {
  const Memory& m = memory();
  const auto* at = static_cast<char*>(info->si_addr);
  if (m.range && at >= m.range && at < m.range + range_bytes) {
    std::string what = describe_live_buffer(at);
    if (what.empty()) what = "memory that belongs to no tensor";
    if (m.kernel_waits)
      fmt::print(stderr, "{}: block ({}, {}, {}), thread ({}, {}, {}) touches device memory before wait_for_previous(): {}\n", m.last_user, blockIdx.x,
                 blockIdx.y, blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z, what);
    else fmt::print(stderr, "emulated GPU: the host touches device memory without a copy: {}; the device last did {}\n", what, m.last_user);
  }
  sigaction(signal, &m.before, nullptr);  // and the access faults again, as it would without us
}

/// In front of whoever else handles faults, a test framework for one.
void handle_faults(Memory& m) {
  struct sigaction now = {};
  sigaction(SIGSEGV, nullptr, &now);
  if ((now.sa_flags & SA_SIGINFO) && now.sa_sigaction == on_fault) return;
  m.before = now;
  struct sigaction ours = {};
  ours.sa_sigaction = on_fault;
  ours.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigaction(SIGSEGV, &ours, nullptr);
}

void make_range(Memory& m) {
  const int file = memfd_create("facet emulated GPU", 0);
  if (file < 0 || ftruncate(file, static_cast<off_t>(range_bytes)) != 0)
    fail(Kind::memory, "emulated GPU: the system has no file of {} bytes in memory", range_bytes);
  const auto map = [&](int protection) {
    void* p = mmap(nullptr, range_bytes, protection, MAP_SHARED | MAP_NORESERVE, file, 0);
    if (p == MAP_FAILED) fail(Kind::memory, "emulated GPU: the system refuses {} bytes of addresses", range_bytes);
    return static_cast<char*>(p);
  };
  m.range = map(PROT_NONE);
  m.to_open = map(PROT_READ | PROT_WRITE) - m.range;
  close(file);
  m.holes.emplace(m.range, range_bytes);
}

// ---- pieces of the range

char* take(Memory& m, size_t bytes) {
  if (!m.range) make_range(m);
  bytes = (bytes + alignment - 1) / alignment * alignment;
  for (auto hole = m.holes.begin(); hole != m.holes.end(); ++hole) {
    const auto [at, room] = *hole;
    if (room < bytes) continue;
    m.holes.erase(hole);
    if (room > bytes) m.holes.emplace(at + bytes, room - bytes);
    return at;
  }
  return nullptr;
}
void give_back(Memory& m, char* at, size_t bytes) {
  bytes = (bytes + alignment - 1) / alignment * alignment;
  // What is in no page table need not be closed and opened again.
  const uintptr_t page = 4096, from = (reinterpret_cast<uintptr_t>(at) + page - 1) / page * page;
  const uintptr_t end = reinterpret_cast<uintptr_t>(at + bytes) / page * page;
  if (end > from) madvise(reinterpret_cast<void*>(from), end - from, MADV_DONTNEED);
  auto hole = m.holes.emplace(at, bytes).first;
  if (const auto next = std::next(hole); next != m.holes.end() && at + bytes == next->first) {
    hole->second += next->second;
    m.holes.erase(next);
  }
  if (hole == m.holes.begin()) return;
  if (const auto before = std::prev(hole); before->first + before->second == at) {
    before->second += hole->second;
    m.holes.erase(hole);
  }
}

void set_guards(char* data, size_t bytes) {
  std::memset(seen(data) - guard, guard_byte, guard);
  std::memset(seen(data) + bytes, guard_byte, guard);
}

}  // namespace

Access::Access(const char* user) {
  Memory& m = memory();
  const std::lock_guard lock(m.mutex);
  m.last_user = user;
  if (m.open++ == 0 && m.range) mprotect(m.range, range_bytes, PROT_READ | PROT_WRITE);
}
Access::~Access() {
  Memory& m = memory();
  const std::lock_guard lock(m.mutex);
  if (--m.open || !m.range) return;
  mprotect(m.range, range_bytes, PROT_NONE);
  handle_faults(m);
}
void open_to_kernels(bool open) {
  Memory& m = memory();
  const std::lock_guard lock(m.mutex);
  m.kernel_waits = !open;
  if (m.range) mprotect(m.range, range_bytes, open ? PROT_READ | PROT_WRITE : PROT_NONE);
  if (!open) handle_faults(m);
}
char* seen(const void* p) { return static_cast<char*>(const_cast<void*>(p)) + memory().to_open; }

void* new_buffer(size_t bytes) {
  Memory& m = memory();
  if (bytes > device_bytes - m.live_bytes) return nullptr;
  ++m.allocations;
  if (m.fails_in > 1) --m.fails_in;
  else if (m.fails_in == 1 && m.refusals-- > 0) return nullptr;
  // Not rounded up: the first byte past the end is not the caller's.
  const size_t whole = guard + bytes + guard;
  void* p = nullptr;
  if (!sanitized) p = take(m, whole);
  else if (posix_memalign(&p, alignment, whole) != 0) p = nullptr;
  if (!p) return nullptr;
  char* data = static_cast<char*>(p) + guard;
  std::memset(seen(data), poison, bytes);
  set_guards(data, bytes);
  m.buffers.emplace(data, bytes);
  m.live_bytes += bytes;
  return data;
}

bool is_buffer(const void* p) { return memory().buffers.count(static_cast<char*>(const_cast<void*>(p))) != 0; }

void delete_buffer(void* p) noexcept {
  Memory& m = memory();
  const auto b = m.buffers.find(static_cast<char*>(p));
  const auto [data, bytes] = *b;
  m.buffers.erase(b);
  m.live_bytes -= bytes;
  std::memset(seen(data), poison, bytes);
  if (sanitized) std::free(data - guard);
  else give_back(m, data - guard, guard + bytes + guard);
}

bool in_buffer(const void* p, size_t bytes) {
  if (bytes == 0) return true;
  auto* at = static_cast<char*>(const_cast<void*>(p));
  const auto& buffers = memory().buffers;
  const auto b = buffers.upper_bound(at);
  return b != buffers.begin() && at + bytes <= std::prev(b)->first + std::prev(b)->second;
}
void check_in_buffer(const char* what, const void* p, size_t bytes) {
  if (!in_buffer(p, bytes)) fail(Kind::check, "{}: {} bytes at {} do not lie within a live buffer of the device", what, bytes, p);
}

void check_guards(const char* op) {
  for (const auto& [data, bytes] : memory().buffers)
    for (size_t i = 0; i < guard; ++i) {
      const char* d = seen(data);
      if (d[i - guard] == static_cast<char>(guard_byte) && d[bytes + i] == static_cast<char>(guard_byte)) continue;
      set_guards(data, bytes);
      fail(Kind::check, "{}: something was written past an end of a device buffer of {} bytes", op, bytes);
    }
}

MemoryCounters memory_counters() {
  const Memory& m = memory();
  return {static_cast<int64_t>(m.buffers.size()), m.live_bytes, m.allocations};
}
void fail_allocation(int64_t n, int64_t refusals) {
  memory().fails_in = n;
  memory().refusals = refusals;
}

}  // namespace facet::gpu::emulator
