// Which operation of which module is running: for an Anomaly's messages (autograd/anomaly.h) and for traces (tensor/trace.h). While neither is
// there a module costs two comparisons and an operation one. Backward runs every node in the module that recorded it.
#pragma once
#include <memory>
#include <source_location>
#include <string>
#include <vector>

#include "tensor/trace.h"

namespace facet {

/// One module of a running model, and where in the source it was entered. There is one of each as long as its thread lives.
struct ModuleName {
  const ModuleName* parent = nullptr;
  const char* part = "";  ///< "layers", "mlp"
  int64_t index = -1;     ///< 3 of layers.3; -1: none
  std::source_location where;
  std::string name, path;  ///< "layers.3", "layers.3" and "mlp", "layers.3.mlp"
  mutable std::vector<std::unique_ptr<ModuleName>> inside;
};

/// Where this thread is.
struct ModulePlace {
  const ModuleName* module = nullptr;  ///< null: in none, or nobody looks
  int operations = 0;              ///< recorded since it was entered
  bool again = false;              ///< in backward: what is recorded here was computed before, and not kept
};
ModulePlace& module_place();

/// The module whose operations are recorded in its lifetime: ModuleScope("layers", 3), and inside it ModuleScope("mlp"). `part` is a literal.
class ModuleScope {
 public:
  explicit ModuleScope(const char* part, int64_t index = -1, std::source_location where = std::source_location::current());
  ~ModuleScope();
  ModuleScope(const ModuleScope&) = delete;

 private:
  bool entered_;
  ModulePlace before_;
  detail::TraceBegin began_;
};

/// An operation, from its first line to its last.
class OpScope {
 public:
  FACET_INLINE explicit OpScope(const char* op) : span_(TraceEvent::Kind::operation, op, 0, detail::tracing ? path_of_now() : "") {}
  OpScope(const OpScope&) = delete;

 private:
  static const char* path_of_now();
  TraceSpan span_;
};

/// The modules of a backward pass in a trace: open from the first of neighbouring nodes to the last.
class BackwardModules {
 public:
  ~BackwardModules() { leave_to(0); }
  /// Before a node that `module` recorded.
  void enter(const ModuleName*);

 private:
  void leave_to(size_t depth);
  struct Open {
    const ModuleName* module;
    detail::TraceBegin began;
  };
  const ModuleName* base_ = module_place().module;  // of a checkpoint, whose own span is around all of this
  std::vector<Open> open_;
};

/// A node's backward: its module is that of whatever it records, and a trace has it as a span.
class BackwardScope {
 public:
  BackwardScope(BackwardModules&, const char* op, const ModuleName*);
  ~BackwardScope() { module_place() = before_; }
  BackwardScope(const BackwardScope&) = delete;

 private:
  ModulePlace before_;
  TraceSpan span_;
};

}  // namespace facet
