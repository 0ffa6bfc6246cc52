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
///   step >= steps              min_ratio (constant: 1)
/// `steps` includes the warm-up (optax: decay_steps; transformers: num_training_steps).
struct Schedule {
  enum class Shape { constant, linear, cosine };
  Shape shape = Shape::constant;
  int64_t warmup = 0;
  int64_t steps = 0;
  double min_ratio = 0;

  double operator()(int64_t step) const;
};

/// "constant", "linear" or "cosine"; throws Error(Kind::usage) listing them otherwise.
Schedule::Shape schedule_shape(std::string_view name);
const char* name_of(Schedule::Shape);

}  // namespace facet
