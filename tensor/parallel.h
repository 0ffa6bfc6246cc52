// The one door to threads. Work is cut into chunks that depend on the problem alone, never on the number of threads, and
// partial results are combined in chunk order by the caller: results are the same bits on 1 or 16 threads.
#pragma once
#include <cstdint>
#include <type_traits>

#include "tensor/view.h"

namespace facet {

/// A borrowed callable void(int64_t begin, int64_t end); plain data, so that code for foreign instruction sets may use it.
class RangeFn {
 public:
  template <class F>
    requires(!std::is_same_v<std::remove_cvref_t<F>, RangeFn>)
  FACET_INLINE RangeFn(F&& f)
      : object_(const_cast<void*>(static_cast<const void*>(&f))),
        call_([](void* o, int64_t a, int64_t b) { (*static_cast<std::remove_reference_t<F>*>(o))(a, b); }) {}
  FACET_INLINE void operator()(int64_t a, int64_t b) const { call_(object_, a, b); }

 private:
  void* object_;
  void (*call_)(void*, int64_t, int64_t);
};

/// Calls f(begin, end) for consecutive chunks of `chunk` items covering [0, n). Chunks run on any thread in any order.
/// `cost` is the work of one item in elements touched (or multiply-adds); small totals stay on the calling thread.
/// f must not throw and may not call parallel_for with effect: nested calls run inline.
void parallel_for(int64_t n, int64_t chunk, int64_t cost, RangeFn f);

int threads();         ///< how many threads parallel_for may use
void set_threads(int); ///< 0 = as many as the machine has

/// For the first line of main. Threads of a team meet at the end of every kernel, and libgomp lets them spin for up to 16 ms before they
/// sleep: where other programs want the processors, they take them from the very thread they wait for, and a step lasts ten times as
/// long. How long they spin is read from the environment before main begins, so the program starts itself once more, as the same
/// process, with GOMP_SPINCOUNT=1000, some 50 microseconds. Does nothing where GOMP_SPINCOUNT or OMP_WAIT_POLICY is set.
void spin_briefly(char** argv);
/// What the environment says about it: turns, or a policy.
const char* waiting_text();

}  // namespace facet
