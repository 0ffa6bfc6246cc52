// Stop requests from outside. The first SIGINT, SIGTERM or SIGUSR1 asks the loop to save and leave; a second one ends the process.
#pragma once

namespace facet {

/// Installs the handlers for its lifetime and restores the old ones after it.
class StopSignals {
 public:
  StopSignals();
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;

  /// The signal that asked to stop, or 0.
  static int requested();
};

}  // namespace facet
