// Attention by cuDNN where there is no GPU: what its graphs mean (read back from the library and computed slowly) against the CPU's
// attention, and which of them the library takes for a Hopper GPU, down to the compiled kernel.
#include "tensor/gpu/cudnn_attention_graph.h"

#include <catch2/catch.hpp>
#include <cstdlib>

#include "autograd/ops.h"
#include "tensor/gpu/cudnn_attention.h"
#include "tests/gpu/cudnn_evaluator.h"
#include "tests/support/compare.h"
#include "tests/support/random.h"

#ifdef FACET_HAS_CUDNN
#include <dlfcn.h>
#endif

using namespace facet;
using namespace facet::test;

#ifdef FACET_HAS_CUDNN
namespace {

using namespace facet::gpu::cudnn;

bool library_is_here() {
  if (!gpu::cudnn_library_why_not().empty()) WARN("skipped: " << gpu::cudnn_library_why_not());
  return gpu::cudnn_library_why_not().empty();
}

/// q, k, v (and their gradients) as the projections leave them: heads of one row. scale is a power of two, so that the CPU's rounding of
/// scale q changes nothing.
struct Case {
  int64_t B, T, H, K, D, window;
  Tensor fused, dfused, q, k, v, y, lse, dy, dq, dk, dv, positions;
  AttentionInputs x;

  Case(int64_t B, int64_t T, int64_t H, int64_t K, int64_t D, int64_t window, uint64_t seed = 1) : B(B), T(T), H(H), K(K), D(D), window(window) {
    Random r(seed);
    const Shape row = {B, T, (H + 2 * K) * D};
    fused = r.normal(row, DType::bf16);
    dfused = Tensor::zeros(row, DType::bf16);
    const auto heads = [&](const Tensor& t, int64_t first, int64_t n) { return reshape(slice(t, 2, first * D, (first + n) * D), {B, T, n, D}); };
    q = heads(fused, 0, H), k = heads(fused, H, K), v = heads(fused, H + K, K);
    dq = heads(dfused, 0, H), dk = heads(dfused, H, K), dv = heads(dfused, H + K, K);
    y = Tensor::zeros({B, T, H, D}, DType::bf16);
    lse = Tensor::zeros({B, H, T});
    dy = r.normal({B, T, H, D}, DType::bf16);
    std::vector<int32_t> p;
    for (int64_t i = 0; i < B * T; ++i) p.push_back(static_cast<int32_t>(i % T));
    positions = Tensor::from(p, {B, T});
    x.q = q.view(), x.k = k.view(), x.v = v.view();
    x.q_positions = x.k_positions = positions.view();
    x.window = window;
    x.scale = 0.25;
    x.plain = true;
  }
};
void* at(const Tensor& t) { return const_cast<void*>(t.view().data); }

void forward_by_graph(const Case& c) {
  const ForwardGraph f = forward_graph(c.x, c.y.view(), c.lse.view());
  evaluate(f.graph, {{f.q, at(c.q)}, {f.k, at(c.k)}, {f.v, at(c.v)}, {f.y, at(c.y)}, {f.lse, at(c.lse)}});
}
void backward_by_graph(const Case& c, bool deterministic) {
  const BackwardGraph f = backward_graph(c.x, c.y.view(), c.lse.view(), c.dy.view(), c.dq.view(), c.dk.view(), c.dv.view(), deterministic);
  const Tensor delta = Tensor::full({c.B, c.H, c.T}, NAN), sum = Tensor::full({c.B, c.H, c.T, c.D}, NAN);
  std::map<int64_t, void*> memory = {{f.q, at(c.q)},   {f.k, at(c.k)},   {f.v, at(c.v)},   {f.y, at(c.y)},   {f.lse, at(c.lse)},
                                     {f.dy, at(c.dy)}, {f.dq, at(c.dq)}, {f.dk, at(c.dk)}, {f.dv, at(c.dv)}, {f.delta, at(delta)}};
  if (f.dq_sum) memory[f.dq_sum] = at(sum);
  CHECK((f.dq_sum == 0) == deterministic);
  evaluate(f.graph, memory);
}

// B, T, H, K, D, window
const int64_t cases[][6] = {{1, 1, 1, 1, 8, 0},  {2, 5, 4, 1, 8, 0},   {1, 7, 2, 2, 16, 3},  {2, 9, 4, 2, 8, 1},
                            {1, 9, 4, 1, 16, 8}, {1, 9, 2, 1, 16, 9},  {2, 13, 6, 3, 8, 4},  {3, 6, 4, 4, 24, 2}};
constexpr double limit = 2e-5;  // of NMSE: roundings to bf16 leave 4e-6, one wrong key in ten leaves 1e-2

}  // namespace

