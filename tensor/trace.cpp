#include "tensor/trace.h"

#include <cstring>
#include <ctime>
#include <vector>

#include "tensor/profile.h"
#include "tensor/storage.h"

namespace facet {
namespace {

constexpr int most_phases = 32;
struct Totals {
  PhaseTime list[most_phases];
  int used = 0, taken = 0;  // taken: those that take_phases() handed out
  int depth = 0;
};
thread_local Totals totals;

struct Trace {
  std::vector<TraceEvent> events;
  size_t most = 0;
  double start = 0;
  Device device = Device::cpu;
  bool open = false;  // between steps: whether the next is recorded
  bool full = false;
};
Trace trace;
thread_local bool traced_thread = false;

double now() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);  // that of tensor/profile.cpp while a trace runs
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

bool recording() { return detail::tracing && traced_thread && trace.open; }

void add(TraceEvent::Kind kind, const char* name, double begin, double end, int64_t value = 0) {
  trace.events.push_back({kind, name, begin - trace.start, end - trace.start, value});
}

void add_memory() {
  const double at = now();
  add(TraceEvent::Kind::memory, "memory", at, at, static_cast<int64_t>(pool_stats(trace.device).live_bytes));
}

}  // namespace

namespace detail {

bool tracing = false;

void trace_kernel(const char* name, double begin, double end) {
  if (trace.events.size() >= trace.most + trace.most / 4) trace.open = false, trace.full = true;  // a step of that size, or no steps at all
  if (trace.open) add(TraceEvent::Kind::kernel, name, begin, end);
}

}  // namespace detail

std::span<const PhaseTime> take_phases() {
  Totals& t = totals;
  t.taken = t.used;
  return {t.list, static_cast<size_t>(t.used)};
}

Phase::Phase(const char* name) : name_(name), outermost_(totals.depth++ == 0), traced_(recording()) {
  if (traced_) add_memory();
  begin_ = now();
}

Phase::~Phase() {
  const double end = now();
  if (traced_ && detail::tracing) {
    add(TraceEvent::Kind::phase, name_, begin_, end);
    add_memory();
  }
  Totals& t = totals;
  --t.depth;
  if (!outermost_) return;
  if (t.taken) t.used = t.taken = 0;
  int i = 0;
  while (i < t.used && std::strcmp(t.list[i].name, name_) != 0) ++i;
  if (i == most_phases) return;
  if (i == t.used) t.list[t.used++] = {name_, 0};
  t.list[i].seconds += end - begin_;
}

void trace_start(Device device, int64_t most) {
  trace = {};
  trace.most = static_cast<size_t>(most);
  trace.events.reserve(trace.most + trace.most / 4);  // pages nobody writes to cost nothing; the rest is for a last step
  trace.device = device;
  trace.open = true;
  traced_thread = true;
  detail::tracing = true;
  profile_start();
  trace.start = now();
}

bool trace_full() { return trace.full; }

std::span<const TraceEvent> trace_stop() {
  if (detail::tracing) profile_stop();
  detail::tracing = traced_thread = false;
  return trace.events;
}

TraceStep::TraceStep(int64_t number) : number_(number) {
  if (detail::tracing && traced_thread && trace.events.size() >= trace.most) {
    trace.open = false;
    trace.full = true;
  }
  traced_ = recording();
  begin_ = now();
}

TraceStep::~TraceStep() {
  if (traced_ && detail::tracing) add(TraceEvent::Kind::step, "step", begin_, now(), number_);
}

}  // namespace facet
