// Stop requests from outside. The first SIGINT, SIGTERM or SIGUSR1 asks whoever works to come
// to an end (the training loop saves and leaves); a second one ends the process.
#pragma once
#include "tensor/error.h"

namespace facet {

/// Installs the handlers for its lifetime and restores the old ones after it. Inside another one, whose request it keeps, it only says
/// something else.
class StopSignals {
 public:
  /// `say`: a literal for standard error when the first one comes; null: nothing.
  explicit StopSignals(const char* say = nullptr);
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;

  /// The signal that asked to stop, or 0.
  static int requested();

 private:
  const char* said_before_;
};

/// What ends whoever stopped for this signal: SIGINT is the user's wish, the others ask to be started again.
Kind stop_kind(int signal);

}  // namespace facet
