// Training passes over a model's body (all but the head), recorded once per batch shape as CUDA graphs and replayed: hundreds of launches
// become two. The head stays outside, since how many rows carry loss differs from batch to batch.
//
//   BodyGraphs graphs(model);
//   const Tensor h = graphs.forward(tokens);   // hidden rows [B, T, D]
//   loss(h);                                   // runs its backward pass down to h
//   graphs.backward();                         // from h on; nothing to do after an eager pass
//
// On the CPU, under taps, and the first times a shape comes, passes run eagerly; replaying gives the same bits. Gradients of
// parameters must keep their addresses (Optimizer::keep_gradients); where they do not, the shape is recorded anew. Dropout draws by
// keys of the host and refuses to be recorded: models that drop are not for this.
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

}  // namespace facet
