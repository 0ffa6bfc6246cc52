// A library or own kernels: who computes a problem that both can. Asked once of every problem, of the machine itself, and kept (lt_choice.h).
//
// A library is used where it is faster and right: its results must lie as near to the own kernels' as two right ones do. What is refused is said
// in a warning; a library that is wrong somewhere costs speed, never a result.
#pragma once
#include <array>

#include "tensor/error.h"
#include "tensor/gpu/device_error.h"
#include "tensor/gpu/gemm.h"
#include "tensor/gpu/lt_choice.h"
#include "tensor/gpu/nearness.h"
#include "tensor/gpu/runtime.h"
#include "tensor/gpu/waits.h"
#include "tensor/tensor.h"

namespace facet::gpu {

/// That its results are refused.
void warn_of_library(const char* op, const char* library, size_t result, const Nearness&);

/// Seconds of f on the device: the best of three runs after one that warms up.
template <class F>
double best_seconds(F&& f) {
  f();
  double best = 0;
  for (int i = 0; i < 3; ++i) {
    Timer timer;
    timer.start();
    f();
    const double t = timer.seconds();
    best = i == 0 || t < best ? t : best;
  }
  return best;
}

enum class ComputedBy : uint64_t { library = 1, own = 2 };

template <size_t n>
struct MeasuredChoice {
  const char *op, *library;       ///< for warnings
  std::array<View, n> results;    ///< what both write; absent ones are not looked at
  Nearness limit;                 ///< of two right results

  /// Computes by one of them. `by_library` returns false, with nothing written, where it does not serve. Measures as Tuning says (gemm.h), never
  /// while a graph is captured. A library that was chosen and fails later, perhaps in another run, is chosen no more.
  template <class Library, class Own>
  void compute(LtChoices& choices, const LtKey& key, Library&& by_library, Own&& own) const {
    if (const LtChoice* known = choices.find(key)) {
      if (known->algorithm[0] != static_cast<uint64_t>(ComputedBy::library)) return own();
      try {
        if (by_library()) return;
      } catch (const Error& e) {
        if (e.kind() != Kind::environment) throw;
        warn_of_failure(e);
        choose(choices, key, ComputedBy::own, known->seconds);
      }
      return own();
    }
    if (tuning() != Tuning::on || capturing()) return own();
    const MaySync measuring;  // once for a problem
    double seconds = 0;
    bool chosen = false;
    try {
      chosen = by_library() && agrees(own) && faster(by_library, own, seconds);
    } catch (const Error& e) {
      if (e.kind() == Kind::memory) return own();  // no room to measure in
      warn_of_failure(e);
    }
    choose(choices, key, chosen ? ComputedBy::library : ComputedBy::own, seconds);
    chosen ? static_cast<void>(by_library()) : own();
  }

 private:
  // On a device that is lost own kernels fail, too.
  void warn_of_failure(const Error& e) const { warn(fmt::format("{}: {} fails, own kernels go on: {}", op, library, e.what())); }
  static void choose(LtChoices& choices, const LtKey& key, ComputedBy by, double seconds) {
    LtChoice c;
    c.algorithm[0] = static_cast<uint64_t>(by), c.seconds = seconds;
    choices.add(key, c);
    choices.save();
  }
  std::array<Tensor, n> fetched() const {
    std::array<Tensor, n> list;
    for (size_t i = 0; i < n; ++i)
      if (results[i]) list[i] = fetch_f32(results[i]);
    return list;
  }
  // The library's results are there.
  template <class Own>
  bool agrees(Own&& own) const {
    const std::array<Tensor, n> theirs = fetched();
    own();
    const std::array<Tensor, n> ours = fetched();
    for (size_t i = 0; i < n; ++i) {
      if (!ours[i]) continue;
      const Nearness found = nearness(theirs[i], ours[i]);
      if (found.within(limit)) continue;
      warn_of_library(op, library, i, found);
      return false;
    }
    return true;
  }
  template <class Library, class Own>
  static bool faster(Library&& by_library, Own&& own, double& seconds) {
    const double theirs = best_seconds(by_library), ours = best_seconds(own);
    seconds = theirs < ours ? theirs : ours;
    return theirs < ours;
  }
};

}  // namespace facet::gpu
