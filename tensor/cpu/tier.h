// One kernel source, several instruction sets. CMake compiles the files named in FACET_TIERED_SOURCES once per tier, each time
// with FACET_TIER set to the tier's namespace (portable, avx2, avx512); the CPU is asked once which body to run.
//
//   tensor/kernels/scale.h    namespace facet::cpu { extern const Kernel<void(View x, double s, Out y)> scale; }
//   tensor/cpu/scale.cpp      namespace facet::cpu::FACET_TIER { void scale(View x, double s, Out y) { ... } }
//                             FACET_TIERED(scale)
//
// Each call is counted under the kernel's name when somebody profiles (tensor/profile.h).
//
// Rules for such files: no Eigen, no OpenMP, no exceptions, no standard containers; nothing but tensor/view.h,
// tensor/rows.h, tensor/parallel.h, tensor/scratch.h, tensor/math.h, tensor/cpu/*.h and kernel headers. Everything lives in the tier's
// namespace or is FACET_INLINE: an inline function emitted out of line under -mavx512f would be picked by the linker for every
// machine. A test reads the symbols.
#pragma once
#include <type_traits>

#include "tensor/profile.h"
#include "tensor/view.h"

namespace facet::cpu {

enum class Tier : int { portable = 0, avx2 = 1, avx512 = 2 };
Tier best_tier();      ///< what this CPU can run
Tier current_tier();   ///< best_tier(), or what FACET_TIER in the environment or set_tier() asked for
void set_tier(Tier);   ///< for tests; throws when the CPU cannot run it
const char* name_of(Tier);

/// A kernel with one body per tier, called like a function.
template <class>
struct Kernel;
template <class R, class... A>
struct Kernel<R(A...)> {
  R (*body[3])(A...);
  const char* name;
  FACET_INLINE R operator()(A... a) const {
    const KernelScope scope(std::is_void_v<R> ? name : nullptr);  // one that answers with a body does no work itself
    return body[static_cast<int>(current_tier())](a...);
  }
};

}  // namespace facet::cpu

#ifdef FACET_TIER
#ifdef FACET_TIER_IS_PORTABLE
#ifdef FACET_X86_TIERS
/// Defines the kernel object from the bodies of all tiers (in the portable compilation; nothing in the others).
#define FACET_TIERED(name)                                                                              \
  namespace facet::cpu::avx2 { decltype(portable::name) name; }                                         \
  namespace facet::cpu::avx512 { decltype(portable::name) name; }                                       \
  namespace facet::cpu { constinit const decltype(cpu::name) name{{portable::name, avx2::name, avx512::name}, #name}; }
#else
#define FACET_TIERED(name) \
  namespace facet::cpu { constinit const decltype(cpu::name) name{{portable::name, portable::name, portable::name}, #name}; }
#endif
#else
#define FACET_TIERED(name)
#endif
#endif
