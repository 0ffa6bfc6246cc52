#include "optim/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "tensor/error.h"

namespace facet {

double Schedule::operator()(int64_t step) const {
  step = std::max<int64_t>(0, step);
  if (step < warmup) return static_cast<double>(step) / static_cast<double>(warmup);
  if (shape == Shape::constant) return 1;
  const double span = static_cast<double>(std::max<int64_t>(1, steps - warmup));
  const double done = std::min(1.0, static_cast<double>(step - warmup) / span);
  const double left = shape == Shape::linear ? 1 - done : 0.5 * (1 + std::cos(std::numbers::pi * done));
  return min_ratio + (1 - min_ratio) * left;
}

Schedule::Shape schedule_shape(std::string_view name) {
  for (auto s : {Schedule::Shape::constant, Schedule::Shape::linear, Schedule::Shape::cosine})
    if (name == name_of(s)) return s;
  fail(Kind::usage, "schedule \"{}\": expected constant, linear or cosine", name);
}

const char* name_of(Schedule::Shape s) {
  switch (s) {
    case Schedule::Shape::linear: return "linear";
    case Schedule::Shape::cosine: return "cosine";
    default: return "constant";
  }
}

}  // namespace facet
