// tensor/gpu/runtime.h on the CUDA runtime. The driver is loaded by the runtime on first use, so a program that never asks for the GPU starts
// as fast without one.
#include "tensor/gpu/runtime.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstring>
#include <mutex>
#include <utility>
#include <vector>

#include "tensor/error.h"
#include "tensor/gpu/device_error.h"
#include "tensor/gpu/moments.h"
#include "tensor/gpu/waits.h"

namespace facet::gpu {

/// cuda/probe.cu: a kernel that does nothing, to learn whether the program holds code for this device.
const void* probe_kernel();
const char* built_for();

namespace {

thread_local const char *current_op = "the GPU", *last_op = "the start";

[[noreturn]] void fail_with(cudaError_t e, const std::string& call) {
  cudaGetLastError();
  // Sticky errors (an illegal address, say) leave the context unusable: whatever is asked next fails as well. Waiting would spoil a capture.
  const bool lost = !capturing() && e != cudaErrorMemoryAllocation && cudaDeviceSynchronize() != cudaSuccess;
  const Failure failure = e == cudaErrorMemoryAllocation ? Failure::memory : lost ? Failure::lost : Failure::refused;
  fail_call(current_op, call, cudaGetErrorString(e), cudaGetErrorName(e), failure);
}
void check(cudaError_t e, const char* call) {
  if (e != cudaSuccess) fail_with(e, call);
}

// Pinned memory that copies pass through, so that neither direction waits for the driver's own staging.
struct Staging {
  static constexpr size_t slot_bytes = size_t{4} << 20;
  static constexpr int slots = 4;
  char* base = nullptr;
  cudaEvent_t done[slots] = {};
  int next = 0;

