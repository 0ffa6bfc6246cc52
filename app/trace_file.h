// --profile FILE: a trace of the command for a browser (chrome://tracing, ui.perfetto.dev), in Chrome's JSON format.
#pragma once
#include <string>

#include "app/console.h"
#include "app/options.h"
#include "tensor/view.h"

namespace facet::app {

/// Declares --profile.
void declare_profile(Options&, std::string* path);

/// Records while it lives and writes at its end, however that comes; does nothing without a path. Throws Error(Kind::environment) at once
/// when nothing can be written there; a disk that is full at the end is a warning.
class TraceFile {
 public:
  TraceFile(std::string path, Device, Console&);
  ~TraceFile();
  TraceFile(const TraceFile&) = delete;

 private:
  std::string path_;
  Console& console_;
};

}  // namespace facet::app
