// The only file that sees OpenMP.
#include "tensor/parallel.h"

#include <omp.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

namespace facet {
namespace {
// Waking a team costs some 5 microseconds: below this many element operations one thread is faster.
constexpr int64_t worth_a_team = 1 << 16;
int thread_count = 0;
constexpr const char *turns = "GOMP_SPINCOUNT", *policy = "OMP_WAIT_POLICY", *few_turns = "1000";  // what libgomp reads
}  // namespace

int threads() {
  if (thread_count == 0) set_threads(0);
  return thread_count;
}

void set_threads(int n) {
  thread_count = n > 0 ? n : std::max(1, omp_get_num_procs());
}

void spin_briefly(char** argv) {
  if (std::getenv(turns) || std::getenv(policy)) return;
  ::setenv(turns, few_turns, 1);
  ::execv("/proc/self/exe", argv);  // returns where there is no /proc: then threads wait as libgomp lets them
}

const char* waiting_text() {
  if (const char* set = std::getenv(policy)) return set;
  const char* set = std::getenv(turns);
  return set ? set : "as libgomp does";
}

void parallel_for(int64_t n, int64_t chunk, int64_t cost, RangeFn f) {
  if (n <= 0) return;
  chunk = std::max<int64_t>(1, chunk);
  const int64_t chunks = (n + chunk - 1) / chunk;
  const int team = static_cast<int>(std::min<int64_t>(threads(), chunks));
  if (team <= 1 || n * std::max<int64_t>(1, cost) < worth_a_team || omp_in_parallel()) {
    for (int64_t c = 0; c < chunks; ++c) f(c * chunk, std::min(n, (c + 1) * chunk));
    return;
  }
#pragma omp parallel for schedule(dynamic, 1) num_threads(team)
  for (int64_t c = 0; c < chunks; ++c) f(c * chunk, std::min(n, (c + 1) * chunk));
}

}  // namespace facet