  char* take(cudaStream_t) {
    if (!base) {
      check(cudaMallocHost(reinterpret_cast<void**>(&base), slot_bytes * slots), "pinned memory for copies");
      for (cudaEvent_t& e : done) check(cudaEventCreateWithFlags(&e, cudaEventDisableTiming), "an event");
    }
    check(cudaEventSynchronize(done[next]), "a copy");  // of the copy that used this slot before; long done as a rule
    return base + static_cast<size_t>(next) * slot_bytes;
  }
  void release(cudaStream_t s) {
    check(cudaEventRecord(done[next], s), "an event");
    next = (next + 1) % slots;
  }
};

struct Context {
  DeviceInfo info;
  cudaStream_t stream = nullptr;
  bool behind_kernel = false;  // what was put into the stream last
  Staging staging;
  std::mutex mutex;
};
Context* context = nullptr;

std::string version_text(int v) { return fmt::format("{}.{}", v / 1000, v % 1000 / 10); }

std::string start() {
  int count = 0, driver = 0, runtime = 0;
  cudaRuntimeGetVersion(&runtime);
  const cudaError_t e = cudaGetDeviceCount(&count);
  cudaDriverGetVersion(&driver);
  if (e == cudaErrorInsufficientDriver || (e != cudaSuccess && driver == 0))
    return fmt::format("the NVIDIA driver is {} (cudaErrorInsufficientDriver); install one for CUDA {}, or use --device cpu",
                       driver ? "too old, it serves CUDA " + version_text(driver) : "missing", version_text(runtime));
  if (e == cudaErrorNoDevice || (e == cudaSuccess && count == 0))
    return "the driver sees no GPU (cudaErrorNoDevice); check nvidia-smi and CUDA_VISIBLE_DEVICES, or use --device cpu";
  if (e != cudaSuccess) return fmt::format("the driver does not start: {} ({}); use --device cpu", cudaGetErrorString(e), cudaGetErrorName(e));
  cudaDeviceProp p{};
  if (const cudaError_t bad = cudaGetDeviceProperties(&p, 0); bad != cudaSuccess)
    return fmt::format("the GPU does not answer: {} ({}); use --device cpu", cudaGetErrorString(bad), cudaGetErrorName(bad));
  if (p.major < 8) return fmt::format("{} has compute capability {}.{}, 8.0 is needed (bf16 products); use --device cpu", p.name, p.major, p.minor);
  const auto takes_no_work = [](cudaError_t bad) {
    return fmt::format("the GPU takes no work: {} ({}); is another program using all of it? See nvidia-smi, or use --device cpu", cudaGetErrorString(bad),
                       cudaGetErrorName(bad));
  };
  cudaFuncAttributes a{};
  if (const cudaError_t bad = cudaFuncGetAttributes(&a, probe_kernel()); bad != cudaSuccess) {
    cudaGetLastError();
    // Any other error is about the context that this first call makes: the device may be reserved, or full.
    if (bad != cudaErrorNoKernelImageForDevice && bad != cudaErrorInvalidDeviceFunction && bad != cudaErrorUnsupportedPtxVersion) return takes_no_work(bad);
    return fmt::format("this program holds kernels for compute capability {}, {} has {}.{}; build again with -DFACET_CUDA_ARCHS={}{}", built_for(), p.name,
                       p.major, p.minor, p.major, p.minor);
  }
  auto* c = new Context;
  c->info.name = p.name;
  c->info.major = p.major, c->info.minor = p.minor;
  c->info.processors = p.multiProcessorCount;
  c->info.total_bytes = p.totalGlobalMem;
  c->info.shared_bytes = p.sharedMemPerBlockOptin;
  c->info.driver = version_text(driver), c->info.runtime = version_text(runtime);
  if (const cudaError_t bad = cudaStreamCreateWithFlags(&c->stream, cudaStreamNonBlocking); bad != cudaSuccess) {
    delete c;
    return takes_no_work(bad);
  }
  context = c;
  return {};
}

Context& ctx() {
  device();
  return *context;
}

void check_not_capturing(const char* what) {
  if (capturing()) fail(Kind::usage, "{}: {} cannot be part of a captured graph", current_op, what);
}

void wait(const char* what) {
  check_not_capturing(what);
  about_to_wait(last_op, what);
  check(cudaStreamSynchronize(ctx().stream), what);
}

}  // namespace

const std::string& why_not() {
  static const std::string reason = start();
  return reason;
}

const DeviceInfo& device() {
  if (!why_not().empty()) fail(Kind::environment, "--device cuda: {}", why_not());
  return context->info;
}

size_t free_bytes() {
  size_t free = 0, total = 0;
  ctx();
  check(cudaMemGetInfo(&free, &total), "asking for free memory");
  return free;
}

void* device_malloc(size_t bytes) {
  ctx();
  void* p = nullptr;
  const cudaError_t e = cudaMalloc(&p, bytes);
  if (e == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    return nullptr;
  }
  check(e, "an allocation");
  return p;
}

void device_free(void* p) noexcept {
  if (context) cudaFree(p);
}

void copy_to_device(void* to, const void* from, size_t bytes) {
  Context& c = ctx();
  check_not_capturing("a copy from the host");
  std::lock_guard lock(c.mutex);
  for (size_t at = 0; at < bytes; at += Staging::slot_bytes) {
    const size_t n = std::min(Staging::slot_bytes, bytes - at);
    char* slot = c.staging.take(c.stream);
    std::memcpy(slot, static_cast<const char*>(from) + at, n);
    check(cudaMemcpyAsync(static_cast<char*>(to) + at, slot, n, cudaMemcpyHostToDevice, c.stream), "a copy to the GPU");
    c.behind_kernel = false;
    c.staging.release(c.stream);
  }
}

void copy_to_host(void* to, const void* from, size_t bytes) {
  Context& c = ctx();
  check_not_capturing("a copy to the host");
  if (bytes == 0) return;
  std::lock_guard lock(c.mutex);
  // Two slots in turn: one is filled by the GPU while the other is emptied.
  char* before = nullptr;
  size_t before_at = 0, before_n = 0;
  for (size_t at = 0; at < bytes; at += Staging::slot_bytes) {
    const size_t n = std::min(Staging::slot_bytes, bytes - at);
    char* slot = c.staging.take(c.stream);
    check(cudaMemcpyAsync(slot, static_cast<const char*>(from) + at, n, cudaMemcpyDeviceToHost, c.stream), "a copy to the host");
    c.behind_kernel = false;
    const int mine = c.staging.next;
    c.staging.release(c.stream);
    if (before) std::memcpy(static_cast<char*>(to) + before_at, before, before_n);
    if (at + n < bytes) check(cudaEventSynchronize(c.staging.done[mine]), "a copy to the host");
    else wait("a copy to the host");
    before = slot, before_at = at, before_n = n;
  }
  std::memcpy(static_cast<char*>(to) + before_at, before, before_n);
}

void copy_on_device(void* to, const void* from, size_t bytes) {
  if (!bytes) return;
  ctx().behind_kernel = false;
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, ctx().stream), "a copy on the GPU");
}

void fill_bytes(void* to, int value, size_t bytes) {
  if (!bytes) return;
  ctx().behind_kernel = false;
  check(cudaMemsetAsync(to, value, bytes, ctx().stream), "filling memory");
}

void synchronize() { wait("synchronize()"); }
void* stream() { return ctx().stream; }

LaunchScope::LaunchScope(const char* op) : before_(std::exchange(current_op, op)) { last_op = op; }
LaunchScope::~LaunchScope() { current_op = before_; }

void launch_raw(const void* kernel, bool overlapped, Size3 grid, Size3 block, size_t shared_bytes, void** args) {
  Context& c = ctx();
  cudaLaunchAttribute overlap{};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t how{};
  how.gridDim = dim3(grid.x, grid.y, grid.z), how.blockDim = dim3(block.x, block.y, block.z);
  how.dynamicSmemBytes = shared_bytes;
  how.stream = c.stream;
  how.attrs = &overlap;
  // Only kernels have dependents of this kind: behind a copy or at the beginning of a graph there is nothing to overlap with.
  how.numAttrs = overlapped && c.behind_kernel ? 1 : 0;
  const cudaError_t e = cudaLaunchKernelExC(&how, kernel, args);
  if (e != cudaSuccess)
    fail_with(e, fmt::format("a launch of [{}, {}, {}] blocks of [{}, {}, {}] threads with {} bytes of shared memory{}", grid.x, grid.y, grid.z, block.x, block.y,
                             block.z, shared_bytes, how.numAttrs ? " that overlaps (FACET_GPU_OVERLAP=0 does without)" : ""));
  c.behind_kernel = true;
  if (waits_for_launches() && !capturing()) check(cudaStreamSynchronize(c.stream), "the kernel");
}

