// Training passes over a model's body (all but the head), recorded once as CUDA graphs and replayed: hundreds of launches become two.
// The head stays outside, since how many rows carry loss differs from batch to batch.
//
//   model.graphs = std::make_shared<BodyGraphs>(model);
//   TrainingPass pass(model, tokens);   // pass.h: hidden rows [B, T, D]
//   loss(pass.h);                       // runs its backward pass down to h
//   pass.finish();                      // from h on; nothing to do after an eager pass
//
// One shape is recorded, the first to come often enough: packed rows all have it. On the CPU, under taps, and the first times a shape comes,
// passes run eagerly; replaying gives the same bits. Gradients of parameters must keep their addresses (Optimizer::keep_gradients); where
// they do not, the shape is recorded anew. Dropout draws by keys of the host and refuses to be recorded: models that drop are not for this.
#pragma once
#include <memory>
#include <vector>

#include "nn/language_model.h"

namespace facet {

class BodyGraphs {
 public:
  explicit BodyGraphs(LanguageModel&);
  ~BodyGraphs();
  BodyGraphs(const BodyGraphs&) = delete;

  Tensor forward(const Tokens&);
  void backward();
  /// Passes that were replayed so far.
  int64_t replays() const { return replays_; }

 private:
  struct Entry;
  Entry& entry(const Tokens&);
  void record_forward(Entry&);
  bool gradients_moved(const Entry&) const;

  LanguageModel& model_;
  std::vector<std::unique_ptr<Entry>> entries_;
  Entry* now_ = nullptr;  ///< whose backward pass is due
  int64_t replays_ = 0;
};

/// One pass, through the model's graphs when it has any.
class TrainingPass {
 public:
  TrainingPass(LanguageModel& model, const Tokens& tokens)
      : graphs_(model.graphs.get()), h(graphs_ ? graphs_->forward(tokens) : model.hidden(tokens)) {}
  void finish() const {
    if (graphs_) graphs_->backward();
  }

 private:
  BodyGraphs* graphs_;

 public:
  const Tensor h;  ///< [B, T, D]
};

}  // namespace facet
