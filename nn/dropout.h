// Whether layers drop, and with what key. Nothing is dropped unless a DropoutScope is open on this thread.
#pragma once
#include <optional>

#include "tensor/rng.h"

namespace facet {

/// While it lives, layers with dropout draw their masks from fold_in(key, their own salt). A training step opens one around the
/// forward and backward pass of a micro-batch. An absent key: nothing is dropped inside.
class DropoutScope {
 public:
  explicit DropoutScope(std::optional<Key>);
  ~DropoutScope();
  DropoutScope(const DropoutScope&) = delete;

 private:
  std::optional<Key> before_;
};

/// The key of the innermost scope.
std::optional<Key> dropout_key();

/// f, run whenever under the key of now: what is computed again in backward drops what it dropped in forward, whatever scope is open
/// by then.
template <class F>
auto with_dropout_of_now(F f) {
  return [f = std::move(f), key = dropout_key()](const auto& x) {
    const DropoutScope scope(key);
    return f(x);
  };
}

}  // namespace facet
