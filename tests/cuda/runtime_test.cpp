// tensor/gpu/cuda/runtime.cpp on a CUDA runtime that keeps the real one's rules (tests/fake_cuda).
#include <catch2/catch.hpp>
#include <numeric>

#include "infer/generator.h"
#include "nn/body_graphs.h"
#include "tensor/gpu/graph.h"
#include "tensor/gpu/moments.h"
#include "tensor/gpu/overlap.h"
#include "tensor/kernels/rms_norm.h"
#include "tests/app/run.h"
#include "tests/fake_cuda/fake_cudart.h"
#include "tests/gpu/tiny_model.h"
#include "tests/support/compare.h"

using namespace facet;
using namespace facet::test;

namespace {

Tensor numbers(int64_t n, float from = 0) {
  const Tensor t = Tensor::empty({n}, DType::f32);
  std::iota(t.out().as<float>(), t.out().as<float>() + n, from);
  return t;
}
/// y = x, by way of memory that is asked for while it runs.
void through_scratch(const Tensor& x, const Tensor& y) {
  const auto bytes = static_cast<size_t>(4 * x.numel());
  const Tensor between = Tensor::empty(x.shape(), DType::f32, Device::gpu), other = Tensor::empty(x.shape(), DType::f32, Device::gpu);
  gpu::copy_on_device(between.out().as<float>(), x.view().data, bytes);
  gpu::copy_on_device(other.out().as<float>(), between.view().data, bytes);
  gpu::copy_on_device(y.out().as<float>(), other.view().data, bytes);
}

}  // namespace

TEST_CASE("cuda: copies pass through pinned slots that are taken again, many times before the device does anything") {
  const int64_t n = 7'000'001;  // 28 MB: seven slots of four
  const Tensor x = numbers(n), small = numbers(3, 5);
  const Tensor a = x.to(Device::gpu);
  std::vector<Tensor> many;
  for (int i = 0; i < 9; ++i) many.push_back(numbers(3, static_cast<float>(i)).to(Device::gpu));
  CHECK(bitwise_equal(a.to(Device::cpu), x));
  for (int i = 0; i < 9; ++i) CHECK(many[static_cast<size_t>(i)].at({0}) == i);
}

TEST_CASE("cuda: a graph asks for memory while it is recorded") {
  gpu::pool_trim();
  const Tensor x = numbers(1000).to(Device::gpu), y = Tensor::zeros({1000}, DType::f32, Device::gpu);
  const int64_t refused = cuda::calls().refused, mallocs = cuda::calls().mallocs;
  gpu::Graph graph;
  graph.record(std::make_shared<gpu::Arena>(), [&] { through_scratch(x, y); });
  CHECK(cuda::calls().refused == refused);
  CHECK(cuda::calls().mallocs == mallocs + 2);
  for (int i = 0; i < 3; ++i) {
    const Tensor now = numbers(1000, static_cast<float>(i));
    x.set(now);
    graph.replay();
    CHECK(bitwise_equal(y.to(Device::cpu), now));
  }
}

TEST_CASE("cuda: what a graph is recorded in is what the pass before it left in the pool, and goes back there") {
  gpu::pool_trim();
  const Tensor x = numbers(1000).to(Device::gpu), y = Tensor::zeros({1000}, DType::f32, Device::gpu);
  through_scratch(x, y);
  const int64_t mallocs = cuda::calls().mallocs, frees = cuda::calls().frees;
  for (int round = 0; round < 3; ++round) {
    auto arena = std::make_shared<gpu::Arena>();
    gpu::Graph graph;
    graph.record(arena, [&] { through_scratch(x, y); });
    CHECK(arena->held_bytes() >= 2 * 4000);
    // Its blocks are its own as long as it lives.
    const int64_t before = cuda::calls().mallocs;
    const Tensor stranger = Tensor::full({1000}, -1).to(Device::gpu);
    CHECK(cuda::calls().mallocs == before + (round == 0 ? 1 : 0));
    graph.replay();
    CHECK(stranger.at({7}) == -1);
    CHECK(y.at({7}) == 7);
    graph.replay();  // still under way when the graph and its memory go
  }
  CHECK(y.at({999}) == 999);
  CHECK(cuda::calls().mallocs == mallocs + 1);
  CHECK(cuda::calls().frees == frees);
}

