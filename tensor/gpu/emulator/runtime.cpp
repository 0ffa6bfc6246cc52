// tensor/gpu/runtime.h without a GPU: device memory is heap between guards, filled with NaN; launches run on fibers.
#include "tensor/gpu/runtime.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "tensor/error.h"
#include "tensor/gpu/emulator/sanitizers.h"
#include "tensor/gpu/emulator/scheduler.h"

namespace facet::gpu {
namespace {

constexpr size_t alignment = 256;  // cudaMalloc's
constexpr size_t guard = emulator::address_sanitizer ? 0 : alignment;
constexpr int poison = 0xff, guard_byte = 0xa5;

using Graph = std::vector<std::function<void()>>;  // what was asked for between begin_capture and end_capture

struct Runtime {
  std::map<char*, size_t> buffers;  // address and size of what is live
  size_t live_bytes = 0;
  int64_t allocations = 0, launches = 0;
  int64_t fails_in = 0;  // from this allocation on, counted from now, all are refused; 0: none
  std::vector<std::function<void()>> queue;  // deferred: what the host has asked for since it last waited
  std::vector<void*> dying;                  // freed by the host, perhaps still used by what is in the queue
  int64_t syncs = 0;
  bool no_sync = false;
  const char* op = nullptr;
  emulator::Settings settings;
  std::unique_ptr<Graph> recording;
};
Runtime& runtime() {
  static Runtime& r = *[] {
    auto* made = new Runtime;
    const char* words = std::getenv("FACET_EMULATOR");
    made->settings = emulator::parse_settings(words ? words : "");
    return made;
  }();
  return r;
}

const std::string closed_text =
    "This program was built without CUDA. Build it where the CUDA toolkit is installed (nvcc), or set FACET_GPU=emulated to run the kernels "
    "slowly on the CPU.";
const std::string open_text;
bool& is_open() {
  static bool open = [] {
    const char* gpu = std::getenv("FACET_GPU");
    return gpu && std::string(gpu) == "emulated";
  }();
  return open;
}

void check_in_buffer(const char* what, const void* p, size_t bytes) {
  if (bytes == 0) return;
  auto* at = static_cast<char*>(const_cast<void*>(p));
  const auto& buffers = runtime().buffers;
  auto b = buffers.upper_bound(at);
  if (b == buffers.begin() || (--b, at + bytes > b->first + b->second))
    fail(Kind::check, "{}: {} bytes at {} do not lie within a live buffer of the device", what, bytes, p);
}

void set_guards(char* data, size_t bytes) {
  std::memset(data - guard, guard_byte, guard);
  std::memset(data + bytes, guard_byte, guard);
}
/// Throws when something was written beside a buffer; once.
void check_guards(const char* op) {
  for (const auto& [data, bytes] : runtime().buffers)
    for (size_t i = 0; i < guard; ++i) {
      if (data[i - guard] == static_cast<char>(guard_byte) && data[bytes + i] == static_cast<char>(guard_byte)) continue;
      set_guards(data, bytes);
      fail(Kind::check, "{}: something was written past an end of a device buffer of {} bytes", op, bytes);
    }
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
/// Now, at the next wait, or when the graph that is being captured is replayed.
void submit(std::function<void()> work) {
  Runtime& r = runtime();
  if (r.recording) r.recording->push_back(std::move(work));
  else if (r.settings.deferred) r.queue.push_back(std::move(work));
  else work();
}
void check_not_capturing(const char* what) {
  if (capturing()) fail(Kind::usage, "{}: {} cannot be part of a captured graph", runtime().op ? runtime().op : "the GPU", what);
}

void wait() {
  Runtime& r = runtime();
  check_not_capturing("waiting");
  if (r.no_sync) fail(Kind::check, "{}: the host waits for the device, which --assert-no-sync forbids", r.op ? r.op : "synchronize");
  ++r.syncs;
  drain();
}

}  // namespace

const std::string& why_not() { return is_open() ? open_text : closed_text; }

const DeviceInfo& device() {
  if (!available()) fail(Kind::environment, "{}", why_not());
  static const DeviceInfo info = [] {
    DeviceInfo d;
    d.name = "emulated GPU";
    d.major = 9;
    d.processors = 8;  // few, so that grids stay small
    d.total_bytes = size_t{16} << 30;
    d.shared_bytes = 227 * 1024;
    d.driver = d.runtime = "none";
    d.emulated = true;
    return d;
  }();
  return info;
}
size_t free_bytes() { return device().total_bytes - runtime().live_bytes; }

void* device_malloc(size_t bytes) {
  const emulator::Unseen unseen;
  Runtime& r = runtime();
  if (bytes > free_bytes()) return nullptr;
  ++r.allocations;
  if (r.fails_in == 1) return nullptr;
  if (r.fails_in) --r.fails_in;
  // Not rounded up: the first byte past the end is not the caller's.
  void* p = nullptr;
  if (posix_memalign(&p, alignment, guard + bytes + guard) != 0) return nullptr;
  char* data = static_cast<char*>(p) + guard;
  std::memset(data, poison, bytes);
  set_guards(data, bytes);
  r.buffers.emplace(data, bytes);
  r.live_bytes += bytes;
  return data;
}
void device_free(void* p) noexcept {
  if (!p) return;
  const emulator::Unseen unseen;
  Runtime& r = runtime();
  const auto b = r.buffers.find(static_cast<char*>(p));
  if (b == r.buffers.end()) {
    std::fprintf(stderr, "device_free: %p is no buffer of the device, or was freed before\n", p);
    std::abort();
  }
  if (!r.queue.empty()) return r.dying.push_back(p);
  r.live_bytes -= b->second;
  std::memset(p, poison, b->second);
  std::free(b->first - guard);
  r.buffers.erase(b);
}

void copy_to_device(void* to, const void* from, size_t bytes) {
  check_not_capturing("a copy from the host");
  check_in_buffer("copy_to_device", to, bytes);
  if (!runtime().settings.deferred && bytes) std::memcpy(to, from, bytes);
  if (!runtime().settings.deferred || !bytes) return;
  const auto* bytes_now = static_cast<const char*>(from);
  submit([to, staged = std::vector<char>(bytes_now, bytes_now + bytes)] { std::memcpy(to, staged.data(), staged.size()); });
}
void copy_to_host(void* to, const void* from, size_t bytes) {
  wait();
  check_in_buffer("copy_to_host", from, bytes);
  if (bytes) std::memcpy(to, from, bytes);
}
void copy_on_device(void* to, const void* from, size_t bytes) {
  check_in_buffer("copy_on_device, destination", to, bytes);
  check_in_buffer("copy_on_device, source", from, bytes);
  if (bytes) submit([=] { std::memcpy(to, from, bytes); });
}
void fill_bytes(void* to, int value, size_t bytes) {
  check_in_buffer("fill_bytes", to, bytes);
  if (bytes) submit([=] { std::memset(to, value, bytes); });
}
void synchronize() { wait(); }
int64_t syncs() { return runtime().syncs; }
void assert_no_sync(bool on) { runtime().no_sync = on; }
void* stream() { return nullptr; }

bool capturing() { return runtime().recording != nullptr; }
void begin_capture() {
  check_not_capturing("beginning a capture");
  runtime().recording = std::make_unique<Graph>();
}
void* end_capture(bool keep) {
  std::unique_ptr<Graph> graph = std::move(runtime().recording);
  return keep ? graph.release() : nullptr;
}
void replay(void* graph) {
  check_not_capturing("replaying a graph");
  submit([works = *static_cast<Graph*>(graph)] {
    for (const auto& work : works) work();
  });
}
void destroy_graph(void* graph) noexcept {
  const emulator::Unseen unseen;
  delete static_cast<Graph*>(graph);
}

LaunchScope::LaunchScope(const char* op) : before_(runtime().op) { runtime().op = op; }
LaunchScope::~LaunchScope() { runtime().op = before_; }

Timer::Timer() : begin_(nullptr), end_(nullptr) {}
Timer::~Timer() = default;
namespace {
int64_t now_ns() { return std::chrono::steady_clock::now().time_since_epoch().count(); }
}  // namespace
void Timer::start() { begin_ = reinterpret_cast<void*>(now_ns()); }
double Timer::seconds() {
  wait();
  return 1e-9 * static_cast<double>(now_ns() - reinterpret_cast<int64_t>(begin_));
}

void emulate(bool on) { is_open() = on; }

namespace emulator {
Settings settings() { return runtime().settings; }
void set_settings(const Settings& s) {
  if (!capturing()) drain();
  runtime().settings = s;
}
Counters counters() {
  const Runtime& r = runtime();
  return {static_cast<int64_t>(r.buffers.size()), r.live_bytes, r.allocations, r.launches};
}
void fail_allocation(int64_t n) { runtime().fails_in = n; }

void enqueue(const Launch& launch) {
  const Unseen unseen;
  const std::shared_ptr<void> closure(launch.closure, launch.destroy);
  if (!available()) fail(Kind::environment, "{}: {}", launch.op, why_not());
  submit([launch, closure] {
    ++runtime().launches;
    run(launch, runtime().settings);
    check_guards(launch.op);
  });
}
}  // namespace emulator

}  // namespace facet::gpu
