// What the emulator reports, and in which words: each rule broken once, with its place. Then schedules, launches, settings.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <csignal>
#include <string>
#include <vector>

#include "tensor/error.h"
#include "tensor/gpu/emulator/emulator.h"
#include "tensor/gpu/emulator/memory.h"
#include "tensor/gpu/launch.h"
#include "tensor/gpu/overlap.h"
#include "tensor/gpu/pool.h"

namespace facet::gpu {
namespace {

struct WithSettings {
  emulator::Settings before = emulator::settings();
  explicit WithSettings(const char* words) {
    emulate(true);
    emulator::set_settings(emulator::parse_settings(words));
  }
  ~WithSettings() { emulator::set_settings(before); }
};

constexpr const char* file = "tests/gpu/emulator_test.cpp:";
std::string at(int line) { return file + std::to_string(line); }

/// The message of launching this kernel; empty when nothing is wrong. Whatever went wrong, the next launch must work.
__global__ void well_behaved() { sync_block(); }
template <class... P, class... A>
std::string message(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared, A... args) {
  std::string text;
  try {
    launch("op", kernel, grid, block, shared, args...);
    synchronize();
  } catch (const Error& e) {
    text = e.what();
  }
  launch("well_behaved", well_behaved, 2, 64, 0);
  synchronize();
  return text;
}
void check_message(const std::string& text, const std::vector<std::string>& parts) {
  INFO(text);
  for (const std::string& part : parts) CHECK_THAT(text, Catch::Contains(part));
}

// ---- warps

constexpr int mask_line = __LINE__ + 1;
__global__ void not_in_mask() { sync_warp(0x1); }
constexpr int missing_line = __LINE__ + 1;
__global__ void missing_lanes() { shfl(1, 0); }
constexpr int exited_line = __LINE__ + 3;
__global__ void exited_lanes() {
  if (threadIdx.x < 4) return;
  (void)any(true);
}
constexpr int leaves_line = __LINE__ + 2;
__global__ void lane_leaves() {
  if (threadIdx.x != 31) (void)all(true);
}
constexpr int overlap_line = __LINE__ + 1;
__global__ void overlapping_masks() { sync_warp(threadIdx.x < 16 ? 0x0001ffffu : 0xffff0000u); }
constexpr int diverged_line = __LINE__ + 2;
__global__ void diverged_warp() {
  if (threadIdx.x % 2) shfl_xor(1, 1);
  else (void)ballot(true);
}
constexpr int helper_line = __LINE__ + 1;
__global__ void diverged_in_helper() { if (threadIdx.x < 3) warp_sum(1.0f); }

TEST_CASE("reports: warps") {
  const WithSettings s("forward");
  check_message(message(not_in_mask, 1, 32, 0), {"op: block (0, 0, 0), thread (1, 0, 0)", at(mask_line), "sync_warp: lane 1 is not in its own mask 0x00000001"});
  check_message(message(missing_lanes, 1, 48, 0), {"thread (32, 0, 0)", at(missing_line), "shfl", "lanes that the warp does not have (16, 17", "48 threads"});
  check_message(message(exited_lanes, 1, 32, 0), {"thread (4, 0, 0)", at(exited_line), "any", "have left the kernel: 0, 1, 2, 3"});
  check_message(message(lane_leaves, dim3(1, 2), 32, 0), {"thread (31, 0, 0)", "lane 31 left the kernel while lanes 0, 1", "in all at " + at(leaves_line)});
  check_message(message(overlapping_masks, 1, 32, 0), {at(overlap_line), "two masks overlap: 0xffff0000 of lane 16, 0x0001ffff"});
  check_message(message(diverged_warp, 1, 32, 0),
                {at(diverged_line), "the warp diverged: lane 1 comes to shfl_xor, lanes 0 wait in ballot at " + at(diverged_line + 1)});
  check_message(message(diverged_in_helper, 1, 32, 0), {"shfl_xor at " + at(helper_line)});
}

// ---- blocks

constexpr int two_line = __LINE__ + 2;
__global__ void two_barriers() {
  if (threadIdx.x < 32) sync_block();
  else sync_block();
}
constexpr int after_exit_line = __LINE__ + 3;
__global__ void barrier_after_exit(float* y) {
  if (threadIdx.x == 7) return;
  sync_block();
  if (threadIdx.x == 0) *y = 1;
}
constexpr int stuck_line = __LINE__ + 2;
__global__ void stuck() {
  if (threadIdx.x < 40) sync_block();
  else sync_warp();
}
constexpr int spinning_line = __LINE__ + 3;
__global__ void spinning(int32_t* flag) {
  if (threadIdx.x < 32) {
    while (atomic_add(flag, 0) == 0) spin_pause();
  } else {
    sync_block();
    atomic_exchange(flag, 1);
  }
}

TEST_CASE("reports: blocks") {
  const WithSettings s("forward");
  check_message(message(two_barriers, 1, 64, 0),
                {"thread (32, 0, 0)", at(two_line + 1), "the block diverged: thread (0, 0, 0) waits in sync_block at " + at(two_line)});
  check_message(message(stuck, 1, 64, 0),
                {"block (0, 0, 0) is stuck: 64 of 64 threads wait", "40 in sync_block at " + at(stuck_line) + " (thread (0, 0, 0) first)",
                 "24 in sync_warp at " + at(stuck_line + 1) + " (thread (40, 0, 0) first)"});
  auto* flag = static_cast<int32_t*>(device_malloc(sizeof(int32_t)));
  fill_bytes(flag, 0, sizeof(int32_t));
  check_message(message(spinning, 1, 64, 0, flag),
                {"makes no progress", "32 in spin_pause at " + at(spinning_line), "32 in sync_block at " + at(spinning_line + 2)});
  auto* y = reinterpret_cast<float*>(flag);
  check_message(message(barrier_after_exit, 1, 64, 0, y), {at(after_exit_line), "thread (7, 0, 0)", "left the kernel"});
  {
    const WithSettings lax("forward,lax");
    CHECK(message(barrier_after_exit, 1, 64, 0, y).empty());
    float got = 0;
    copy_to_host(&got, y, sizeof got);
    CHECK(got == 1);
  }
  device_free(flag);
}

// ---- memory

__global__ void shared_overrun(int past) {
  FACET_SHARED(float, tile, [8]);
  float* p = tile;
  p[7 + past] = 1;
}
__global__ void too_much_shared() {
  FACET_SHARED(float, big, [12 * 1024 + 1]);
  big[threadIdx.x] = 0;
}
__global__ void reads_shared(float* y) {
  FACET_SHARED(float, tile, [4]);
  FACET_DYNAMIC_SHARED(float, more);
  y[0] = tile[1];
  y[1] = more[0];
  tile[1] = more[0] = 1;  // the next block must not see it
}
__global__ void writes_at(char* p, int64_t i) { p[i] = 1; }
__global__ void copies_misaligned(const char* x, int wrong) {
  FACET_SHARED(char, tile, [48]);
  if (wrong == 0) copy_async16(tile + 4, x, true);
  if (wrong == 1) copy_async16(tile, x + 4, true);
  if (wrong == 2) copy_async16(tile + 40, x, true);
  if (wrong == 3) copy_async16(const_cast<char*>(x), tile, true);
}

TEST_CASE("reports: memory") {
  const WithSettings s("forward");
  auto* y = static_cast<float*>(device_malloc(64));
  CHECK(message(shared_overrun, 1, 1, 0, 0).empty());
  check_message(message(shared_overrun, 3, 1, 0, 1), {"op: block (0, 0, 0) wrote past an end of its shared array tile"});
  check_message(message(too_much_shared, 1, 1, 0), {"49156 bytes of shared arrays; 48 KB are allowed", file});
  CHECK(message(reads_shared, 2, 1, 16, y).empty());
  float got[2];
  copy_to_host(got, y, sizeof got);
  CHECK((got[0] != got[0] && got[1] != got[1]));  // NaN in the last block too
  check_message(message(writes_at, 1, 1, 0, reinterpret_cast<char*>(y), 64), {"op: something was written past an end of a device buffer of 64 bytes"});
  check_message(message(copies_misaligned, 1, 1, 0, reinterpret_cast<char*>(y), 0), {"destination is not aligned", file});
  check_message(message(copies_misaligned, 1, 1, 0, reinterpret_cast<char*>(y), 1), {"source is not aligned"});
  check_message(message(copies_misaligned, 1, 1, 0, reinterpret_cast<char*>(y), 2), {"not lie in a shared array"});
  check_message(message(copies_misaligned, 1, 1, 0, reinterpret_cast<char*>(y), 3), {"not lie in a shared array"});
  CHECK_THROWS_WITH(copy_to_host(got, y + 16, 4), Catch::Contains("do not lie within a live buffer"));
  float local = 0;
  CHECK_THROWS_WITH(copy_to_device(&local, y, 4), Catch::Contains("do not lie within a live buffer"));
  device_free(y);
  CHECK_THROWS_WITH(copy_to_host(got, y, 4), Catch::Contains("do not lie within a live buffer"));
}

/// What a process says that does this, and the signal it dies of.
template <class F>
std::pair<std::string, int> in_child(F f) {
  int ends[2];
  REQUIRE(pipe(ends) == 0);
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    std::signal(SIGSEGV, SIG_DFL);  // not the test framework's
    dup2(ends[1], STDERR_FILENO);
    f();
    _exit(0);
  }
  close(ends[1]);
  std::string said;
  char part[256];
  for (ssize_t n; (n = read(ends[0], part, sizeof part)) > 0;) said.append(part, static_cast<size_t>(n));
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  return {said, WIFSIGNALED(status) ? WTERMSIG(status) : 0};
}

TEST_CASE("reports: the host touches device memory") {
  const WithSettings s("forward");
  auto* x = static_cast<volatile float*>(pool_alloc(6 * sizeof(float), {"activations", {6}, DType::f32}));
  auto* plain = static_cast<volatile float*>(device_malloc(64));
  const auto touches = [](auto f) {
    return in_child([f] {
      launch("well_behaved", well_behaved, 1, 64, 0);
      f();
    });
  };
  const std::string begin = "emulated GPU: the host touches device memory without a copy: ", last = "; the device last did well_behaved\n";
  const auto read = touches([=] { (void)x[2]; });
  CHECK(read.first == begin + "byte 8 of activations f32[6] (24 bytes)" + last);
  CHECK(read.second == SIGSEGV);
  CHECK(touches([=] { x[5] = 1; }).first == begin + "byte 20 of activations f32[6] (24 bytes)" + last);
  CHECK(touches([=] { (void)plain[0]; }).first == begin + "memory that belongs to no tensor" + last);
  const auto elsewhere = in_child([] { (void)*reinterpret_cast<volatile char*>(8); });  // a fault that is not ours
  CHECK(elsewhere.first.empty());
  CHECK(elsewhere.second == SIGSEGV);
  pool_free(const_cast<float*>(x));
  device_free(const_cast<float*>(plain));
}

// ---- overlapped kernels

constexpr int early_collective_line = __LINE__ + 2;
__global__ void collective_before_wait() {
  if (threadIdx.x < 32) sync_block();
  wait_for_previous();
}
constexpr int early_copy_line = __LINE__ + 3;
__global__ void copy_before_wait(const float* x) {
  FACET_SHARED(float, tile, [4]);
  copy_async16(tile, x, true);
  wait_for_previous();
}
__global__ void never_waits() {}
__global__ void touches_before_wait(float* x) {
  if (blockIdx.x == 1 && threadIdx.x == 5) x[3] = 1;
  wait_for_previous();
  x[4] = 1;
}
constexpr int odd_hint_line = __LINE__ + 2, strange_hint_line = __LINE__ + 3;
__global__ void hints(const float* x, int which) {
  if (which == 0) hint_to_l2(x + 1, 16);
  if (which == 1) hint_to_l2(x, 48);
  if (which == 2) hint_to_l2(x, 32);
  wait_for_previous();
  wait_for_previous();  // again: nothing
}

TEST_CASE("reports: kernels that overlap the one before wait for it") {
  const WithSettings s("forward");
  auto* x = static_cast<float*>(pool_alloc(8 * sizeof(float), {"activations", {8}, DType::f32}));
  const auto overlapped = [](auto kernel, auto... args) {
    std::string text;
    try {
      launch_overlapping("op", kernel, 2, 64, 0, args...);
      synchronize();
    } catch (const Error& e) {
      text = e.what();
    }
    launch_overlapping("waits", hints, 2, 64, 0, nullptr, 3);
    synchronize();
    return text;
  };
  check_message(overlapped(never_waits), {"op: block (0, 0, 0), thread (0, 0, 0): left the kernel without wait_for_previous()"});
  check_message(overlapped(collective_before_wait), {"is stuck: 64 of 64 threads", "32 in sync_block at " + at(early_collective_line), "32 in wait_for_previous"});
  check_message(overlapped(copy_before_wait, x), {at(early_copy_line) + ": copy_async16 before wait_for_previous()"});
  check_message(overlapped(hints, x, 0), {at(odd_hint_line) + ": hint_to_l2: address and size (16) must be multiples of 16"});
  check_message(overlapped(hints, x, 1), {at(strange_hint_line) + ": hint_to_l2: 48 bytes that do not lie within a live buffer"});
  CHECK(overlapped(hints, x, 2).empty());
  const auto touches = in_child([&] { launch_overlapping("op", touches_before_wait, 2, 64, 0, x); });
  CHECK(touches.first == "op: block (1, 0, 0), thread (5, 0, 0) touches device memory before wait_for_previous(): byte 12 of activations f32[8] (32 bytes)\n");
  CHECK(touches.second == SIGSEGV);
  // Launched plainly none of that matters.
  CHECK(message(never_waits, 2, 64, 0).empty());
  CHECK(message(touches_before_wait, 2, 64, 0, x).empty());
  const PlainLaunches plain;
  const int64_t before = emulator::counters().overlapped_launches;
  CHECK(overlapped(touches_before_wait, x).empty());
  CHECK(emulator::counters().overlapped_launches == before);
  pool_free(x);
}

// ---- launches and schedules

TEST_CASE("launches: limits of the hardware, and nothing to do") {
  const WithSettings s("forward");
  check_message(message(well_behaved, 1, 1025, 0), {"op: launch of grid (1, 1, 1), block (1025, 1, 1)", "is 1025, at most 1024"});
  check_message(message(well_behaved, 1, dim3(1, 1, 65), 0), {"block.z is 65, at most 64"});
  check_message(message(well_behaved, dim3(1, 65536), 1, 0), {"grid.y is 65536"});
  check_message(message(well_behaved, 1, 1, 228 * 1024), {"dynamic shared memory is 233472, at most 232448"});
  CHECK(message(well_behaved, dim3(1, 0), 64, 0).empty());
  emulate(false);
  CHECK_THROWS_WITH(launch("op", well_behaved, 1, 1, 0), Catch::Contains("built without CUDA"));
  emulate(true);
}

__global__ void order_kernel(int32_t* y) {
  const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  y[1 + atomic_add(y, 1)] = static_cast<int32_t>(100 * block + thread);
}
std::vector<int32_t> order_under(const char* words) {
  const WithSettings s(words);
  constexpr size_t n = 1 + 24 * 12;
  auto* y = static_cast<int32_t*>(device_malloc(n * sizeof(int32_t)));
  fill_bytes(y, 0, n * sizeof(int32_t));
  launch("order", order_kernel, dim3(3, 2, 2), dim3(2, 3, 4), 0, y);
  std::vector<int32_t> got(n);
  copy_to_host(got.data(), y, n * sizeof(int32_t));
  device_free(y);
  return got;
}
TEST_CASE("schedules: forward, reverse, random by seed") {
  const std::vector<int32_t> forward = order_under("forward"), reverse = order_under("reverse"), random = order_under("random,seed=5");
  for (int i = 0; i < 24 * 12; ++i) {
    const int32_t expected = 100 * (i / 24) + i % 24;
    CHECK(forward[static_cast<size_t>(1 + i)] == expected);
    CHECK(reverse[static_cast<size_t>(24 * 12 - i)] == expected);
  }
  CHECK(random == order_under("random,seed=5"));
  CHECK(random != order_under("random,seed=6"));
  CHECK(random != forward);
  auto sorted = random;
  std::sort(sorted.begin() + 1, sorted.end());
  CHECK(sorted == forward);
}

// ---- the runtime

__global__ void add_one(int32_t* p) { *p += 1; }

TEST_CASE("runtime: deferred work is done when the host waits, in order, whatever was reused or freed meanwhile") {
  const WithSettings s("deferred");
  auto* p = static_cast<int32_t*>(device_malloc(4));
  auto* q = static_cast<int32_t*>(device_malloc(4));
  int32_t source = 7;
  copy_to_device(p, &source, 4);
  source = 100;
  launch("add_one", add_one, 1, 1, 0, p);
  copy_on_device(q, p, 4);
  launch("add_one", add_one, 1, 1, 0, p);
  CHECK(*reinterpret_cast<int32_t*>(emulator::seen(p)) == -1);  // nothing yet
  device_free(p);
  const int64_t waited = syncs();
  int32_t got = 0;
  copy_to_host(&got, q, 4);
  CHECK(got == 8);
  CHECK(syncs() == waited + 1);
  device_free(q);
}

TEST_CASE("runtime: an error of deferred work comes with the next wait, once, and what came after it is forgotten") {
  const WithSettings s("deferred");
  auto* p = static_cast<int32_t*>(device_malloc(4));
  fill_bytes(p, 0, 4);
  launch("bad", not_in_mask, 1, 32, 0);
  launch("add_one", add_one, 1, 1, 0, p);
  CHECK_THROWS_WITH(synchronize(), Catch::Contains("bad: block (0, 0, 0)"));
  int32_t got = -1;
  copy_to_host(&got, p, 4);
  CHECK(got == 0);
  device_free(p);
}

TEST_CASE("runtime: buffers are counted, and memory can end at the n-th allocation") {
  const WithSettings s("forward");
  const emulator::Counters before = emulator::counters();
  emulator::fail_allocation(3);
  void* p[4];
  for (void*& one : p) one = device_malloc(100);
  CHECK((p[0] && p[1] && !p[2] && !p[3]));
  CHECK_THROWS_WITH(pool_alloc(10, {"a buffer", {}, DType::f32}), Catch::Contains("a buffer"));
  emulator::fail_allocation(1, 1);  // the pool gives back what it holds and asks once more
  pool_free(pool_alloc(10, {"a buffer", {}, DType::f32}));
  emulator::fail_allocation(0);
  pool_free(pool_alloc(10, {"a buffer", {}, DType::f32}));
  CHECK(emulator::counters().live_buffers == before.live_buffers + 2);
  CHECK(emulator::counters().live_bytes == before.live_bytes + 200);
  CHECK(reinterpret_cast<uintptr_t>(p[0]) % 256 == 0);
  for (void* one : p) device_free(one);
  CHECK(emulator::counters().live_buffers == before.live_buffers);
  CHECK(emulator::counters().live_bytes == before.live_bytes);
  CHECK(device_malloc(size_t{1} << 60) == nullptr);
}

TEST_CASE("runtime: a broken device fails every call, with the operation that noticed") {
  for (const char* when : {"forward", "deferred"}) {
    const WithSettings s(when);
    auto* p = static_cast<int32_t*>(device_malloc(4));
    fill_bytes(p, 0, 4);
    emulator::fail_launch(2);
    launch("add_one", add_one, 1, 1, 0, p);
    launch("add_one", add_one, 1, 1, 0, p);  // as on a real device nothing is known of it yet
    int32_t got = 0;
    const std::string lost = "The GPU is lost to this run";
    CHECK_THROWS_WITH(copy_to_host(&got, p, 4), Catch::Contains("the GPU: waiting failed") && Catch::Contains(lost));
    CHECK_THROWS_WITH(launch("add_one", add_one, 1, 1, 0, p), Catch::Contains("add_one: a launch failed") && Catch::Contains(lost));
    CHECK_THROWS_WITH(device_malloc(4), Catch::Contains(lost));
    CHECK_THROWS_WITH(fill_bytes(p, 0, 4), Catch::Contains(lost));
    CHECK_THROWS_WITH(copy_to_device(p, &got, 4), Catch::Contains(lost));
    emulator::fail_launch(0);
    copy_to_host(&got, p, 4);
    CHECK(got == 1);
    device_free(p);
  }
}

TEST_CASE("settings: in words") {
  using namespace emulator;
  const Settings s = parse_settings("random,seed=123,lax,deferred,between_blocks,fail_alloc=4,fail_launch=9");
  CHECK(s.fail_alloc == 4);
  CHECK(s.fail_launch == 9);
  CHECK(s.schedule == Schedule::random);
  CHECK(s.seed == 123);
  CHECK(s.copies == Copies::mixed);
  CHECK_FALSE(s.strict);
  CHECK(s.deferred);
  CHECK(s.races == Races::between_blocks);
  CHECK(parse_settings("random,late").copies == Copies::late);
  CHECK(parse_settings("").copies == Copies::late);
  for (const char* wrong : {"forwards", "seed=", "seed=1x", "seed=-1", "fail_alloc=-1", "lax;eager"})
    CHECK_THROWS_WITH(parse_settings(wrong), Catch::Contains("FACET_EMULATOR: '" + std::string(wrong) + "' is not one of forward"));
}

}  // namespace
}  // namespace facet::gpu