TEST_CASE("cuDNN: what the graph of attention means is what the CPU computes", "[cudnn]") {
  if (!library_is_here()) return;
  for (const auto& n : cases) {
    const Case c(n[0], n[1], n[2], n[3], n[4], n[5]);
    INFO("B " << c.B << ", T " << c.T << ", H " << c.H << ", K " << c.K << ", D " << c.D << ", window " << c.window);
    REQUIRE(gpu::cudnn_attention_refuses(c.x, c.y.out(), c.lse.out()) == nullptr);
    const Tensor y = Tensor::empty(c.y.shape(), DType::bf16), lse = Tensor::empty(c.lse.shape());
    cpu::attention_forward(c.x, y.out(), lse.out());
    forward_by_graph(c);
    CHECK(nmse_within(c.y, y, limit));
    CHECK(close(c.lse, lse, 1e-5, 1e-5));

    const Tensor dq = Tensor::empty(c.q.shape(), DType::bf16), dk = Tensor::empty(c.k.shape(), DType::bf16), dv = Tensor::empty(c.v.shape(), DType::bf16);
    cpu::attention_backward(c.x, y.view(), lse.view(), c.dy.view(), dq.out(), dk.out(), dv.out());
    for (bool deterministic : {false, true}) {
      const Case again(n[0], n[1], n[2], n[3], n[4], n[5]);
      forward_by_graph(again);
      REQUIRE(gpu::cudnn_attention_refuses(again.x, again.y.view(), again.lse.view(), again.dy.view(), again.dq.out(), again.dk.out(),
                                           again.dv.out()) == nullptr);
      backward_by_graph(again, deterministic);
      CHECK(nmse_within(again.dq, dq, 5 * limit));
      CHECK(nmse_within(again.dk, dk, 5 * limit));
      CHECK(nmse_within(again.dv, dv, 5 * limit));
    }
  }
}

TEST_CASE("cuDNN: a window of one more or one less is not the same attention", "[cudnn]") {
  if (!library_is_here()) return;
  const Case right(1, 12, 2, 1, 8, 4);
  const Tensor y = Tensor::empty(right.y.shape(), DType::bf16), lse = Tensor::empty(right.lse.shape());
  cpu::attention_forward(right.x, y.out(), lse.out());
  for (int64_t window : {3, 4, 5}) {
    const Case c(1, 12, 2, 1, 8, window);
    forward_by_graph(c);
    CHECK((nmse(c.y, y) < limit) == (window == 4));
  }
}

TEST_CASE("cuDNN: what it does not serve is refused", "[cudnn]") {
  const auto why = [](auto change) {
    Case c(1, 8, 4, 2, 16, 4);
    Out y = c.y.out(), lse = c.lse.out(), dq = c.dq.out();
    change(c, y, lse, dq);
    const char* const forward = gpu::cudnn_attention_refuses(c.x, y, lse);
    const char* const backward = gpu::cudnn_attention_refuses(c.x, y, lse, c.dy.view(), dq, c.dk.out(), c.dv.out());
    return std::string(forward ? forward : "") + "|" + (backward ? backward : "");
  };
  CHECK(why([](Case&, Out&, Out&, Out&) {}) == "|");
  const auto both = [](const std::string& s) { return s.size() > 3 && s[0] != '|' && s.back() != '|'; };
  CHECK(both(why([](Case& c, Out&, Out&, Out&) { c.x.plain = false; })));
  CHECK(both(why([](Case& c, Out&, Out&, Out&) { c.x.causal = false; })));
  CHECK(both(why([](Case& c, Out&, Out&, Out&) { c.x.cap = 50; })));
  CHECK(both(why([](Case& c, Out&, Out&, Out&) { c.x.q_segments = c.x.k_segments = c.positions.view(); })));
  CHECK(both(why([](Case& c, Out&, Out&, Out&) { c.x.q.dtype = DType::f32; })));
  CHECK(both(why([](Case& c, Out&, Out&, Out&) { c.x.k.shape[1] = c.x.v.shape[1] = 7; })));
  CHECK(both(why([](Case& c, Out&, Out&, Out&) { c.x.q.stride[1] += 1; })));                                      // rows off 16 bytes
  CHECK(both(why([](Case& c, Out&, Out&, Out&) { c.x.q.data = static_cast<const char*>(c.x.q.data) + 2; })));     // an odd address
  CHECK(both(why([](Case& c, Out&, Out&, Out&) { c.x.q.stride[0] = 0, c.x.q.shape[0] = 2; })));                   // repeated rows
  CHECK(why([](Case&, Out& y, Out&, Out&) { y.accumulate = true; })[0] != '|');
  CHECK(both(why([](Case&, Out&, Out& lse, Out&) { lse.stride[1] = 1, lse.stride[2] = 4; })));
  CHECK(why([](Case&, Out&, Out& lse, Out&) { lse = {}; })[0] == '|');                                            // forward alone: fine
  CHECK(why([](Case&, Out&, Out&, Out& dq) { dq.accumulate = true; }).back() != '|');
  CHECK(why([](Case&, Out&, Out&, Out& dq) { dq = {}; }).back() != '|');
  const Case big(1, 2, 1, 1, 264, 0), odd(1, 2, 1, 1, 12, 0);
  CHECK(gpu::cudnn_attention_refuses(big.x, big.y.out(), big.lse.out()) != nullptr);
  CHECK(gpu::cudnn_attention_refuses(odd.x, odd.y.out(), odd.lse.out()) != nullptr);
}

