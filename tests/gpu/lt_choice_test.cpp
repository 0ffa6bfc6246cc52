// Choices among cuBLASLt's algorithms on the emulated GPU, whose stand-in for the library's product offers some: measured once, kept in a file and
// in plans, the same bits where that is asked for.
#include "tensor/gpu/lt_choice.h"

#include <bit>
#include <catch2/catch.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "tensor/gpu/emulator/emulator.h"
#include "tensor/gpu/emulator/lt_product.h"
#include "tensor/gpu/gemm.h"
#include "tensor/gpu/lt.h"
#include "tensor/gpu/runtime.h"
#include "tests/gpu/device.h"
#include "tests/support/compare.h"
#include "tests/support/random.h"
#include "tests/support/temp_folder.h"

using namespace facet;
using facet::test::has_lt;
using facet::test::Random;

namespace {

constexpr DType f32 = DType::f32, bf16_ = DType::bf16;

// Sets what tests of measured choices change, and puts it back.
struct Settings {
  test::TempFolder cache;
  std::string before = std::getenv("XDG_CACHE_HOME") ? std::getenv("XDG_CACHE_HOME") : "";
  Settings() { setenv("XDG_CACHE_HOME", cache.path.c_str(), 1); }
  ~Settings() {
    gpu::set_tuning(gpu::Tuning::off);
    gpu::set_deterministic(true);
    gpu::set_gemm_workspace(size_t{32} << 20);
    if (before.empty()) unsetenv("XDG_CACHE_HOME");
    else setenv("XDG_CACHE_HOME", before.c_str(), 1);
  }
};

}  // namespace

TEST_CASE("cuBLASLt: an algorithm is measured once, stored, found again; a broken file is a warning") {
  if (!has_lt()) return;
  const Settings settings;
  const std::string path = gpu::lt_choices_path(gpu::device().name, gpu::lt_version());
  CHECK(path.find(settings.cache.path.string()) == 0);
  gpu::LtKey key;
  key.v[0] = -5, key.v[19] = int64_t{1} << 40;
  gpu::LtChoice choice;
  choice.algorithm[0] = ~uint64_t{0}, choice.workspace_bytes = 4096, choice.seconds = 1.5e-5;
  {
    gpu::LtChoices c(path);
    CHECK(c.find(key) == nullptr);
    c.add(key, choice);
    c.save();
    CHECK_FALSE(c.unsaved());
  }
  gpu::LtKey other = key;
  other.v[3] = 9;
  {
    gpu::LtChoices c(path), beside(path);
    beside.add(other, choice);
    beside.save();
    c.add(key, choice);
    c.save();  // keeps what another process stored meanwhile
  }
  const gpu::LtChoices again(path);
  REQUIRE(again.find(key));
  REQUIRE(again.find(other));
  CHECK(again.find(key)->algorithm == choice.algorithm);
  CHECK(again.find(key)->workspace_bytes == 4096);

  std::ifstream in(path);
  std::string good((std::istreambuf_iterator<char>(in)), {});
  std::string flipped = good;
  flipped[good.find(" 4096 ") + 1] = '5';
  for (std::string bad : {flipped, good.substr(0, good.size() / 2), good.substr(1), std::string("end 0\n"), std::string(100, '\0'), good + good}) {
    std::ofstream(path, std::ios::trunc) << bad;
    gpu::LtChoices c(path);
    CHECK(c.find(key) == nullptr);
    c.add(key, choice);
    c.save();
    CHECK(gpu::LtChoices(path).find(key));
  }
}

