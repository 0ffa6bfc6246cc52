// The bookkeeping of rows that go on by themselves, on the CPU and on the GPU.
#include "tensor/kernels/decode_rows.h"

#include "tensor/rng.h"
#include "tests/gpu/device.h"

using namespace facet;
using namespace facet::test;

namespace {

struct Case {
  int32_t token, position, last;
  double id, sound;
  int32_t token_after, position_after;
};
constexpr Case cases[] = {
    {3, 4, 9, 11, 1, 11, 5},    // goes on
    {3, 4, 4, 11, 1, 3, -1},    // as far as it may
    {3, 4, 9, 50, 1, 3, -1},    // one of the tokens that end a row
    {3, 4, 9, 51, 1, 3, -1},    // the other
    {3, 4, 9, 11, 0, 3, -1},    // no numbers
    {3, -1, 9, 11, 1, 3, -1},   // had ended
    {3, -1, -2, 0, 0, 3, -1},   // nobody was there
};
constexpr int64_t n = std::size(cases);

Tensor state_of(int32_t step) {
  const Tensor state = Tensor::zeros({row_fields, n}, DType::i32);
  int32_t* s = state.out().as<int32_t>();
  for (int64_t r = 0; r < n; ++r) {
    const Key k = fold_in(key(9), static_cast<uint32_t>(r));
    s[row_token * n + r] = cases[r].token, s[row_position * n + r] = cases[r].position, s[row_last * n + r] = cases[r].last;
    s[row_step * n + r] = step, s[row_key_hi * n + r] = static_cast<int32_t>(k.hi), s[row_key_lo * n + r] = static_cast<int32_t>(k.lo);
  }
  return state;
}

Tensor told() {
  const Tensor t = Tensor::empty({n, 4}, DType::f64);
  double* to = t.out().as<double>();
  for (const Case& c : cases) *to++ = c.id, *to++ = -1.5, *to++ = 2.5, *to++ = c.sound;
  return t;
}

}  // namespace

TEST_CASE("decode rows: advancing, where rows end, and the log", "[emulated]") {
  gpu::emulate(true);
  const Tensor stop = Tensor::from(std::vector<int32_t>{50, 51}, {2});
  for (const Device device : {Device::cpu, Device::gpu})
    for (const int32_t step : {0, 2, 3}) {  // room for three steps: the last is not logged
      INFO(name_of(device) << " step " << step);
      const Tensor state = state_of(step).to(device), log = Tensor::full({3, n, 4}, 7, DType::f64).to(device);
      advance_rows(told().to(device).view(), stop.to(device).view(), state.out(), log.out());
      for (int64_t r = 0; r < n; ++r) {
        const Case& c = cases[r];
        INFO("row " << r);
        CHECK(state.at({row_token, r}) == c.token_after);
        CHECK(state.at({row_position, r}) == c.position_after);
        CHECK(state.at({row_step, r}) == step + 1);
        CHECK(state.at({row_last, r}) == c.last);
        for (int64_t s = 0; s < 3; ++s) {
          CHECK(log.at({s, r, 0}) == (s != step ? 7 : c.position < 0 ? -1 : c.id));
          CHECK(log.at({s, r, 1}) == (s != step ? 7 : -1.5));
          CHECK(log.at({s, r, 3}) == (s != step ? 7 : c.sound));
        }
      }
      advance_rows(told().to(device).view(), {}, state.out(), log.out());  // no token ends a row
      CHECK(state.at({row_position, 0}) == 6);
    }
}

TEST_CASE("decode rows: the numbers tokens are drawn under are those of the host's keys", "[emulated]") {
  gpu::emulate(true);
  for (const Device device : {Device::cpu, Device::gpu})
    for (const Counters counters : {Counters::partitionable, Counters::original}) {
      const Tensor state = state_of(0).to(device), u = Tensor::empty({n}, DType::f32, device);
      row_uniforms(state.view(), counters == Counters::original, u.out());
      for (int64_t r = 0; r < n; ++r)
        CHECK(u.at({r}) == uniform(fold_in(fold_in(key(9, counters), static_cast<uint32_t>(r)), static_cast<uint32_t>(cases[r].position + 1))));
    }
}