TEST_CASE("cuda: a full device gives up what lies idle, while recording too") {
  gpu::pool_trim();
  const Tensor x = numbers(1000).to(Device::gpu), y = Tensor::zeros({1000}, DType::f32, Device::gpu);
  { const Tensor idle = Tensor::empty({100'000}, DType::f32, Device::gpu); }  // of another size
  gpu::pool_set_limit(gpu::pool_stats().held_bytes + 5000);  // room for one of the two
  const int64_t frees = cuda::calls().frees;
  gpu::Graph graph;
  graph.record(std::make_shared<gpu::Arena>(), [&] { through_scratch(x, y); });
  gpu::pool_set_limit(0);
  CHECK(cuda::calls().frees == frees + 1);
  graph.replay();
  CHECK(y.at({5}) == 5);
}

TEST_CASE("cuda: what waits cannot be recorded; the capture is closed and the next one works") {
  const Tensor x = numbers(10).to(Device::gpu), y = Tensor::zeros({10}, DType::f32, Device::gpu);
  gpu::Timer timer;
  const std::function<void()> forbidden[] = {
      [&] { x.item(); },          [&] { x.set(numbers(10)); },
      [&] { gpu::synchronize(); }, [&] { timer.start(), timer.seconds(); },
      [&] { gpu::begin_capture(); },
  };
  for (const auto& f : forbidden) {
    gpu::Graph graph;
    try {
      graph.record(std::make_shared<gpu::Arena>(), f);
      FAIL("it was recorded");
    } catch (const Error& e) {
      CHECK(e.kind() == Kind::usage);
    }
    CHECK_FALSE(gpu::capturing());
    CHECK_FALSE(graph.recorded());
  }
  const int64_t refused = cuda::calls().refused;
  gpu::Graph graph;
  graph.record(std::make_shared<gpu::Arena>(), [&] { through_scratch(x, y); });
  graph.replay();
  CHECK(y.at({9}) == 9);
  CHECK(gpu::mark_moment() == 0);
  CHECK(gpu::read_moments().size() == 1);
  CHECK(cuda::calls().refused == refused);
}

TEST_CASE("cuda: a refused launch harms nothing else, a lost device is called one") {
  const auto message = [](const std::function<void()>& f) {
    try {
      f();
    } catch (const Error& e) {
      CHECK(e.kind() == Kind::environment);
      return std::string(e.what());
    }
    return std::string();
  };
  const Tensor x = numbers(10).to(Device::gpu);
  cuda::refuse_launch(1);
  const std::string refused = message([&] { x.to(DType::bf16); });
  CHECK_THAT(refused, Catch::Contains("copy: a launch of [") && Catch::Contains("cudaErrorInvalidConfiguration") && !Catch::Contains("lost"));
  CHECK(x.to(DType::bf16).at({3}) == 3);

  gpu::Graph graph;  // the same while recording, where one must not wait to find out
  cuda::refuse_launch(1);
  CHECK_THAT(message([&] { graph.record(std::make_shared<gpu::Arena>(), [&] { x.to(DType::bf16); }); }), !Catch::Contains("lost"));
  CHECK(x.at({3}) == 3);

  cuda::break_launch(1);
  const Tensor y = x.to(DType::bf16);  // not yet known
  CHECK_THAT(message([&] { y.at({0}); }), Catch::Contains("cudaErrorIllegalAddress") && Catch::Contains("The GPU is lost to this run"));
  CHECK_THAT(message([&] { gpu::synchronize(); }), Catch::Contains("The GPU is lost to this run"));
  cuda::break_launch(0);
  CHECK(x.at({3}) == 3);
}

TEST_CASE("cuda: steps in which no parameter has a gradient, again and again") {
  const auto model = tiny(Device::gpu);
  AdamW optimizer({{.parameters = parameters(*model)}});
  optimizer.keep_gradients(true);
  const int64_t graphs = cuda::calls().graphs;
  for (int step = 0; step < 4; ++step) {
    CHECK(optimizer.clip(1.0).norm == 0);
    optimizer.step(1e-3);
  }
  CHECK(cuda::calls().graphs == graphs + 2);  // captures of nothing
}

TEST_CASE("cuda: training and generation replay graphs, with the bits of launched ones") {
  const auto losses = [](bool graphs) {
    const auto model = tiny(Device::gpu);
    if (graphs) model->graphs = std::make_shared<BodyGraphs>(*model);
    return train(*model, {batch_of(tokens_of("b"))}, 6);
  };
  const int64_t refused = cuda::calls().refused;
  const std::vector<double> want = losses(false);
  const int64_t replays = cuda::calls().replays;
  CHECK(losses(true) == want);
  CHECK(cuda::calls().replays > replays + 8);  // forward and backward from the third step on, the head, norms and updates

  const auto model = tiny(Device::gpu);
  GenerateOptions o;
  o.max_new = 12;
  o.ignore_stop = true;
  const auto first = generate(*model, {{2, 5, 9}, {2, 7}}, o);
  const int64_t mallocs = cuda::calls().mallocs;
  const auto second = generate(*model, {{2, 5, 9}, {2, 7}}, o);  // another cache, other graphs, the same memory
  CHECK(cuda::calls().mallocs == mallocs);
  for (size_t row = 0; row < 2; ++row) CHECK(first[row].tokens == second[row].tokens);
  CHECK(cuda::calls().refused == refused);
}

TEST_CASE("cuda: kernels of decoding overlap those before, in graphs too, and not copies") {
  const auto model = tiny(Device::gpu);
  GenerateOptions o;
  o.max_new = 12;
  o.ignore_stop = true;
  const auto overlapped = [&] {
    const cuda::Calls before = cuda::calls();
    const auto got = generate(*model, {{2, 5, 9}, {2, 7}}, o);
    const cuda::Calls after = cuda::calls();
    return std::tuple(got[0].tokens, after.overlapped - before.overlapped, after.overlapped_in_graphs - before.overlapped_in_graphs);
  };
  const auto [tokens, launched, recorded] = overlapped();
  CHECK(launched > 20);
  CHECK(recorded > 20);  // 8 a layer, and what comes before and behind
  CHECK(cuda::calls().overlapped_with_nothing == 0);
  const gpu::PlainLaunches all;
  CHECK(overlapped() == std::tuple(tokens, 0, 0));
}

TEST_CASE("cuda: a refused launch says that it was to overlap") {
  const Tensor x = numbers(8).reshape({1, 8}).to(Device::gpu), w = numbers(8).to(Device::gpu), y = Tensor::zeros({1, 8}, DType::f32, Device::gpu);
  const auto norm = [&] { rms_norm(x.view(), w.view(), 1e-6, y.out(), {}); };
  const auto refused = [&](int64_t n) {
    cuda::refuse_launch(n);
    try {
      norm();
      norm();
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  y.set(y);  // a copy: the first norm has nothing to overlap with
  CHECK_THAT(refused(1), Catch::Contains("rms_norm: a launch of [") && !Catch::Contains("FACET_GPU_OVERLAP"));
  y.set(y);
  CHECK_THAT(refused(2), Catch::Contains("that overlaps (FACET_GPU_OVERLAP=0 does without)") && Catch::Contains("cudaErrorInvalidConfiguration"));
}

TEST_CASE("cuda: FACET_GPU_OVERLAP, and a GPU that cannot overlap", "[full]") {
  const auto run = [](const std::string& variables) {
    return run_facet("generate " FACET_GOLDENS "/gemma3-tiny -p Hi -n 6 --temp 0 --device cuda", variables);
  };
  const Result with = run("FACET_GPU_OVERLAP=1");
  CHECK(with.code == 0);
  for (const char* variables : {"FACET_GPU_OVERLAP=0", "FACET_FAKE_CUDA=capability_8", "FACET_GPU_SYNC=1"}) {
    const Result without = run(variables);
    INFO(variables << ": " << without.err);
    CHECK(without.code == 0);
    CHECK(without.out == with.out);
    CHECK_THAT(without.err, !Catch::Contains("FACET_GPU_OVERLAP"));
  }
  const Result wrong = run("FACET_GPU_OVERLAP=yes");
  CHECK(wrong.code == 2);
  CHECK_THAT(wrong.err, Catch::Contains("FACET_GPU_OVERLAP=yes: expected 0 or 1"));
}

TEST_CASE("cuda: a GPU of another kind, or one that is taken, is said in a sentence", "[full]") {
  const auto said = [](const char* mood) {
    const Result r = run_facet("generate " FACET_GOLDENS "/gemma3-tiny -p Hi -n 1 --device cuda", std::string("FACET_FAKE_CUDA=") + mood);
    CHECK(r.code == 5);
    return r.err;
  };
  CHECK_THAT(said("other_device"), Catch::Contains("holds kernels for compute capability 9.0") && Catch::Contains("-DFACET_CUDA_ARCHS=90"));
  CHECK_THAT(said("taken"), Catch::Contains("the GPU takes no work") && Catch::Contains("cudaErrorDevicesUnavailable"));
}

TEST_CASE("cuda: conformance goes on after a refused launch, and writes its record when the device is lost", "[full]") {
  const std::string path = "conformance_faked.json";
  const auto run = [&](const char* options, const std::string& mood) {
    std::filesystem::remove(path);
    return run_facet(std::string("conformance --size tiny --checks-only --record ") + path + " " + options, "FACET_FAKE_CUDA=" + mood);
  };
  CHECK(run("--only train", "none").code == 0);
  const Result refused = run("--only decode", "refused_at=40");
  CHECK(refused.code == 1);
  CHECK_THAT(refused.out + refused.err, Catch::Contains(" 1 failed") && Catch::Contains("cudaErrorInvalidConfiguration"));
  const Result lost = run("--only decode", "lost_at=40");
  CHECK(lost.code == 1);
  CHECK_THAT(lost.out + lost.err, Catch::Contains("the device") && Catch::Contains("The GPU is lost to this run"));
  CHECK(std::filesystem::exists(path));
  std::filesystem::remove(path);
}
