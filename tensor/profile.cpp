#include "tensor/profile.h"

#include <atomic>
#include <cstring>
#include <ctime>

#include "tensor/parallel.h"
#include "tensor/trace.h"

namespace facet {
namespace {

constexpr int most = 64;
KernelTime totals[most];
int used = 0;
clockid_t clock_kind = CLOCK_MONOTONIC;
double begin = 0;

thread_local bool counted = false;  // this thread called profile_start()
thread_local int depth = 0;
const char* current;
double entered;

std::atomic<int64_t> products, product_flops;

double now() {
  timespec t;
  clock_gettime(clock_kind, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

}  // namespace

namespace detail {

bool profiling = false;
bool counting_products = false;

void add_product(int64_t flops) {
  products.fetch_add(1, std::memory_order_relaxed);
  product_flops.fetch_add(flops, std::memory_order_relaxed);
}

bool enter_kernel(const char* name) {
  if (!counted || !name) return false;
  if (depth++ == 0) {
    current = name;
    entered = now();
  }
  return true;
}

void leave_kernel() {
  if (--depth > 0) return;
  const double left = now(), seconds = left - entered;
  if (detail::tracing) detail::trace_kernel(current, entered, left);
  int i = 0;
  while (i < used && std::strcmp(totals[i].name, current) != 0) ++i;
  if (i == most) return;
  if (i == used) totals[used++] = {current, 0, 0};
  ++totals[i].calls;
  totals[i].seconds += seconds;
}

}  // namespace detail

void profile_start() {
  used = 0;
  counted = true;
  detail::profiling = true;
  clock_kind = threads() > 1 || detail::tracing ? CLOCK_MONOTONIC : CLOCK_THREAD_CPUTIME_ID;
  begin = now();
}

double profile_seconds() { return now() - begin; }

KernelTimes profile_stop() {
  counted = detail::profiling = false;
  return {totals, totals + used};
}

void count_products() {
  products = product_flops = 0;
  detail::counting_products = true;
}

Products counted_products() {
  detail::counting_products = false;
  return {products, product_flops};
}

}  // namespace facet
