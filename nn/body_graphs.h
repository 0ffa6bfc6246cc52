// Training passes over a model's body (all but the head), recorded once as CUDA graphs and replayed: hundreds of launches become two. The head
// with its loss is a third graph, one for each of the few numbers of rows that it computes.
//
//   model.graphs = std::make_shared<BodyGraphs>(model);
//   TrainingPass pass(model, tokens);
//   pass.cross_entropy(labels, weights, options);   // the loss, and all gradients
// or
//   pass.run(task);                     // another loss of the head's rows made of kernels, and all gradients
// or
//   pass.values(one), pass.run(other);  // a loss that the host makes of what the first task answers (log_prob_task())
// or
//   loss(pass.h);                       // any loss of the hidden rows [B, T, D]; runs its backward pass down to h
//   pass.finish();                      // from h on; nothing to do after an eager pass
//
// One pass at a time: the next one's values take the place of this one's. And one loss a pass, as always with a tape.
//
// One shape is recorded, the first to come often enough: packed rows all have it. On the CPU, under taps or an Anomaly, and the first times a shape comes,
// passes run eagerly; replaying gives the same bits. Gradients of parameters must keep their addresses (Optimizer::keep_gradients); where
// they do not, the shape is recorded anew. A parameter that the recorded pass does not write has no gradient after a replayed one, as after an eager one.
// The key of the DropoutScope that a pass is made in is written to the device like its tokens, so each replay drops what the eager pass would have
// dropped.
#pragma once
#include <memory>
#include <vector>

#include "nn/language_model.h"

namespace facet {

struct CrossEntropyOptions;
struct HeadTask;

class BodyGraphs {
 public:
  explicit BodyGraphs(LanguageModel&);
  ~BodyGraphs();
  BodyGraphs(const BodyGraphs&) = delete;

  Tensor forward(const Tokens&);
  /// From h on, which forward() returned; nothing where that has been done, or the pass was an eager one.
  void backward();
  /// The loss of h, and backward(). The task's answers, on the CPU: waits for the head, not for the body's backward pass.
  /// Throws Error(Kind::usage) where backward() has been.
  Tensor run(const HeadTask&, const Tensor& h);
  /// A task's answers alone, on the CPU; run() or backward() may follow. Waits.
  Tensor values(const HeadTask&);
  /// Calls of forward().
  int64_t passes() const { return passes_; }
  /// Passes that were replayed so far, and of their losses those that were, too.
  int64_t replays() const { return replays_; }
  int64_t loss_replays() const;

 private:
  struct Entry;
  Entry& entry(const Tokens&);
  std::vector<Parameter*> trained() const;
  void record(Entry&);
  bool gradients_moved(const Entry&) const;
  void record_backward(Entry&);
  void replay_backward(Entry&);

  LanguageModel& model_;
  std::vector<std::unique_ptr<Entry>> entries_;
  Entry* now_ = nullptr;  ///< of the last pass, if it was replayed
  bool due_ = false;      ///< its backward pass
  int64_t passes_ = 0, replays_ = 0;
};

/// One pass, through the model's graphs when it has any.
class TrainingPass {
 public:
  TrainingPass(LanguageModel& model, const Tokens& tokens)
      : model_(model), graphs_(model.graphs.get()), h(graphs_ ? graphs_->forward(tokens) : model.hidden(tokens)), number_(graphs_ ? graphs_->passes() : 0) {}
  void finish() const {
    if (BodyGraphs* const g = graphs()) g->backward();
  }
  /// linear_cross_entropy_backward of the head's logits, with labels [B, T] and weights [B, T], and finish().
  double cross_entropy(const Tensor& labels, const Tensor& weights, const CrossEntropyOptions&) const;
  /// HeadTask::run_backward() of a task over h and the model's head, and finish().
  Tensor run(const HeadTask&) const;
  /// HeadTask::values() of a task over h and the model's head; the pass goes on.
  Tensor values(const HeadTask&) const;

 private:
  BodyGraphs* graphs() const;  // throws Error(Kind::usage) when another pass was made since

  LanguageModel& model_;
  BodyGraphs* graphs_;

 public:
  const Tensor h;  ///< [B, T, D]

 private:
  int64_t number_;
};

}  // namespace facet
