// Phases and traces: what is inside of what, and what is left out when there is no room.
#include "tensor/trace.h"

#include <catch2/catch.hpp>

#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "tensor/tensor.h"

using namespace facet;

namespace {

void rest(int ms) { std::this_thread::sleep_for(std::chrono::milliseconds(ms)); }

std::vector<TraceEvent> of(std::span<const TraceEvent> all, TraceEvent::Kind kind) {
  std::vector<TraceEvent> list;
  for (const TraceEvent& e : all)
    if (e.kind == kind) list.push_back(e);
  return list;
}

}  // namespace

TEST_CASE("phases: what is inside of another belongs to the outermost") {
  take_phases();
  {
    const Phase outer("outer");
    rest(2);
    const Phase inner("inner");
    rest(2);
  }
  in_phase("other", [] { rest(1); });
  in_phase("other", [] { rest(1); });
  const auto list = take_phases();
  REQUIRE(list.size() == 2);
  CHECK(std::string(list[0].name) == "outer");
  CHECK(list[0].seconds >= 0.004);
  CHECK(std::string(list[1].name) == "other");
  CHECK(list[1].seconds >= 0.002);
  in_phase("new", [] {});
  CHECK(take_phases().size() == 1);
}

TEST_CASE("trace: steps hold phases, phases hold kernels, memory is beside them") {
  const Tensor x = Tensor::full({1000}, 2, DType::f32);
  trace_start(Device::cpu);
  {
    const TraceStep step(7);
    const Phase phase("work");
    const Tensor y = x.clone();
  }
  const auto all = trace_stop();
  const auto steps = of(all, TraceEvent::Kind::step), phases = of(all, TraceEvent::Kind::phase), kernels = of(all, TraceEvent::Kind::kernel),
             memory = of(all, TraceEvent::Kind::memory);
  REQUIRE(steps.size() == 1);
  REQUIRE(phases.size() == 1);
  REQUIRE(kernels.size() == 1);
  REQUIRE(memory.size() == 2);
  CHECK(steps[0].value == 7);
  CHECK(std::string(kernels[0].name) == "copy");
  CHECK(steps[0].begin <= phases[0].begin);
  CHECK(phases[0].begin <= kernels[0].begin);
  CHECK(kernels[0].begin <= kernels[0].end);
  CHECK(kernels[0].end <= phases[0].end);
  CHECK(phases[0].end <= steps[0].end);
  CHECK(memory[1].value - memory[0].value == 0);  // y is gone before the phase ends
  CHECK_FALSE(trace_full());
  in_phase("later", [] {});
  CHECK(trace_stop().size() == all.size());
}

TEST_CASE("trace: steps that do not fit are left out whole") {
  trace_start(Device::cpu, 12);
  for (int i = 0; i < 10; ++i) {
    const TraceStep step(i);
    in_phase("work", [] {});
  }
  const auto all = trace_stop();
  CHECK(trace_full());
  CHECK(of(all, TraceEvent::Kind::step).size() == 3);  // four events each
  CHECK(of(all, TraceEvent::Kind::phase).size() == 3);
}
