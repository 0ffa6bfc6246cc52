// A device that runs out of memory, or breaks, at any point of training and generation: what is said, what is left behind, and that nothing
// on disk suffers.
#include <cstdlib>

#include "autograd/ops.h"
#include "infer/generator.h"
#include "tensor/error.h"
#include "tensor/gpu/pool.h"
#include "tensor/kernels/door.h"
#include "tests/app/trainers.h"
#include "tests/gpu/tiny_model.h"
#include "tests/support/run_files.h"

namespace facet::test {
namespace {

namespace emulator = gpu::emulator;

/// A job that ends in numbers, the same ones each time it is done.
using Job = std::function<std::vector<double>()>;

std::vector<double> training() {
  const auto model = tiny(Device::gpu);
  return train(*model, {batch_of(tokens_of("b"))}, 1);
}
std::vector<double> generation() {
  const auto model = tiny(Device::gpu);
  GenerateOptions o;
  o.max_new = 3;
  o.ignore_stop = true;
  std::vector<double> all;
  for (const Generation& g : generate(*model, {{2, 5, 9}, {2, 7}}, o)) all.insert(all.end(), g.tokens.begin(), g.tokens.end());
  return all;
}

struct Held {
  int64_t buffers;
  size_t bytes;
  bool operator==(const Held&) const = default;
};
Held held() { return {emulator::counters().live_buffers, gpu::pool_stats().live_bytes}; }

/// The message the job ends with, empty when it does not fail; `want` its numbers then.
std::string failure_of(const Job& job, const std::vector<double>& want, Kind kind) {
  try {
    const std::vector<double> got = job();
    CHECK(got == want);
  } catch (const Error& e) {
    CHECK(e.kind() == kind);
    return e.what();
  }
  return {};
}

bool contains(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

/// Lets the job fail at `points` places of the counter's way through it, the first and the last among them, and undoes it each time.
void fails_everywhere(const Job& job, int64_t (*counter)(), int points, void (*fail_at)(int64_t), Kind kind, const char* said) {
  gpu::emulate(true);
  job();  // what is made once and kept
  const int64_t begin = counter();
  const std::vector<double> want = job();
  const int64_t n = counter() - begin;
  const Held before = held();
  REQUIRE(n > points);
  for (int i = 0; i < points; ++i) {
    const int64_t at = 1 + i * (n - 1) / (points - 1);
    INFO("at " << at << " of " << n);
    fail_at(at);
    const std::string message = failure_of(job, want, kind);
    fail_at(0);
    INFO(message);
    CHECK(contains(message, said));
    CHECK(held() == before);
  }
  CHECK(job() == want);  // the device is as good as before
}

int64_t allocations() { return emulator::counters().allocations; }
int64_t launches() { return emulator::counters().launches; }
void no_memory_from(int64_t n) { emulator::fail_allocation(n); }

}  // namespace

TEST_CASE("failures: no memory from the n-th allocation on ends training and generation with the table, and leaves nothing behind") {
  for (const Job& job : {Job(training), Job(generation)}) fails_everywhere(job, allocations, 4, no_memory_from, Kind::memory, "Live buffers:\n");
}

TEST_CASE("failures: one refused allocation is asked for again, and nobody notices") {
  for (const Job& job : {Job(training), Job(generation)}) {
    gpu::emulate(true);
    const std::vector<double> want = job();
    for (const int64_t n : {1, 20, 77}) {
      emulator::fail_allocation(n, 1);
      CHECK(failure_of(job, want, Kind::memory).empty());
      emulator::fail_allocation(0);
    }
  }
}

constexpr const char* broken = " failed: an illegal memory access was encountered (cudaErrorIllegalAddress)";
TEST_CASE("failures: a device that breaks at the n-th launch ends training and generation with the operation, and leaves nothing behind") {
  for (const Job& job : {Job(training), Job(generation)}) fails_everywhere(job, launches, 4, emulator::fail_launch, Kind::environment, broken);
}

TEST_CASE("failures: a message names the last operation with dtypes and shapes of its operands") {
  gpu::emulate(true);
  const NoGrad off;
  const Tensor x = Tensor::zeros({3, 4}, DType::bf16, Device::gpu), w = Tensor::zeros({5, 4}, DType::bf16, Device::gpu);
  linear(x, w);
  CHECK(last_gpu_operation() == "linear of bf16 [3, 4], bf16 [5, 4], bf16 [3, 5]");
  rms_norm(x, w.slice(0, 0, 1).reshape({4}), 1e-6);  // the kernel's other output is absent, and not told
  CHECK(last_gpu_operation() == "rms_norm of bf16 [3, 4], bf16 [4], bf16 [3, 4]");
  softmax(Tensor::zeros({2, 3}), -1);  // the CPU's are none
  CHECK(contains(last_gpu_operation(), "rms_norm of"));
  emulator::fail_launch(1);
  try {
    linear(x, w);
    x.to(Device::cpu);
    FAIL("the device is broken");
  } catch (const Error& e) {
    CHECK(contains(e.what(), "The last operation was linear of bf16 [3, 4], bf16 [5, 4], bf16 [3, 5]. The GPU is lost"));
  }
  emulator::fail_launch(0);
  const std::vector<View> many(20, x.view());
  CHECK(on_gpu("many", std::span<const View>(many)));
  const std::string last = last_gpu_operation();
  CHECK(last.substr(last.size() - 5) == ", ...");
}

TEST_CASE("failures: at many more points", "[full]") {
  for (const Job& job : {Job(training), Job(generation)}) {
    fails_everywhere(job, allocations, 60, no_memory_from, Kind::memory, "Live buffers:\n");
    fails_everywhere(job, launches, 60, emulator::fail_launch, Kind::environment, broken);
  }
}

// ---- the program

namespace {

/// A run of the program that fails at the n-th allocation or launch; the exit code.
int run_failing(const Trainers& t, const Words& words, const std::string& settings) {
  return t.run(words, [&] {
    ::setenv("FACET_GPU", "emulated", 1);
    ::setenv("FACET_EMULATOR", settings.c_str(), 1);
    ::setenv("FACET_GPU_SYNC", "1", 1);
  });
}

}  // namespace

TEST_CASE("failures: the program says which operation, ends with its exit code, and its last checkpoint leads to the same result", "[full]") {
  const Trainers t;
  const Words more = {"--device", "cuda", "--batch", "4", "--accum", "2", "--steps", "3", "--max-len", "16"};
  const std::string kind = "sft";
  REQUIRE(run_failing(t, t.words(kind, "whole", more), "") == 0);
  const auto want = results_of(t / "whole");
  struct Failing {
    const char* settings;
    int code;
    const char* said;
    bool saved;  // before the first checkpoint, or after
  };
  for (const Failing& f : {Failing{"fail_alloc=300", 12, "Live buffers:", false}, {"fail_alloc=2200", 12, "Live buffers:", true},
                           {"fail_launch=300", 5, "The last checkpoint is intact.", false}, {"fail_launch=4000", 5, "The last checkpoint is intact.", true}}) {
    INFO(f.settings);
    CHECK(run_failing(t, t.words(kind, f.settings, more), f.settings) == f.code);
    INFO(t.said());
    CHECK(contains(t.said(), f.said));
    REQUIRE(std::filesystem::exists(t / (f.settings + std::string("/checkpoints/LATEST"))) == f.saved);
    if (!f.saved) continue;
    CHECK(run_failing(t, t.resumed(kind, f.settings, more), "") == 0);
    CHECK(difference(want, results_of(t / f.settings)) == "");
  }
}

}  // namespace facet::test
