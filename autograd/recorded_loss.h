// The cross-entropy at the end of a recorded training pass (nn/body_graphs.h): where the same rows carry loss in pass after pass, as in packed
// text, its kernels are recorded once and replayed.
#pragma once
#include <memory>
#include <optional>

#include "autograd/ops.h"
#include "tensor/gpu/graph.h"

namespace facet {

class RecordedCrossEntropy {
 public:
  /// linear_cross_entropy_backward, of a pass that is not recorded: its rows are those to expect.
  double eager(const Tensor& h, const Tensor& w, const Tensor& labels, const Tensor& weights, const CrossEntropyOptions& options);

  /// Of one that is. The value; gradients are written into dh and added to dw (absent: w is frozen). Nothing, and nothing written, when no row
  /// carries loss. All but labels and weights lie on the GPU and, until reset(), in the same memory. The first time its kernels are recorded
  /// into the arena, if its rows are those of the eager pass before it; whenever such rows come they are replayed, others are launched:
  /// the same bits. What is recorded into the arena afterwards runs after it.
  std::optional<double> run(const Tensor& h, const Tensor& w, const Tensor& labels, const Tensor& weights, const CrossEntropyOptions& options,
                            const Tensor& dh, const Tensor& dw, const std::shared_ptr<gpu::Arena>& arena);
  void reset();
  /// Passes that were replayed.
  int64_t replays() const { return replays_; }

 private:
  pool_vector<int64_t> rows_;
  CrossEntropyOptions options_;
  Tensor list_, weights_, losses_;  // what the kernels read and write
  gpu::Graph graph_;
  bool decided_ = false;            // recorded, or not for these
  int64_t replays_ = 0;
};

}  // namespace facet
