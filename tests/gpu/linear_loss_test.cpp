// The loss head on GPU tensors: its standard losses never wait for the device, a loss of the host's kind waits once per block.
#include <algorithm>
#include <cmath>

#include "autograd/ops.h"
#include "autograd/ops/linear_loss.h"
#include "autograd/tape.h"
#include "tensor/gpu/runtime.h"
#include "tests/gpu/device.h"

using namespace facet;
using namespace facet::test;

namespace {

struct Problem {
  Tensor h, w, labels, weights;
  Problem(Random& r, int64_t N, int64_t D, int64_t V, DType d) : h(r.normal({N, D}, d).clone()), w(r.normal({V, D}, d, 0.3).clone()) {
    labels = r.ids({N}, V).clone();
    for (int64_t n = 2; n < N; n += 3) labels.out().as<int32_t>()[n] = -1;
    weights = r.uniform({N}, 0.1, 2, DType::f32).clone();
    if (N > 4) weights.out().as<float>()[4] = 0;
  }
};


}  // namespace

TEST_CASE("gpu linear_cross_entropy: value and gradients as the CPU's, without waiting", "[emulated]") {
  gpu::emulate(true);
  Random r(1);
  for (const DType d : {DType::f32, DType::bf16})
    for (const auto& [N, D, V] : {std::tuple<int64_t, int64_t, int64_t>{1, 8, 5}, {7, 16, 33}, {12, 40, 300}}) {
      INFO(N << " rows, " << D << ", " << V << " words, " << name_of(d));
      const Problem p(r, N, D, V, d);
      const CrossEntropyOptions o{.cap = 9, .label_smoothing = 0.1, .z_loss = 1e-3};
      const Tensor ch = leaf(p.h), cw = leaf(p.w), gh = leaf(p.h.to(Device::gpu)), gw = leaf(p.w.to(Device::gpu));
      const Tensor here = linear_cross_entropy(ch, cw, p.labels, p.weights, o);
      backward(here);
      const int64_t before = gpu::syncs();
      const Tensor there = linear_cross_entropy(gh, gw, p.labels, p.weights, o);
      backward(there);
      CHECK(gpu::syncs() == before);
      CHECK(there.device() == Device::gpu);
      const double limit = d == DType::f32 ? 1e-10 : 5e-5;
      CHECK(nmse_within(there.detach().to(Device::cpu), here, limit));
      CHECK(nmse_within(grad_of(gh).to(Device::cpu), grad_of(ch), limit));
      CHECK(nmse_within(grad_of(gw).to(Device::cpu), grad_of(cw), limit));
    }
}

TEST_CASE("gpu linear_loss: blocks of rows, rows in between, a loss of the host's kind, exact logits", "[emulated]") {
  gpu::emulate(true);
  Random r(2);
  for (const DType d : {DType::f32, DType::bf16})
    for (const bool accumulate : {false, true}) {
      const int64_t N = 90, D = 24, V = 40;
      const Problem p(r, N, D, V, d);
      const Tensor gh = p.h.to(Device::gpu), gw = p.w.to(Device::gpu);
      const LogitForm form{.cap = 5, .temperature = 0.8, .mean = true, .block = 17, .exact = true};
      const LinearHead here("test", p.h, p.w, p.labels, form), there("test", gh, gw, p.labels, form);
      std::vector<double> values[2];
      const auto rows = here.rows([](int64_t n) { return n % 5 != 1 || n > 50; });
      const auto loss = [&](std::vector<double>& to) {
        return [&to](int64_t n, const LogitRow& z) {
          to.push_back(z.label - z.lse);
          return RowGrad{0.5 + 1e-3 * static_cast<double>(n), -0.7, 0.1};
        };
      };
      const Tensor dh = r.normal({N, D}, d).clone(), dw = r.normal({V, D}, DType::f32).clone(), gdh = dh.to(Device::gpu), gdw = dw.to(Device::gpu);
      here.run(rows, loss(values[0]), dh.out(accumulate), dw.out(accumulate));
      there.run(rows, loss(values[1]), gdh.out(accumulate), gdw.out(accumulate));
      CHECK(close(Tensor::from(values[1], {std::ssize(values[1])}), Tensor::from(values[0], {std::ssize(values[0])}), 1e-4, 1e-5));
      CHECK(nmse_within(gdh.to(Device::cpu), dh, d == DType::f32 ? 1e-10 : 5e-5));
      CHECK(nmse_within(gdw.to(Device::cpu), dw, d == DType::f32 ? 1e-10 : 5e-5));

      const Tensor y = linear_log_probs(p.h, p.w, p.labels, 5, 0.8), gy = linear_log_probs(gh, gw, p.labels, 5, 0.8);
      CHECK(nmse_within(gy.to(Device::cpu), y, 1e-9));  // f32 logits, whatever the model is in
    }
}

