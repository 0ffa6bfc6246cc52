#include "tensor/cpu/tier.h"

#include <cstdlib>
#include <string_view>

#include "tensor/error.h"

namespace facet::cpu {

Tier best_tier() {
#ifdef FACET_X86_TIERS
  static const Tier best = [] {
    __builtin_cpu_init();
    const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
    const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                    __builtin_cpu_supports("avx512cd");
    return v4 ? Tier::avx512 : v3 ? Tier::avx2 : Tier::portable;
  }();
  return best;
#else
  return Tier::portable;
#endif
}

namespace {
Tier from_environment() {
  const char* asked = std::getenv("FACET_TIER");
  if (!asked || !*asked) return best_tier();
  for (Tier t : {Tier::portable, Tier::avx2, Tier::avx512}) {
    if (std::string_view(asked) != name_of(t)) continue;
    if (t > best_tier()) fail(Kind::environment, "FACET_TIER={}: this CPU runs at most {}", asked, name_of(best_tier()));
    return t;
  }
  fail(Kind::usage, "FACET_TIER={}: expected portable, avx2 or avx512", asked);
}
Tier& chosen() {
  static Tier tier = from_environment();
  return tier;
}
}  // namespace

Tier current_tier() { return chosen(); }

void set_tier(Tier t) {
  if (t > best_tier()) fail(Kind::environment, "tier {}: this CPU runs at most {}", name_of(t), name_of(best_tier()));
  chosen() = t;
}

const char* name_of(Tier t) {
  switch (t) {
    case Tier::portable: return "portable";
    case Tier::avx2: return "avx2";
    default: return "avx512";
  }
}

}  // namespace facet::cpu
