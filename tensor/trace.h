// What a run did when: its phases (data, forward, backward, ...), how long each took, and, while somebody traces, when each began and
// ended, with the modules, operations and kernels inside (autograd/scopes.h, tensor/profile.h) and the memory in use. app/trace_file.h writes
// a trace for a browser.
//
//   { const Phase p("forward"); ... }
//
// A phase costs two readings of the clock. Everything else costs one comparison outside of a trace. On a GPU the host runs ahead: its spans
// end when their work is queued, and each has a twin that says when the device began and ended it. Kernels of a GPU are not seen, nor is
// what lies inside of a replayed graph.
#pragma once
#include <cstdint>
#include <span>

#include "tensor/view.h"

namespace facet {

/// Seconds of one phase on the wall clock. Phases inside of others belong to the outermost one.
struct PhaseTime {
  const char* name;
  double seconds;
};
/// What phases of this thread took since the last call, in order of first use; valid until the next phase. At most 32 names are kept.
std::span<const PhaseTime> take_phases();

/// A named part of a run, for as long as this lives. `name` is a literal.
class Phase {
 public:
  explicit Phase(const char* name);
  ~Phase();
  Phase(const Phase&) = delete;

 private:
  const char* name_;
  double begin_;
  int64_t mark_ = -1;
  bool outermost_, traced_;
};

struct TraceEvent {
  enum class Kind : uint8_t { step, phase, module, operation, backward, kernel, memory };
  Kind kind;
  const char* name;
  double begin, end;       ///< seconds since trace_start()
  int64_t value = 0;       ///< step: its number; memory: bytes in use at `begin`
  const char* where = "";  ///< path of the module: "layers.3.mlp"
  bool on_device = false;  ///< the device's clock: the twin of an event of the host
};

/// f() as a phase.
template <class F>
auto in_phase(const char* name, F f) {
  const Phase phase(name);
  return f();
}

/// Records what this thread does from now on; memory is that of the device. Once there are `most` events, steps that begin are not
/// recorded any more, so that what is there is whole.
void trace_start(Device, int64_t most = 400'000);
/// True when steps had to be left out.
bool trace_full();
/// Ends the recording. Scopes that were open are missing. Valid until the next trace_start(). Waits for a GPU that is traced.
std::span<const TraceEvent> trace_stop();

namespace detail {
extern bool tracing;  // changes only while no kernel runs

/// Seam with tensor/profile.cpp, which sees every kernel begin and end; seconds of the monotonic clock.
void trace_kernel(const char* name, double begin, double end);

/// When a span began, to end it. on: it is recorded.
struct TraceBegin {
  double at = 0;
  int64_t mark = -1;
  bool on = false;
};
TraceBegin trace_begin();
void trace_end(const TraceBegin&, TraceEvent::Kind, const char* name, int64_t value, const char* where);
}  // namespace detail

/// A span of the trace, for as long as this lives. `name` and `where` outlive the trace.
class TraceSpan {
 public:
  FACET_INLINE TraceSpan(TraceEvent::Kind kind, const char* name, int64_t value = 0, const char* where = "")
      : kind_(kind), name_(name), where_(where), value_(value) {
    if (__builtin_expect(detail::tracing, 0)) begin_ = detail::trace_begin();
  }
  FACET_INLINE ~TraceSpan() {
    if (__builtin_expect(begin_.on, 0)) detail::trace_end(begin_, kind_, name_, value_, where_);
  }
  TraceSpan(const TraceSpan&) = delete;

 private:
  TraceEvent::Kind kind_;
  const char *name_, *where_;
  int64_t value_;
  detail::TraceBegin begin_;
};

/// One step of a run, for the trace alone: phases stand inside of it.
class TraceStep {
 public:
  explicit TraceStep(int64_t number);
  TraceStep(const TraceStep&) = delete;

 private:
  TraceSpan span_;
};

}  // namespace facet