TEST_CASE("gpu linear_loss: labels that lie elsewhere, or strided, are refused by name") {
  gpu::emulate(true);
  const Tensor h = Tensor::zeros({3, 2}), w = Tensor::zeros({4, 2}), labels = Tensor::zeros({3}, DType::i32);
  const auto head = [&](const Tensor& l) { LinearHead("the head", h, w, l, {}); };
  CHECK_NOTHROW(head(labels));
  CHECK_THROWS_WITH(head(labels.to(Device::gpu)), "the head: labels [3] are on the GPU; expected dense and on the CPU, wherever h is: to(Device::cpu).dense()");
  CHECK_THROWS_WITH(head(Tensor::zeros({3, 2}, DType::i32).slice(1, 0, 1).reshape({3})), Catch::Contains("the head: labels [3] are strided"));
}

TEST_CASE("gpu linear_loss: the size of a block is its bytes' share of the device") {
  gpu::emulate(true);
  const auto share = static_cast<int64_t>(gpu::device().total_bytes / 32);
  for (const int64_t V : {1000, 65536, 262144})
    for (const int64_t bytes : {2, 4}) {
      const int64_t c = linear_loss_chunk(100000, V, Device::gpu, bytes);
      CHECK(c <= 16384);
      CHECK((c <= 256 || c * V * bytes <= share));
      CHECK(linear_loss_chunk(100, V, Device::gpu, bytes) == 100);
    }
}

TEST_CASE("gpu linear_loss: rows are filled up to few numbers, by a sixteenth at most") {
  gpu::emulate(true);
  const int64_t N = 5000;
  const Tensor h = Tensor::zeros({N, 1}), w = Tensor::zeros({2, 1}), labels = Tensor::full({N}, 1, DType::i32);
  const LinearHead here("test", h, w, labels, {});
  const Tensor h_there = h.to(Device::gpu), w_there = w.to(Device::gpu);
  const LinearHead there("test", h_there, w_there, labels, {});
  std::vector<int64_t> numbers;
  for (int64_t n = 0; n <= N; ++n) {
    const int64_t c = there.count(n);
    CHECK((here.count(n) == n && c >= n && c <= N && (c <= n + std::max<int64_t>(15, n / 16))));
    if (numbers.empty() || numbers.back() != c) numbers.push_back(c);
  }
  CHECK(std::is_sorted(numbers.begin(), numbers.end()));
  CHECK(numbers.size() < 100);
  CHECK(numbers.back() == N);
  const pool_vector<int64_t> rows = {1, 4, 7};
  const Tensor list = there.listed(rows);
  CHECK(list.shape() == Shape{3, 16});
  for (int64_t i = 0; i < 16; ++i) {
    CHECK(list.at({0, i}) == static_cast<double>(rows[static_cast<size_t>(std::min<int64_t>(i, 2))]));
    CHECK(list.at({1, i}) == 1);
    CHECK(list.at({2, i}) == (i < 3 ? list.at({0, i}) : -1));
  }
}
