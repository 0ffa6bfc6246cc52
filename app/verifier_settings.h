// Settings of every command that judges answers.
#pragma once
#include "app/options.h"
#include "data/verifier.h"

namespace facet::app {

struct VerifierSettings {
  Values verifier, reward_weights;
  double reward_timeout = ExecLimits{}.seconds;

  void declare_verifiers(Options&);
  Rewards rewards() const;  ///< empty without --verifier; throws Error(Kind::usage)
};

}  // namespace facet::app
