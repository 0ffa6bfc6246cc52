// Decoding without the host. The last tokens of some rows go through the model, the next ones are drawn, tested and fed back, several times over,
// before anybody looks. On a GPU such a step is recorded once for each set of rows as a CUDA graph and replayed: lengths, positions, the
// counters of random numbers and the flags of ended rows live in device memory (tensor/kernels/decode_rows.h), tokens gather in a log there,
// and the host waits once for all of them. Replayed, eager and one by one: the same bits.
//
// On the CPU a step is a step. So it is on a GPU under taps, with a repetition penalty, whose history is the host's, and where draws tell what
// filters cut.
#pragma once
#include <memory>
#include <optional>

#include "infer/sampler.h"
#include "nn/language_model.h"
#include "tensor/pool_vector.h"

namespace facet {
namespace gpu {
class Arena;
}

/// How the next token is found and which tokens end a row.
struct DrawRules {
  SamplingOptions sampling;
  std::vector<int32_t> stop;
  bool operator==(const DrawRules&) const = default;
};

/// The products of the model's head before the soft-cap, [n, D] -> [n, V], as its loss forms them: f32 (f64 for f64 weights).
Tensor head_products(const LanguageModel&, const Tensor& hidden);
/// One token after each of the hidden rows [n, D]. The head goes by in blocks, as it does in training.
void draw_next(const LanguageModel&, const Tensor& hidden, const SamplingOptions&, std::span<const DrawRow>, std::span<Draw>);

class DecodeLoop {
 public:
  struct Row {
    int32_t token;     ///< the last one, drawn but not computed
    int64_t position;  ///< where it stands; -1, where rows go on alone: nobody is here
    int64_t most;      ///< tokens to be drawn, if none ends the row before
    Key key;           ///< the token at position p is drawn with fold_in(key, p); all rows' are of one kind (Counters)
    std::span<const int32_t> history = {};  ///< what the repetition penalty looks at
  };

  DecodeLoop(LanguageModel&, KvCache&);
  ~DecodeLoop();

  /// To be called where the model may be another one than before (an adapter put in use, weights that lie elsewhere): forgets what was recorded of
  /// it. Walks through its parameters, so once a text, not once a step.
  void look_at_model();
  /// Whether rows go on without the host, so that several steps can be made at once and rows that have ended may stay among the others.
  bool alone(const SamplingOptions&) const;
  /// Starts up to `steps` steps of the rows [first, first + rows.size()) of the cache, which must be selected, and tells how many: one unless they
  /// go on alone, never more than the cache's chunk or than a row can use. Does not wait for the GPU.
  int64_t start(int64_t first, std::span<const Row> rows, const DrawRules&, int64_t steps);
  /// What was drawn since start(), [steps, rows] until the next; the id -1: the row had ended. Whether it has is the caller's to say: a row that he
  /// starts again goes on. Waits for the GPU. Throws Error(Kind::guard) when
  /// logits hold NaN or infinity, or nothing was left to draw from.
  std::span<const Draw> draws();
  int64_t replays() const { return replays_; }

 private:
  struct Entry;
  Entry& entry(int64_t first, int64_t rows);
  void set_rules(const DrawRules&, Counters);
  void step(const Entry&) const;
  void step_with_host(std::span<const Row>, const SamplingOptions&);

  LanguageModel* model_;
  KvCache* cache_;
  // What is recorded: these parameters, by where they lie, these rules, and the sets of rows. Graphs take turns in one arena, since none leaves
  // anything behind in it.
  std::vector<const void*> parameters_;
  DrawRules rules_;
  Counters counters_ = Counters::partitionable;
  std::optional<Sampler> sampler_;
  Tensor stop_;  // i32 [m]
  std::shared_ptr<gpu::Arena> arena_;
  std::vector<std::unique_ptr<Entry>> entries_;
  const Entry* started_ = nullptr;  ///< whose log draws() has to read
  int64_t steps_ = 0, replays_ = 0;
  pool_vector<Draw> draws_;
};

}  // namespace facet
