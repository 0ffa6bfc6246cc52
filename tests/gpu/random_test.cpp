// Random numbers drawn on the device are those of the CPU.
#include <catch2/catch.hpp>
#include <functional>

#include "tensor/gpu/emulator/emulator.h"
#include "tensor/rng.h"
#include "tests/support/compare.h"

using namespace facet;
using namespace facet::test;

TEST_CASE("random: integers and uniform numbers bit for bit, others within 4 units of max(|x|, 1)") {
  gpu::emulate(true);
  struct Drawn {
    const char* name;
    bool exact;
    std::function<Tensor(Key, const Shape&, Device)> draw;
  };
  const Drawn all[] = {
      {"bits", true, [](Key k, const Shape& s, Device d) { return bits(k, s, d); }},
      {"uniform", true, [](Key k, const Shape& s, Device d) { return uniform(k, s, 0, 1, DType::f32, d); }},
      {"uniform of an odd width", true, [](Key k, const Shape& s, Device d) { return uniform(k, s, -0.3, 1.1, DType::f32, d); }},
      {"uniform in bf16", true, [](Key k, const Shape& s, Device d) { return uniform(k, s, -0.3, 1.1, DType::bf16, d); }},
      {"randint", true, [](Key k, const Shape& s, Device d) { return randint(k, s, -7, 100, d); }},
      {"randint of everything", true, [](Key k, const Shape& s, Device d) { return randint(k, s, INT32_MIN, int64_t{INT32_MAX} + 1, d); }},
      {"bernoulli", true, [](Key k, const Shape& s, Device d) { return bernoulli(k, s, 0.3, d); }},
      {"normal", false, [](Key k, const Shape& s, Device d) { return normal(k, s, DType::f32, d); }},
      {"normal in bf16", true, [](Key k, const Shape& s, Device d) { return normal(k, s, DType::bf16, d); }},
      {"truncated normal", false, [](Key k, const Shape& s, Device d) { return truncated_normal(k, s, -1.5, 2, d); }},
      {"gumbel", false, [](Key k, const Shape& s, Device d) { return gumbel(k, s, d); }},
      {"exponential", false, [](Key k, const Shape& s, Device d) { return exponential(k, s, d); }},
  };
  for (const Counters counters : {Counters::partitionable, Counters::original}) {
    for (const Shape& s : {Shape{}, Shape{1}, Shape{3, 5}, Shape{257}, Shape{0, 4}, Shape{4099}}) {
      for (const Drawn& d : all) {
        INFO(d.name << to_string(s));
        const Key k = key(11, counters);
        const Tensor gpu = d.draw(k, s, Device::gpu), cpu = d.draw(k, s, Device::cpu);
        CHECK(gpu.device() == Device::gpu);
        if (d.exact) CHECK(bitwise_equal(gpu.to(Device::cpu), cpu));
        else CHECK(close(gpu.to(Device::cpu), cpu, 4 * 0x1p-23, 4 * 0x1p-23));
      }
    }
  }
}
