// tensor/parallel.h on plain threads, for the race detector, which cannot see how libgomp's threads wait for one another. It makes more
// of a race than chance would: every call is cut, however little there is to do, neighbouring chunks run on different threads, and between the
// beginning and the end of a call nothing orders what they do. So two chunks that touch one element are seen even when one ran long after the
// other. The same holds for memory: scratch comes from malloc, since the lock of the pool would order whoever takes and returns some.
#include "tensor/parallel.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <new>
#include <semaphore>
#include <thread>

namespace facet {
namespace {

constexpr int most = 8;
int thread_count = 4;
thread_local bool in_a_chunk = false;

// The threads that work for one caller: number 0 is the caller itself. A semaphore for each, because a lock of all would order them.
class Team {
 public:
  ~Team() {
    f_ = nullptr;
    for (int i = 1; i < started_; ++i) {
      members_[i].begin.release();
      members_[i].thread.join();
    }
  }

  void run(int threads, int64_t n, int64_t chunk, const RangeFn& f) {
    f_ = &f, n_ = n, chunk_ = chunk, threads_ = threads;
    for (; started_ < threads; ++started_) members_[started_].thread = std::thread([this, i = started_] { serve(i); });
    for (int i = 1; i < threads; ++i) members_[i].begin.release();
    work(0);
    for (int i = 1; i < threads; ++i) members_[i].end.acquire();
  }

 private:
  struct Member {
    std::binary_semaphore begin{0}, end{0};
    std::thread thread;
  };

  void serve(int i) {
    for (;;) {
      members_[i].begin.acquire();
      if (!f_) return;
      work(i);
      members_[i].end.release();
    }
  }
  void work(int i) {
    in_a_chunk = true;
    for (int64_t at = i * chunk_; at < n_; at += threads_ * chunk_) (*f_)(at, std::min(n_, at + chunk_));
    in_a_chunk = false;
  }

  std::array<Member, most> members_;
  int started_ = 1, threads_ = 1;
  const RangeFn* f_ = nullptr;
  int64_t n_ = 0, chunk_ = 1;
};

}  // namespace

int threads() { return thread_count; }
void set_threads(int n) { thread_count = n > 0 ? std::min(n, most) : 4; }
void spin_briefly(char**) {}
const char* waiting_text() { return "in semaphores"; }

void parallel_for(int64_t n, int64_t chunk, int64_t /*cost*/, RangeFn f) {
  thread_local Team team;
  chunk = std::max<int64_t>(1, chunk);
  const int64_t chunks = (n + chunk - 1) / chunk;
  if (chunks > 1 && threads() > 1 && !in_a_chunk) {
    team.run(static_cast<int>(std::min<int64_t>(threads(), chunks)), n, chunk, f);
  } else {
    for (int64_t at = 0; at < n; at += chunk) f(at, std::min(n, at + chunk));
  }
}

}  // namespace facet

// The linker puts these in the place of facet::pool_alloc and pool_free, but for tensors, which tensor/storage.cpp itself asks for.
extern "C" void* __wrap__ZN5facet10pool_allocEm(size_t bytes) {
  constexpr size_t alignment = 64;
  if (void* p = std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment)) return p;
  throw std::bad_alloc();
}
extern "C" void __wrap__ZN5facet9pool_freeEPv(void* p) noexcept { std::free(p); }
