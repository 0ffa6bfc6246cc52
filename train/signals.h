// Stop requests from outside. The first SIGINT, SIGTERM or SIGUSR1 asks whoever works to come
// to an end (the training loop saves and leaves); a second one ends the process.
#pragma once

namespace facet {

/// Installs the handlers for its lifetime and restores the old ones after it.
class StopSignals {
 public:
  /// `say`: a literal for standard error when the first one comes; null: nothing.
  explicit StopSignals(const char* say = nullptr);
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;

  /// The signal that asked to stop, or 0.
  static int requested();
};

}  // namespace facet