TEST_CASE("cuDNN: where there is no GPU, nothing is computed and the cause is told", "[cudnn]") {
  const Case c(1, 8, 4, 2, 16, 4);
  CHECK(!gpu::cudnn_why_not().empty());
  CHECK_FALSE(gpu::cudnn_attention_forward(c.x, c.y.out(), c.lse.out()));
  CHECK(gpu::cudnn_backward_takes(4, 2048, 4, 1, 256, 0) == 0);
}

TEST_CASE("cuDNN: plans are made for long rows of a round length, few enough to be kept", "[cudnn]") {
  for (const int64_t T : {512, 576, 2048, 8192}) CHECK(gpu::cudnn_worth_a_plan(T));
  for (const int64_t T : {1, 77, 448, 511, 513, 1000, 2047}) CHECK_FALSE(gpu::cudnn_worth_a_plan(T));
}

TEST_CASE("cuDNN: the bytes that repeatable gradients work in are those of its table", "[cudnn]") {
  // tensor/gpu/README.md, written from plans for an H200: B, T, H, K, Dh, MiB
  const double table[][6] = {{4, 2048, 4, 1, 256, 160}, {1, 8192, 4, 1, 256, 544}, {4, 2000, 4, 1, 256, 159.3}, {4, 77, 4, 1, 256, 1.7},   {4, 2048, 8, 4, 256, 320}, {4, 2048, 8, 8, 128, 256},
                             {4, 2048, 8, 2, 128, 288}, {4, 2048, 12, 12, 64, 384}, {4, 2048, 32, 8, 64, 1088}, {4, 2048, 4, 1, 72, 137}, {4, 2048, 4, 1, 192, 152}};
  for (const auto& r : table) {
    const auto n = [&](int i) { return static_cast<int64_t>(r[i]); };
    INFO("B " << r[0] << ", T " << r[1] << ", H " << r[2] << ", K " << r[3] << ", Dh " << r[4]);
    CHECK(static_cast<double>(gpu::cudnn_backward_workspace(n(0), n(1), n(2), n(3), n(4), true)) / (1 << 20) == Approx(r[5]).margin(0.05));
  }
}

namespace {
// An H200 as the library describes it: the names are those it asks for one by one, the numbers NVIDIA's.
const std::string h200 =
    R"({"maxGridSize":[2147483647,65535,65535],"maxBlockSize":[1024,1024,64],"regsPerBlock":65536,"multiProcessorCount":132,"warpSize":32,)"
    R"("maxSharedMemoryPerBlock":49152,"maxSharedMemoryPerBlockOptin":232448,"reservedSharedMemoryPerBlock":1024,"maxRegistersPerSM":65536,)"
    R"("maxCtasPerSM":32,"maxThreadsPerBlock":1024,"maxThreadsPerSM":2048,"pciDeviceId":0,"isTccDriver":0,"supportCoopLaunch":1,)"
    R"("totalGlobalMem":150121545728,"smClockRateKHz":1980000,"memClockRateKHz":3201000,"l2CacheSize":62914560,"cudaDeviceId":0,)"
    R"("deviceVer":900,"driverVer":13000,"deviceName":"NVIDIA H200"})";

/// False, with the reason told, where plans cannot be made.
bool plans_can_be_made() {
  if (!library_is_here()) return false;
  static void* const driver = dlopen(FACET_FAKE_DRIVER, RTLD_NOW | RTLD_GLOBAL);  // found by its name when the library asks for libcuda.so.1
  if (!driver) FAIL(dlerror());
  return true;
}

View window_of(int64_t B, int64_t T, int64_t n, int64_t D, int64_t row) {
  View v;
  v.dtype = DType::bf16;
  v.data = reinterpret_cast<const void*>(256);
  v.shape = {B, T, n, D};
  v.stride = {T * row, row, D, 1};
  return v;
}
/// The workspace of the plan for [B, T, H, D] or -1 when there is none; direction 0 forward, 1 backward, 2 backward, deterministic.
int64_t workspace(int direction, int64_t B, int64_t T, int64_t H, int64_t K, int64_t D, int64_t window, std::string* why) {
  AttentionInputs x;
  const int64_t row = (H + 2 * K) * D;
  x.q = window_of(B, T, H, D, row), x.k = x.v = window_of(B, T, K, D, row);
  x.window = window;
  x.scale = 0.0625;
  const View y = window_of(B, T, H, D, H * D);
  View lse;
  lse.data = x.q.data;
  lse.shape = {B, H, T};
  lse.stride = dense_strides(lse.shape);
  const Descriptor device = device_of(h200);
  const auto plan = direction == 0 ? make_plan(forward_graph(x, y, lse).graph, device, false, why)
                                   : make_plan(backward_graph(x, y, lse, y, x.q, x.k, x.v, direction == 2).graph, device, direction == 2, why);
  return plan ? plan->workspace_bytes : -1;
}
}  // namespace

