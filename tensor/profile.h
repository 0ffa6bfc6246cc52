// Where the time goes: every kernel names itself on entry. Off by default, and then one predictable branch per call; on, two
// readings of the clock. A kernel that calls another counts as one, by the name of the outer.
#pragma once
#include <cstdint>

#include "tensor/view.h"

namespace facet {

struct KernelTime {
  const char* name;
  int64_t calls;
  double seconds;
};
struct KernelTimes {
  const KernelTime *first, *last;
  FACET_INLINE const KernelTime* begin() const { return first; }
  FACET_INLINE const KernelTime* end() const { return last; }
};

/// Starts counting kernels entered by this thread, from nothing. Seconds are of this thread's processor time when kernels run on
/// one thread (waiting for a busy machine does not count), else of the clock on the wall.
void profile_start();
/// Seconds since profile_start(), on the same clock.
double profile_seconds();
/// Stops and returns the totals in order of first use, valid until the next start. At most 64 names are kept.
KernelTimes profile_stop();

/// Matrix products that went through the door of tensor/kernels/gemm.h, on every thread: how many, and the multiplications and
/// additions of their formula (2 M P N each). Integers, so tests can hold them to the last operation. Attention has a
/// kernel of its own.
struct Products {
  int64_t count = 0, flops = 0;
};
void count_products();        ///< starts from nothing; one predictable branch a product otherwise
Products counted_products();  ///< stops and tells

namespace detail {
extern bool counting_products;  // changes only while no kernel runs
void add_product(int64_t flops);
extern bool profiling;  // changes only while no kernel runs
bool enter_kernel(const char* name);
void leave_kernel();
}  // namespace detail

/// Put where a product is handed to the body that computes it.
FACET_INLINE void count_product(int64_t m, int64_t p, int64_t n) {
  if (__builtin_expect(detail::counting_products, 0)) detail::add_product(2 * m * p * n);
}

/// Put at the top of a kernel's door.
class KernelScope {
 public:
  FACET_INLINE explicit KernelScope(const char* name) : counts_(__builtin_expect(detail::profiling, 0) && detail::enter_kernel(name)) {}
  FACET_INLINE ~KernelScope() {
    if (__builtin_expect(counts_, 0)) detail::leave_kernel();
  }
  KernelScope(const KernelScope&) = delete;

 private:
  bool counts_;
};

}  // namespace facet
