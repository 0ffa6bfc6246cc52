// Learning-rate schedules as pure functions of the step, so that a resumed run needs no state of theirs.
#pragma once
#include <cstdint>
#include <string_view>

namespace facet {

/// The factor on the peak rate at a step counted from 0: rate = peak * schedule(step).
///   step < warmup              step / warmup: the first update of a warm-up has rate 0, as optax and transformers count
///   constant                   1
///   linear                     1 down to min_ratio at `steps`
///   cosine                     the same along half a cosine
///   wsd                        1 ("stable"), then over the last `decay` steps down to min_ratio along a line (arXiv 2404.06395)
///   exponential                the same factor in every step, min_ratio at `steps`; min_ratio > 0 (optax: decay_rate^((step - warmup) / transition_steps))
///   inverse_sqrt               sqrt(max(warmup, 1) / step), not below min_ratio: from the warm-up on, and it knows no end
///   step >= steps              min_ratio (constant: 1; inverse_sqrt goes on)
/// `steps` includes the warm-up (optax: decay_steps; transformers: num_training_steps).
struct Schedule {
  enum class Shape { constant, linear, cosine, wsd, exponential, inverse_sqrt };
  Shape shape = Shape::constant;
  int64_t warmup = 0;
  int64_t steps = 0;
  double min_ratio = 0;
  int64_t decay = 0;  ///< wsd: steps of the fall at the end, `steps` being the last of them

  double operator()(int64_t step) const;
};

/// "constant", "linear", "cosine", "wsd", "exponential" or "inverse-sqrt"; throws Error(Kind::usage) listing them otherwise.
Schedule::Shape schedule_shape(std::string_view name);
const char* name_of(Schedule::Shape);

}  // namespace facet
