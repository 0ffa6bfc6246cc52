// The head of recorded training passes (nn/body_graphs.h) with its loss: a graph for each of the few numbers of rows it computes
// (autograd/ops/linear_loss.h). Which rows they are, their labels, and what the loss knows of them lie in device memory.
#pragma once
#include <memory>
#include <vector>

#include "autograd/ops/linear_loss.h"
#include "tensor/gpu/graph.h"

namespace facet {

class RecordedLoss {
 public:
  /// HeadTask::run() of a task with rows: gradients are written into dh and added to dw (absent: w is frozen; both absent: values alone). A number of
  /// rows that is new is launched, so that products choose their algorithms; when it comes again it is recorded, and replayed from then on: the
  /// same bits. The answers are on the GPU and stay until the next call.
  Tensor run(const HeadTask&, const Tensor& dh = {}, const Tensor& dw = {});
  void reset() { entries_.clear(), arena_.reset(); }
  /// Passes that were replayed.
  int64_t replays() const { return replays_; }

 private:
  struct Entry {
    bool all;          // every row carries loss
    LogitForm form;
    SideLoss loss;
    Tensor list, side;  // what the kernels read and write
    gpu::RepeatedWork work;
  };
  Entry* entry(const HeadTask&);

  std::shared_ptr<gpu::Arena> arena_;  // of all: one runs at a time, and leaves nothing in it
  std::vector<std::unique_ptr<Entry>> entries_;
  int64_t replays_ = 0;
};

}  // namespace facet