TEST_CASE("cuBLASLt: measuring leaves c alone, what is remembered is used, captures measure nothing") {
  if (!has_lt()) return;
  const Settings settings;
  Random r(9);
  const Tensor x = r.normal({40, 64}, bf16_).to(Device::gpu), w = r.normal({64, 48}, bf16_).to(Device::gpu);
  const auto run = [&](bool add) {
    const Tensor c = Tensor::full({40, 48}, 1).to(Device::gpu);
    CHECK(gpu::product_lt("test", gpu::product_of("test", x.view(), w.view(), c.out(add), 1)));
    return c.to(Device::cpu);
  };
  gpu::set_tuning(gpu::Tuning::off);
  const Tensor once = run(true);
  gpu::set_tuning(gpu::Tuning::on);
  const int64_t waits = gpu::syncs();
  CHECK(test::nmse_within(run(true), once, 1e-12));
  CHECK(gpu::syncs() > waits + 3);
  const int64_t settled = gpu::syncs();
  run(true);
  CHECK(gpu::syncs() == settled + 1);  // run()'s own
  gpu::set_tuning(gpu::Tuning::file);  // plans are made again, from what was remembered
  run(true);
  CHECK(gpu::syncs() == settled + 2);

  gpu::set_tuning(gpu::Tuning::on);
  const Tensor c = Tensor::zeros({40, 48}).to(Device::gpu);
  gpu::begin_capture();
  CHECK(gpu::product_lt("test", gpu::product_of("test", x.view(), w.view(), c.out(), 0.5)));
  void* graph = gpu::end_capture(true);
  CHECK(c.to(Device::cpu).to_vector() == std::vector<double>(40 * 48));
  gpu::replay(graph);
  gpu::destroy_graph(graph);
  CHECK(c.to(Device::cpu).at({0, 0}) != 0);
}

TEST_CASE("cuBLASLt: of many shapes the plans of the last are kept, and the others are made again") {
  if (!has_lt()) return;
  const Settings settings;
  gpu::set_tuning(gpu::Tuning::off);
  Random r(9);
  const Tensor x = r.normal({72, 8}, bf16_).to(Device::gpu), w = r.normal({8, 64}, bf16_).to(Device::gpu);
  const auto product = [&](int64_t rows, int64_t columns) {
    const Tensor c = Tensor::zeros({rows, columns}, DType::f32, Device::gpu);
    CHECK(gpu::product_lt("test", gpu::product_of("test", x.slice(0, 0, rows).view(), w.slice(1, 0, columns).view(), c.out(), 1)));
    return c.to(Device::cpu);
  };
  const Tensor first = product(8, 8);
  for (int64_t rows = 1; rows <= 72; ++rows)
    for (int64_t columns = 1; columns <= 64; ++columns)
      if (rows != 8 || columns != 8) product(rows, columns);
  CHECK(gpu::lt_plans() == gpu::most_lt_plans);
  CHECK(test::bitwise_equal(product(8, 8), first));
  CHECK(gpu::lt_plans() == gpu::most_lt_plans);
}

TEST_CASE("cuBLASLt: sums split over P are put together in f32, and in a fixed order unless any order will do") {
  CHECK(gpu::deterministic());
  if (!has_lt()) return;
  const Settings settings;
  gpu::set_tuning(gpu::Tuning::on);
  Random r(11);
  const Tensor x = r.normal({40, 64}, bf16_).to(Device::gpu), w = r.normal({64, 48}, bf16_).to(Device::gpu);
  const auto used = [&](DType t, bool deterministic) {
    gpu::set_deterministic(deterministic);
    const Tensor c = Tensor::zeros({40, 48}, t).to(Device::gpu);
    gpu::emulator::lt_used() = 0;
    gpu::product_lt("test", gpu::product_of("test", x.view(), w.view(), c.out(), 1));
    return gpu::emulator::lt_used();
  };
  using namespace gpu::emulator;
  const unsigned whole = 1u << lt_whole | ((1u << lt_algorithms) - (1u << lt_alike)), apart = whole | 1u << lt_apart;
  CHECK(std::popcount(whole) > 16);  // all that the library offers, up to 32, are timed
  CHECK(used(f32, false) == (apart | 1u << lt_in_place));
  CHECK(used(bf16_, false) == apart);
  CHECK(used(f32, true) == apart);  // measured for itself: what was chosen before may be another one
  CHECK(used(bf16_, true) == apart);
  gpu::set_gemm_workspace(1000);
  CHECK(used(f32, true) == whole);
}
