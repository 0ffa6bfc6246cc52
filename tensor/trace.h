// What a run did when: its phases (data, forward, backward, ...), how long each took, and, while somebody traces, when each began and
// ended, with the kernels inside (tensor/profile.h) and the memory in use. app/trace_file.h writes a trace for a browser.
//
//   { const Phase p("forward"); ... }
//
// A phase costs two readings of the clock; a kernel outside of a trace costs nothing more than tensor/profile.h says. On a GPU the host
// runs ahead: phases end when their work is queued, unless they wait for it, and kernels are not seen.
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
  bool outermost_, traced_;
};

struct TraceEvent {
  enum class Kind : uint8_t { step, phase, kernel, memory };
  Kind kind;
  const char* name;
  double begin, end;  ///< seconds since trace_start()
  int64_t value;      ///< step: its number; memory: bytes in use at `begin`
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
/// Ends the recording. Scopes that were open are missing. Valid until the next trace_start().
std::span<const TraceEvent> trace_stop();

/// One step of a run, for the trace alone: phases stand inside of it.
class TraceStep {
 public:
  explicit TraceStep(int64_t number);
  ~TraceStep();
  TraceStep(const TraceStep&) = delete;

 private:
  int64_t number_;
  double begin_;
  bool traced_;
};

namespace detail {
/// Seam with tensor/profile.cpp, which sees every kernel begin and end; seconds of the monotonic clock.
extern bool tracing;
void trace_kernel(const char* name, double begin, double end);
}  // namespace detail

}  // namespace facet
