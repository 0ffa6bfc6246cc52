// CUDA graphs: work recorded once and replayed with one call, which costs the host microseconds instead of hundreds of launches.
//
//   step(), step();                                             // eagerly: they fill the pool and tune products
//   Graph graph;
//   graph.record(std::make_shared<Arena>(), [&] { step(); });
//   for (...) graph.replay();
//
// What is recorded must launch the same kernels on the same addresses every time: inputs, positions, counters and stop flags live in device
// memory that is written before replay (copies from the host are not recorded), and nothing may wait for the GPU. Memory allocated while
// recording belongs to the graph until it is dropped.
#pragma once
#include <algorithm>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "tensor/gpu/device_error.h"
#include "tensor/gpu/pool.h"
#include "tensor/gpu/runtime.h"
#include "tensor/kernels/door.h"

namespace facet::gpu {

/// False: everything is launched (FACET_GPU_SYNC), since a device that breaks inside of a graph does not say where.
inline bool records_graphs() { return !waits_for_launches(); }

class Graph {
 public:
  Graph() = default;
  ~Graph() { reset(); }
  Graph(const Graph&) = delete;

  /// Records f at once, into an arena that several graphs may share: what one leaves behind the next may read.
  template <class F>
  void record(const std::shared_ptr<Arena>& arena, F&& f) {
    reset();
    const ArenaScope scope(*arena);
    Recording recording;
    f();
    exec_ = recording.finish();
    recorded_ = true;
    arena_ = arena;
  }
  void replay() const {
    if (!exec_) return;  // f launched nothing
    detail::note_operation("a replayed graph");
    gpu::replay(exec_);
  }

  bool recorded() const { return recorded_; }
  /// Forgets what was recorded. Needed when a shape or an address changes.
  void reset() {
    if (exec_) destroy_graph(exec_);
    exec_ = nullptr;
    recorded_ = false;
    arena_.reset();
  }

 private:
  struct Recording {
    bool open = true;
    Recording() { begin_capture(); }
    ~Recording() {
      if (open) end_capture(false);
    }
    void* finish() {
      open = false;
      return end_capture(true);
    }
  };
  void* exec_ = nullptr;  // null: nothing was launched
  bool recorded_ = false;
  std::shared_ptr<Arena> arena_;
};

/// Work that comes once in a step and depends on nothing but addresses: launched when they are new, recorded when they come for the second time
/// in a row, and replayed from then on. What shares an arena leaves nothing there for others, and does not run beside them.
class RepeatedWork {
 public:
  /// True: replayed.
  template <class F>
  bool run(std::span<const void* const> addresses, F&& launch, std::shared_ptr<Arena> arena = {}) {
    if (!std::ranges::equal(addresses, addresses_) || !records_graphs()) {
      graph_.reset();
      addresses_.clear();
      launch();
      addresses_.assign(addresses.begin(), addresses.end());
      return false;
    }
    if (!graph_.recorded()) graph_.record(arena ? arena : std::make_shared<Arena>(), launch);
    graph_.replay();
    return true;
  }

 private:
  Graph graph_;
  std::vector<const void*> addresses_;
};

}  // namespace facet::gpu
