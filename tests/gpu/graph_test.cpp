#include "tensor/gpu/graph.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>

#include "tensor/gpu/emulator/emulator.h"
#include "tensor/gpu/emulator/memory.h"
#include "tensor/gpu/waits.h"
#include "tensor/tensor.h"

using namespace facet;

TEST_CASE("tensor: to the GPU and back, whole or through a view") {
  gpu::emulate(true);
  const Tensor x = Tensor::arange(24, DType::i32).reshape({4, 6});
  const Tensor g = x.to(Device::gpu);
  CHECK(g.device() == Device::gpu);
  CHECK(g.to(Device::cpu).to_vector() == x.to_vector());
  CHECK(g.at({3, 5}) == 23);
  CHECK(g.slice(0, 2, 3).to(Device::cpu).to_vector() == x.slice(0, 2, 3).to_vector());
  CHECK_THROWS_WITH(g.data<int32_t>(), Catch::Contains("on the GPU"));
  CHECK(Tensor::zeros({5}, DType::f32, Device::gpu).to_vector() == std::vector<double>(5));
}

TEST_CASE("pool: memory is returned, the limit is kept, and the table of live buffers says whose it is") {
  gpu::emulate(true);
  const size_t before = gpu::pool_stats().live_bytes;
  {
    const Tensor a = Tensor::empty({1000}, DType::f32, Device::gpu);
    CHECK(gpu::pool_stats().live_bytes == before + 4000);
    gpu::pool_set_limit(before + 5000);
    CHECK_THROWS_WITH(Tensor::empty({1000}, DType::bf16, Device::gpu), Catch::Contains("tensor f32[1000]") && Catch::Contains("--recompute"));
    gpu::pool_set_limit(0);
  }
  CHECK(gpu::pool_stats().live_bytes == before);
}

TEST_CASE("pool: sentinels notice writes beside a buffer, fresh memory is NaN") {
  gpu::emulate(true);
  const gpu::GuardScope guard;
  gpu::broken_sentinels();
  {
    const Tensor fine = Tensor::empty({3}, DType::f32, Device::gpu);
    CHECK(std::isnan(fine.at({2})));
    gpu::copy_to_device(fine.out().as<float>(), std::vector<float>(3).data(), 12);
  }
  CHECK(gpu::broken_sentinels().empty());
  {
    const Tensor over = Tensor::empty({3}, DType::f32, Device::gpu);
    const float one = 1;
    gpu::synchronize();  // the buffer and its sentinels are filled, however late the device is
    std::memcpy(gpu::emulator::seen(over.out().as<float>() + 5), &one, 4);  // as a kernel would; a copy would be refused
  }
  const auto broken = gpu::broken_sentinels();
  REQUIRE(broken.size() == 1);
  CHECK_THAT(broken[0], Catch::Contains("tensor f32[3]: 4 bytes written behind its 12 bytes, the first 8 bytes behind the end"));
}

TEST_CASE("graph: records once and replays; what it refers to stays its own") {
  gpu::emulate(true);
  const Tensor x = Tensor::full({1}, 1).to(Device::gpu), y = Tensor::zeros({1}, DType::f32, Device::gpu);
  gpu::Graph graph;
  int calls = 0;
  const auto work = [&] {
    ++calls;
    const Tensor between = Tensor::empty({1}, DType::f32, Device::gpu);
    gpu::copy_on_device(between.out().as<float>(), x.view().data, 4);
    gpu::copy_on_device(y.out().as<float>(), between.view().data, 4);
  };
  graph.record(std::make_shared<gpu::Arena>(), work);
  CHECK(graph.recorded());
  CHECK(y.item() == 0);  // recorded, not run
  for (int i = 1; i < 5; ++i) {
    gpu::copy_to_device(x.out().as<float>(), std::vector<float>{float(i)}.data(), 4);
    graph.replay();
    CHECK(last_gpu_operation() == "a replayed graph");
    CHECK(y.item() == i);
  }
  CHECK(calls == 1);
}

TEST_CASE("graph: where nothing is launched, nothing is replayed") {
  gpu::emulate(true);
  const Tensor x = Tensor::zeros({1}, DType::f32, Device::gpu);
  x.to(DType::bf16);
  gpu::Graph graph;
  graph.record(std::make_shared<gpu::Arena>(), [] {});
  CHECK(graph.recorded());
  graph.replay();
  CHECK(last_gpu_operation() == "copy of f32 [1], bf16 [1]");
  CHECK(x.item() == 0);
  graph.reset();
  CHECK_FALSE(graph.recorded());
}

TEST_CASE("graph: waiting and copies from the host are refused while recording, and nothing is left open") {
  gpu::emulate(true);
  const Tensor x = Tensor::zeros({1}, DType::f32, Device::gpu);
  gpu::Graph graph;
  CHECK_THROWS_WITH(graph.record(std::make_shared<gpu::Arena>(), [&] { x.item(); }), Catch::Contains("captured graph"));
  CHECK_FALSE(gpu::capturing());
}

TEST_CASE("waiting for the GPU is counted, and forbidden on request") {
  gpu::emulate(true);
  const Tensor x = Tensor::zeros({1}, DType::f32, Device::gpu);
  const int64_t before = gpu::syncs();
  x.item();
  CHECK(gpu::syncs() == before + 1);
  {
    const gpu::NoSync strict;
    const Tensor y = x.to(DType::bf16);
    CHECK_THROWS_WITH(y.item(), Catch::Contains("after \"copy\"") && Catch::Contains("a copy to the host") && Catch::Contains("--assert-no-sync"));
    CHECK_THROWS_WITH(gpu::synchronize(), Catch::Contains("synchronize()"));
    const gpu::NoSync not_asked(false);  // changes nothing
    CHECK_THROWS_WITH(y.item(), Catch::Contains("--assert-no-sync"));
    const gpu::MaySync documented;
    y.item();
  }
  x.item();
}
