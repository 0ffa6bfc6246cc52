// tensor/gpu/runtime.h without a GPU: launches run on fibers, memory is that of memory.h.
#include "tensor/gpu/runtime.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "tensor/error.h"
#include "tensor/gpu/device_error.h"
#include "tensor/gpu/emulator/memory.h"
#include "tensor/gpu/emulator/sanitizers.h"
#include "tensor/gpu/emulator/scheduler.h"
#include "tensor/gpu/moments.h"
#include "tensor/gpu/waits.h"

namespace facet::gpu {
namespace {

using emulator::Access;
using emulator::check_in_buffer;
using emulator::seen;

using Graph = std::vector<std::function<void()>>;  // what was asked for between begin_capture and end_capture

struct Runtime {
  int64_t launches = 0, lone_launches = 0, overlapped_launches = 0;
  bool replaying = false;
  int64_t breaks_in = 0;  // after breaks_in - 1 more launches the device is broken; 0: never
  bool broken = false;
  std::vector<std::function<void()>> queue;  // deferred: what the host has asked for since it last waited
  std::vector<void*> dying;                  // freed by the host, perhaps still used by what is in the queue
  const char* op = nullptr;
  const char* last_op = "the start";
  emulator::Settings settings;
  std::unique_ptr<Graph> recording;
};
Runtime& runtime() {
  static Runtime& r = *[] {
    auto* made = new Runtime;
    const char* words = std::getenv("FACET_EMULATOR");
    made->settings = emulator::parse_settings(words ? words : "");
    emulator::fail_allocation(made->settings.fail_alloc);
    made->breaks_in = made->settings.fail_launch;
    return made;
  }();
  return r;
}

const std::string closed_text =
    "this program was built without CUDA; build it where the CUDA toolkit is installed (nvcc), or use --device cpu (FACET_GPU=emulated runs "
    "the kernels on the CPU, slowly)";
const std::string open_text;
bool& is_open() {
  static bool open = [] {
    const char* gpu = std::getenv("FACET_GPU");
    return gpu && std::string(gpu) == "emulated";
  }();
  return open;
}

/// Does what is in the queue, and forgets the rest when something goes wrong.
void drain() {
  Runtime& r = runtime();
  const auto work = std::move(r.queue);
  r.queue.clear();
  struct Burial {
    Runtime& r;
    ~Burial() {
      for (void* p : std::exchange(r.dying, {})) device_free(p);
    }
  } const burial{r};
  for (const auto& w : work) w();
}
/// What every call to a broken device comes to. As on a real one, the launch that broke it is not the one that says so, unless each is waited for.
void check_unbroken(const char* call) {
  if (runtime().broken) fail_call(runtime().op, call, "an illegal memory access was encountered", "cudaErrorIllegalAddress", Failure::lost);
}

/// Now, at the next wait, or when the graph that is being captured is replayed.
void submit(const char* call, std::function<void()> work) {
  Runtime& r = runtime();
  check_unbroken(call);
  if (r.recording) r.recording->push_back(std::move(work));
  else if (r.settings.deferred) r.queue.push_back(std::move(work));
  else work();
}
void check_not_capturing(const char* what) {
  if (capturing()) fail(Kind::usage, "{}: {} cannot be part of a captured graph", runtime().op ? runtime().op : "the GPU", what);
}

/// What the device does besides launches comes after all of them.
void copy(char* to, const void* from, size_t bytes) {
  emulator::join_launches();
  std::memcpy(to, from, bytes);
}

/// Launches are those of a graph.
struct Replaying {
  Replaying() { runtime().replaying = true; }
  ~Replaying() { runtime().replaying = false; }
};

void wait(const char* call) {
  check_not_capturing(call);
  about_to_wait(runtime().last_op, call);
  drain();
  emulator::join_launches();
  check_unbroken("waiting");
}

}  // namespace

const std::string& why_not() { return is_open() ? open_text : closed_text; }

const DeviceInfo& device() {
  if (!available()) fail(Kind::environment, "--device cuda: {}", why_not());
  static const DeviceInfo info = [] {
    DeviceInfo d;
    d.name = "emulated GPU";
    d.major = 9;
    d.processors = 8;  // few, so that grids stay small
    d.total_bytes = emulator::device_bytes;
    d.shared_bytes = 227 * 1024;
    d.driver = d.runtime = "none";
    d.emulated = true;
    return d;
  }();
  return info;
}
size_t free_bytes() { return device().total_bytes - emulator::memory_counters().live_bytes; }

void* device_malloc(size_t bytes) {
  const emulator::Unseen unseen;
  emulator::join_launches();
  device();
  check_unbroken("an allocation");
  return emulator::new_buffer(bytes);
}
void device_free(void* p) noexcept {
  if (!p) return;
  const emulator::Unseen unseen;
  if (!emulator::is_buffer(p)) {
    std::fprintf(stderr, "device_free: %p is no buffer of the device, or was freed before\n", p);
    std::abort();
  }
  if (!runtime().queue.empty()) return runtime().dying.push_back(p);
  emulator::join_launches();
  emulator::delete_buffer(p);
}

void copy_to_device(void* to, const void* from, size_t bytes) {
  check_not_capturing("a copy from the host");
  check_in_buffer("copy_to_device", to, bytes);
  if (!bytes) return;
  if (!runtime().settings.deferred) {
    check_unbroken("a copy to the GPU");
    copy(seen(to), from, bytes);
    return;
  }
  const auto* bytes_now = static_cast<const char*>(from);
  submit("a copy to the GPU", [to, staged = std::vector<char>(bytes_now, bytes_now + bytes)] { copy(seen(to), staged.data(), staged.size()); });
}
void copy_to_host(void* to, const void* from, size_t bytes) {
  wait("a copy to the host");
  check_in_buffer("copy_to_host", from, bytes);
  if (bytes) std::memcpy(to, seen(from), bytes);
}
void copy_on_device(void* to, const void* from, size_t bytes) {
  check_in_buffer("copy_on_device, destination", to, bytes);
  check_in_buffer("copy_on_device, source", from, bytes);
  if (bytes) submit("a copy on the GPU", [=] { copy(seen(to), seen(from), bytes); });
}
void fill_bytes(void* to, int value, size_t bytes) {
  check_in_buffer("fill_bytes", to, bytes);
  if (bytes) submit("filling memory", [=] {
    emulator::join_launches();
    std::memset(seen(to), value, bytes);
  });
}
void synchronize() { wait("synchronize()"); }
void* stream() { return nullptr; }

bool capturing() { return runtime().recording != nullptr; }
void begin_capture() {
  check_not_capturing("beginning a capture");
  runtime().recording = std::make_unique<Graph>();
}
void* end_capture(bool keep) {
  std::unique_ptr<Graph> graph = std::move(runtime().recording);
  return keep && !graph->empty() ? graph.release() : nullptr;
}
void replay(void* graph) {
  check_not_capturing("replaying a graph");
  submit("replaying a graph", [works = *static_cast<Graph*>(graph)] {
    const Access access("a replayed graph");
    const Replaying replaying;
    for (const auto& work : works) work();
  });
}
void destroy_graph(void* graph) noexcept {
  const emulator::Unseen unseen;
  delete static_cast<Graph*>(graph);
}

LaunchScope::LaunchScope(const char* op) : before_(runtime().op) { runtime().op = runtime().last_op = op; }
LaunchScope::~LaunchScope() { runtime().op = before_; }

Timer::Timer() : begin_(nullptr), end_(nullptr) {}
Timer::~Timer() = default;
namespace {
int64_t now_ns() { return std::chrono::steady_clock::now().time_since_epoch().count(); }
}  // namespace
void Timer::start() { begin_ = reinterpret_cast<void*>(now_ns()); }
double Timer::seconds() {
  wait("a timer");
  return 1e-9 * static_cast<double>(now_ns() - reinterpret_cast<int64_t>(begin_));
}

namespace {
std::vector<int64_t>& moments() {  // nanoseconds; those of marks still in the queue are 0
  static std::vector<int64_t> list;
  return list;
}
}  // namespace
int64_t mark_moment() noexcept {
  const emulator::Unseen unseen;
  if (capturing() || runtime().broken) return -1;
  const size_t mine = moments().size();
  moments().push_back(0);
  submit("a mark", [mine] { moments()[mine] = now_ns(); });
  return static_cast<int64_t>(mine);
}
std::vector<double> read_moments() noexcept {
  const MaySync allowed;
  try {
    wait("the moments of a trace");
  } catch (const Error&) {  // whoever waits next is told again
    moments().clear();
    return {};
  }
  std::vector<double> seconds;
  for (const int64_t ns : moments()) seconds.push_back(1e-9 * static_cast<double>(ns - moments().front()));
  moments().clear();
  return seconds;
}

void emulate(bool on) { is_open() = on; }

namespace emulator {
Settings settings() { return runtime().settings; }
void set_settings(const Settings& s) {
  if (!capturing()) drain();
  runtime().settings = s;
  fail_allocation(s.fail_alloc);
  fail_launch(s.fail_launch);
}
Counters counters() {
  const MemoryCounters m = memory_counters();
  return {m.live_buffers, m.live_bytes, m.allocations, runtime().launches, runtime().lone_launches, runtime().overlapped_launches};
}

void fail_launch(int64_t n) {
  runtime().breaks_in = n;
  runtime().broken = false;
}

void enqueue(const Launch& launch) {
  const Unseen unseen;
  const std::shared_ptr<void> closure(launch.closure, launch.destroy);
  if (!available()) fail(Kind::environment, "{}: {}", launch.op, why_not());
  submit("a launch", [launch, closure] {
    Runtime& r = runtime();
    ++r.launches;
    r.lone_launches += !r.replaying;
    r.overlapped_launches += launch.overlapped;
    if (r.breaks_in && --r.breaks_in == 0) r.broken = true;
    if (r.broken) return;
    const Access access(launch.op);
    run(launch, r.settings);
    check_guards(launch.op);
  });
  if (waits_for_launches() && !capturing()) check_unbroken("the kernel");
}
}  // namespace emulator

}  // namespace facet::gpu
