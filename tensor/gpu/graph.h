// CUDA graphs: work recorded once and replayed with one call, which costs the host microseconds instead of hundreds of launches.
//
//   Graph graph;
//   for (...) graph.run([&] { step(); });   // the first two calls run eagerly (they fill the pool and tune products), the third is recorded
//
// What is recorded must launch the same kernels on the same addresses every time: inputs, positions, counters and stop flags live in device
// memory that is written before replay (copies from the host are not recorded), and nothing may wait for the GPU. Memory allocated while
// recording belongs to the graph until it is dropped.
#pragma once
#include <memory>
#include <utility>

#include "tensor/gpu/pool.h"
#include "tensor/gpu/runtime.h"

namespace facet::gpu {

class Graph {
 public:
  Graph() = default;
  ~Graph() { reset(); }
  Graph(const Graph&) = delete;

  template <class F>
  void run(F&& f) {
    if (exec_) return replay(exec_);
    if (++calls_ <= warm_up) return f();
    auto arena = std::make_unique<Arena>();
    {
      const ArenaScope scope(*arena);
      Recording recording;
      f();
      exec_ = recording.finish();
    }
    arena_ = std::move(arena);
    replay(exec_);
  }
  bool recorded() const { return exec_ != nullptr; }
  /// Forgets what was recorded; the next calls warm up again. Needed when a shape or an address changes.
  void reset() {
    if (exec_) destroy_graph(exec_);
    exec_ = nullptr;
    arena_.reset();
    calls_ = 0;
  }

 private:
  static constexpr int warm_up = 2;
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
  void* exec_ = nullptr;
  std::unique_ptr<Arena> arena_;
  int calls_ = 0;
};

}  // namespace facet::gpu