void allow_shared(const char* op, const void* kernel, size_t bytes) {
  const cudaError_t e = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
  if (e == cudaSuccess) return;
  cudaGetLastError();
  fail(Kind::environment, "{}: {} bytes of shared memory are asked for, the GPU has {}: {}", op, bytes, device().shared_bytes, cudaGetErrorString(e));
}

// ---- graphs

namespace {
thread_local bool in_capture = false;
}
bool capturing() { return in_capture; }

void begin_capture() {
  // Relaxed: in the other modes cudaMalloc would spoil the capture, and an arena asks for memory while its graph is recorded. Such memory is there
  // at once and is no part of the graph, which only knows its addresses. What must not be recorded is refused by check_not_capturing.
  check_not_capturing("beginning a capture");
  check(cudaStreamBeginCapture(ctx().stream, cudaStreamCaptureModeRelaxed), "beginning a capture");
  in_capture = true;
  ctx().behind_kernel = false;
}

void* end_capture(bool keep) {
  in_capture = false;
  ctx().behind_kernel = false;
  cudaGraph_t graph = nullptr;
  const cudaError_t e = cudaStreamEndCapture(ctx().stream, &graph);
  if (!keep) {
    cudaGetLastError();
    if (graph) cudaGraphDestroy(graph);
    return nullptr;
  }
  check(e, "ending a capture");
  size_t nodes = 0;
  cudaGraphExec_t exec = nullptr;
  cudaError_t made = cudaGraphGetNodes(graph, nullptr, &nodes);
  if (made == cudaSuccess && nodes > 0) made = cudaGraphInstantiate(&exec, graph, 0);
  cudaGraphDestroy(graph);
  check(made, "making a graph");
  return exec;
}

void replay(void* graph) {
  check_not_capturing("replaying a graph");
  ctx().behind_kernel = false;
  check(cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph), ctx().stream), "replaying a graph");
}
// Replays that are under way end first (cuGraphExecDestroy), without being waited for.
void destroy_graph(void* graph) noexcept { cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(graph)); }

// ---- time

Timer::Timer() {
  ctx();
  check(cudaEventCreate(reinterpret_cast<cudaEvent_t*>(&begin_)), "an event");
  check(cudaEventCreate(reinterpret_cast<cudaEvent_t*>(&end_)), "an event");
}
Timer::~Timer() {
  cudaEventDestroy(static_cast<cudaEvent_t>(begin_));
  cudaEventDestroy(static_cast<cudaEvent_t>(end_));
}
void Timer::start() { check(cudaEventRecord(static_cast<cudaEvent_t>(begin_), ctx().stream), "an event"); }
double Timer::seconds() {
  check_not_capturing("a timer");
  check(cudaEventRecord(static_cast<cudaEvent_t>(end_), ctx().stream), "an event");
  about_to_wait(last_op, "a timer");
  check(cudaEventSynchronize(static_cast<cudaEvent_t>(end_)), "waiting for a timer");
  float ms = 0;
  check(cudaEventElapsedTime(&ms, static_cast<cudaEvent_t>(begin_), static_cast<cudaEvent_t>(end_)), "reading a timer");
  return ms * 1e-3;
}

namespace {
std::vector<cudaEvent_t> moments;  // kept for the next trace
size_t moments_used = 0;
}  // namespace

int64_t mark_moment() noexcept {
  if (capturing() || !context) return -1;
  cudaEvent_t event = moments_used < moments.size() ? moments[moments_used] : nullptr;
  if (!event) {
    if (cudaEventCreate(&event) != cudaSuccess) return -1;
    moments.push_back(event);
  }
  if (cudaEventRecord(event, context->stream) != cudaSuccess) return -1;
  return static_cast<int64_t>(moments_used++);
}

std::vector<double> read_moments() noexcept {
  const size_t n = std::exchange(moments_used, 0);
  const MaySync allowed;
  about_to_wait(last_op, "the moments of a trace");
  std::vector<double> seconds;
  if (n == 0 || cudaEventSynchronize(moments[n - 1]) != cudaSuccess) return seconds;
  seconds.push_back(0);
  for (size_t i = 1; i < n; ++i) {  // from one to the next: of a whole run's milliseconds a float keeps too few
    float ms = 0;
    if (cudaEventElapsedTime(&ms, moments[i - 1], moments[i]) != cudaSuccess) return {};
    seconds.push_back(seconds.back() + 1e-3 * static_cast<double>(ms));
  }
  return seconds;
}

}  // namespace facet::gpu
