#include "tensor/trace.h"

#include <cstring>
#include <ctime>
#include <utility>
#include <vector>

#include "tensor/gpu/moments.h"
#include "tensor/gpu/runtime.h"
#include "tensor/gpu/waits.h"
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
  struct Marks {
    size_t event;  // whose begin and end these marks are
    int64_t begin, end;
  };
  std::vector<TraceEvent> events;
  std::vector<Marks> marks;  // of a GPU
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

void add(const TraceEvent& e) {
  if (trace.events.size() >= trace.most + trace.most / 4) trace.open = false, trace.full = true;  // a step of that size, or no steps at all
  trace.events.push_back(e);
  trace.events.back().begin -= trace.start;
  trace.events.back().end -= trace.start;
}

void add_memory() {
  const double at = now();
  add({TraceEvent::Kind::memory, "memory", at, at, static_cast<int64_t>(pool_stats(trace.device).live_bytes)});
}

int64_t mark() { return trace.device == Device::gpu ? gpu::mark_moment() : -1; }

// What the device did has the times of its marks. Its first mark was passed when the trace began.
void add_device_twins() {
  const std::vector<double> at = gpu::read_moments();
  for (const Trace::Marks& m : std::exchange(trace.marks, {})) {
    if (static_cast<size_t>(m.end) >= at.size()) return;  // the device is lost
    TraceEvent twin = trace.events[m.event];
    twin.begin = at[static_cast<size_t>(m.begin)];
    twin.end = at[static_cast<size_t>(m.end)];
    twin.on_device = true;
    trace.events.push_back(twin);
  }
}

}  // namespace

namespace detail {

bool tracing = false;

void trace_kernel(const char* name, double begin, double end) {
  if (trace.open) add({TraceEvent::Kind::kernel, name, begin, end});
}

TraceBegin trace_begin() { return recording() ? TraceBegin{now(), mark(), true} : TraceBegin{}; }

void trace_end(const TraceBegin& b, TraceEvent::Kind kind, const char* name, int64_t value, const char* where) {
  if (!tracing) return;
  add({kind, name, b.at, now(), value, where});
  if (b.mark < 0) return;
  if (const int64_t end = mark(); end >= 0) trace.marks.push_back({trace.events.size() - 1, b.mark, end});
}

}  // namespace detail

std::span<const PhaseTime> take_phases() {
  Totals& t = totals;
  t.taken = t.used;
  return {t.list, static_cast<size_t>(t.used)};
}

Phase::Phase(const char* name) : name_(name), outermost_(totals.depth++ == 0), traced_(recording()) {
  if (traced_) add_memory(), mark_ = mark();
  begin_ = now();
}

Phase::~Phase() {
  const double end = now();
  if (traced_ && detail::tracing) {
    detail::trace_end({begin_, mark_, true}, TraceEvent::Kind::phase, name_, 0, "");
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
  if (device == Device::gpu) {
    const gpu::MaySync allowed;
    gpu::synchronize();  // what an idle device marks, it marks now: the marks and this clock begin together
    gpu::mark_moment();
  }
  trace.start = now();
}

bool trace_full() { return trace.full; }

std::span<const TraceEvent> trace_stop() {
  if (detail::tracing) {
    profile_stop();
    if (trace.device == Device::gpu) add_device_twins();
  }
  detail::tracing = traced_thread = false;
  return trace.events;
}

namespace {
// Whether there is room for another step is asked before it begins.
int64_t admitted(int64_t number) {
  if (detail::tracing && traced_thread && trace.events.size() >= trace.most) {
    trace.open = false;
    trace.full = true;
  }
  return number;
}
}  // namespace

TraceStep::TraceStep(int64_t number) : span_(TraceEvent::Kind::step, "step", admitted(number)) {}

}  // namespace facet
