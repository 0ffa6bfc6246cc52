// Whether layers drop, and with what key. Nothing is dropped unless a DropoutScope is open on this thread.
#pragma once
#include <optional>
#include <utility>

#include "tensor/rng.h"
#include "tensor/tensor.h"

namespace facet {

/// A key of the host; or, while a pass is recorded, the words of one that is written before every replay (autograd/recorded_dropout.h).
struct DropoutKey {
  Key key;
  Tensor words = {};
  DropoutKey(Key k) : key(k) {}
  explicit DropoutKey(Tensor w) : words(std::move(w)) {}
};

/// While it lives, layers with dropout draw their masks from fold_in(key, their own salt). A training step opens one around the
/// forward and backward pass of a micro-batch. An absent key: nothing is dropped inside.
class DropoutScope {
 public:
  explicit DropoutScope(std::optional<DropoutKey>);
  ~DropoutScope();
  DropoutScope(const DropoutScope&) = delete;

 private:
  std::optional<DropoutKey> before_;
};

/// The key of the innermost scope.
std::optional<DropoutKey> dropout_key();
/// dropout(x, p, fold_in(key, salt)) of autograd/ops.h, wherever the key is.
Tensor dropout(const Tensor& x, double p, const DropoutKey&, uint32_t salt);

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
