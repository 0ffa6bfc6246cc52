#include "tensor/kernels/dropout.h"

#include "autograd/ops.h"
#include "autograd/ops/rows.h"
#include "autograd/recorded_dropout.h"
#include "tensor/gpu/runtime.h"

namespace facet {
namespace {

/// A key of the host's, or of words in memory.
struct Drawn {
  Key key;
  Saved words;
  uint32_t salt = 0;
  MaskKey operator()() const { return words ? MaskKey{0, 0, words.get().view().as<int32_t>(), salt} : MaskKey{key.hi, key.lo}; }
};

Tensor drop(const Tensor& x, double p, const Drawn& mask);

struct DropoutGrad {
  Drawn mask;
  double p;
  Kept x;  // for recompute alone
  void operator()(Grads dy, Sinks dx) { dropout(dy[0].view(), mask(), 1 - p, dx[0].dst(dy[0].dtype())); }
  bool recomputes(uint16_t) const { return static_cast<bool>(x); }
  Tensor recompute(uint16_t) const { return drop(x.get(), p, mask); }
};

Tensor drop(const Tensor& x, double p, const Drawn& mask) {
  const OpScope scope("dropout");
  check_floating("dropout", "x", x);
  if (!(p >= 0 && p < 1)) fail(Kind::usage, "dropout: p {}: expected 0 <= p < 1", p);
  Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  dropout(with_dense_rows(x).view(), mask(), 1 - p, y.out());
  if (tracing(x)) attach("dropout", {&y}, {&x}, DropoutGrad{mask, p, recomputing() ? Kept(x) : Kept()});
  return y;
}

void check_counters(Key key) {
  if (key.counters != Counters::partitionable) fail(Kind::usage, "dropout: expected a key with partitionable counters");
}

}  // namespace

Tensor dropout(const Tensor& x, double p, Key key) {
  check_counters(key);
  if (x && x.device() == Device::gpu && gpu::capturing())
    fail(Kind::usage, "dropout: its key is the host's and would be the same in every replay; give it words in device memory (autograd/recorded_dropout.h)");
  return drop(x, p, {key, {}});
}

Tensor dropout(const Tensor& x, double p, const Tensor& words, uint32_t salt) {
  if (!words || words.dtype() != DType::i32 || !(words.shape() == Shape{2}) || !words.contiguous() || (x && words.device() != x.device()))
    fail(Kind::usage, "dropout: words {} {}: expected a key's two, i32, beside x", words ? name_of(words.dtype()) : "absent", words ? to_string(words.shape()) : "");
  return drop(x, p, {{}, words, salt});
}

Tensor words_of(Key key) {
  check_counters(key);
  return Tensor::from(std::vector{static_cast<int32_t>(key.hi), static_cast<int32_t>(key.lo)}, {2});
}

}  // namespace facet