TEST_CASE("cuDNN: the text of a GPU is read, and what is no such text is refused", "[cudnn]") {
  if (!library_is_here()) return;
  CHECK(device_text(device_of(h200)).find("\"deviceVer\":900") != std::string::npos);
  CHECK_THROWS_WITH(device_of(std::string("{}")), Catch::Contains("cuDNN"));
}

TEST_CASE("cuDNN: it has kernels for Gemma's attention on Hopper, forward and backward", "[cudnn][full]") {
  if (!plans_can_be_made()) return;
  for (int direction : {0, 1, 2})
    for (int64_t window : {0, 512}) {
      INFO("direction " << direction << ", window " << window);
      std::string why;
      const int64_t bytes = workspace(direction, 4, 2048, 4, 1, 256, window, &why);
      INFO(why);
      CHECK(bytes >= 0);
      if (direction == 0) CHECK(bytes < 1024);
      if (direction == 2) CHECK(bytes == Approx(gpu::cudnn_backward_workspace(4, 2048, 4, 1, 256, true)).epsilon(0.01));
      if (direction == 1) CHECK(bytes < 64 << 20);
    }
}

// FACET_TABLE=1 build/tests/test_gpu "cuDNN: the table of what it takes": for tensor/gpu/README.md.
TEST_CASE("cuDNN: the table of what it takes", "[cudnn][full]") {
  if (!std::getenv("FACET_TABLE") || !plans_can_be_made()) return;
  std::printf("| pass | B T H K Dh window | taken | workspace |\n|---|---|---|---|\n");
  const char* const names[] = {"forward", "backward", "backward, deterministic"};
  for (const std::vector<int64_t>& n : std::vector<std::vector<int64_t>>{{4, 2048, 4, 1, 256, 0},
                                                                       {4, 2048, 4, 1, 256, 512},
                                                                       {1, 8192, 4, 1, 256, 512},
                                                                       {4, 2000, 4, 1, 256, 512},
                                                                       {4, 77, 4, 1, 256, 0},
                                                                       {4, 2048, 8, 4, 256, 1024},
                                                                       {4, 2048, 8, 8, 128, 0},
                                                                       {4, 2048, 8, 2, 128, 512},
                                                                       {4, 2048, 12, 12, 64, 0},
                                                                       {4, 2048, 32, 8, 64, 512},
                                                                       {4, 2048, 4, 1, 72, 512},
                                                                       {4, 2048, 4, 1, 192, 512}})
    for (int direction : {0, 1, 2}) {
      std::string why;
      const int64_t bytes = workspace(direction, n[0], n[1], n[2], n[3], n[4], n[5], &why);
      std::printf("| %s | %lld %lld %lld %lld %lld %lld | %s | %s |\n", names[direction], (long long)n[0], (long long)n[1], (long long)n[2],
                  (long long)n[3], (long long)n[4], (long long)n[5], bytes >= 0 ? "yes" : why.c_str(),
                  bytes >= 0 ? fmt::format("{:.1f} MiB", static_cast<double>(bytes) / (1 << 20)).c_str() : "");
      std::fflush(stdout);
    }
}
#else
TEST_CASE("cuDNN: built without its headers", "[cudnn]") { CHECK_FALSE(gpu::cudnn_why_not().empty()); }
#endif
