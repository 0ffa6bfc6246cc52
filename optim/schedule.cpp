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
  if (shape == Shape::inverse_sqrt)
    return std::max(min_ratio, std::sqrt(static_cast<double>(std::max<int64_t>(1, warmup)) / static_cast<double>(std::max<int64_t>(1, step))));
  const int64_t begin = shape == Shape::wsd ? std::max(warmup, steps - decay) : warmup;  // of the fall
  const double span = static_cast<double>(std::max<int64_t>(1, steps - begin));
  const double done = std::clamp(static_cast<double>(step - begin) / span, 0.0, 1.0);
  if (shape == Shape::exponential) return std::pow(min_ratio, done);
  const double left = shape == Shape::cosine ? 0.5 * (1 + std::cos(std::numbers::pi * done)) : 1 - done;
  return min_ratio + (1 - min_ratio) * left;
}

Schedule::Shape schedule_shape(std::string_view name) {
  for (auto s : {Schedule::Shape::constant, Schedule::Shape::linear, Schedule::Shape::cosine, Schedule::Shape::wsd, Schedule::Shape::exponential,
                 Schedule::Shape::inverse_sqrt})
    if (name == name_of(s)) return s;
  fail(Kind::usage, "schedule \"{}\": expected constant, linear, cosine, wsd, exponential or inverse-sqrt", name);
}

const char* name_of(Schedule::Shape s) {
  switch (s) {
    case Schedule::Shape::linear: return "linear";
    case Schedule::Shape::cosine: return "cosine";
    case Schedule::Shape::wsd: return "wsd";
    case Schedule::Shape::exponential: return "exponential";
    case Schedule::Shape::inverse_sqrt: return "inverse-sqrt";
    default: return "constant";
  }
}

}  // namespace facet
