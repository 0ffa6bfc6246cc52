#include "tests/fake_cuda/fake_cudart.h"

#include <cuda_runtime_api.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "tensor/gpu/emulator/memory.h"

using namespace facet;
using gpu::emulator::seen;

using Work = std::function<void()>;
using Works = std::vector<Work>;

struct CUevent_st {
  enum State : uint8_t { never, queued, done, captured } state = never;
  bool timed = true;
  int64_t ns = 0;
};
struct CUgraph_st {
  Works works;
};
struct CUgraphExec_st {
  std::shared_ptr<const Works> works;  // of replays that are under way too: destroying it does not end them
};
struct CUstream_st {
  struct Item {
    Work work;
    cudaEvent_t event;  // or one that is passed
  };
  std::deque<Item> queue;
  std::unique_ptr<Works> recording;
  cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
  bool spoiled = false;
  enum class Last : uint8_t { nothing, kernel, other } last = Last::nothing;  // that it was given, or that its capture was
};

namespace {

struct Driver {
  test::cuda::Calls calls;
  std::vector<cudaStream_t> streams;
  std::map<char*, size_t> pinned;
  cudaError_t last = cudaSuccess, sticky = cudaSuccess;
  int64_t refused_at = 0, lost_at = 0;
  std::string mood;  // of FACET_FAKE_CUDA

  Driver() {
    const char* words = std::getenv("FACET_FAKE_CUDA");
    mood = words ? words : "";
    const auto number = [&](const char* name) {
      const size_t at = mood.find(name);
      return at == std::string::npos ? 0 : std::strtoll(mood.c_str() + at + std::strlen(name), nullptr, 10);
    };
    refused_at = number("refused_at="), lost_at = number("lost_at=");
  }
};
Driver& driver() {
  static Driver& d = *new Driver;
  return d;
}

cudaError_t say(cudaError_t e) {
  if (e == cudaSuccess) e = driver().sticky;
  if (e != cudaSuccess) driver().last = e;
  return e;
}

cudaError_t refuse(cudaStream_t s, cudaError_t e = cudaErrorStreamCaptureUnsupported) {
  if (s->recording) s->spoiled = true;
  ++driver().calls.refused;
  return say(e);
}
// What a capture that is not relaxed forbids to its thread.
cudaStream_t capturing_strictly() {
  for (cudaStream_t s : driver().streams)
    if (s->recording && s->mode != cudaStreamCaptureModeRelaxed) return s;
  return nullptr;
}
// What waits for all of the device is forbidden by every capture.
cudaStream_t capturing() {
  for (cudaStream_t s : driver().streams)
    if (s->recording) return s;
  return nullptr;
}

int64_t now_ns() { return std::chrono::steady_clock::now().time_since_epoch().count(); }

/// Does what is in the queue, up to the event if one is given.
void drain(cudaStream_t s, cudaEvent_t until = nullptr) {
  while (!s->queue.empty() && !(until && until->state == CUevent_st::done)) {
    const CUstream_st::Item item = std::move(s->queue.front());
    s->queue.pop_front();
    if (item.event) item.event->state = CUevent_st::done, item.event->ns = now_ns();
    else if (driver().sticky == cudaSuccess) item.work();
  }
}
void drain_all() {
  for (cudaStream_t s : driver().streams) drain(s);
}

cudaError_t submit(cudaStream_t s, Work work) {
  if (!s) return say(cudaErrorInvalidResourceHandle);  // nothing of ours belongs on the legacy stream
  if (s->recording && s->spoiled) return say(cudaErrorStreamCaptureInvalidated);
  s->last = CUstream_st::Last::other;
  if (s->recording) s->recording->push_back(std::move(work));
  else s->queue.push_back({std::move(work), nullptr});
  return say(cudaSuccess);
}

bool is_pinned(const void* p, size_t bytes) {
  auto* at = static_cast<char*>(const_cast<void*>(p));
  const auto block = driver().pinned.upper_bound(at);
  return block != driver().pinned.begin() && at + bytes <= std::prev(block)->first + std::prev(block)->second;
}

}  // namespace

namespace facet::test::cuda {
const Calls& calls() { return driver().calls; }
void refuse_launch(int64_t n) { driver().refused_at = n; }
void break_launch(int64_t n) {
  driver().lost_at = n;
  if (n == 0) driver().sticky = cudaSuccess;
}
}  // namespace facet::test::cuda

extern "C" {

// ---- the device

cudaError_t cudaRuntimeGetVersion(int* v) { return *v = CUDART_VERSION, cudaSuccess; }
cudaError_t cudaDriverGetVersion(int* v) {
  return *v = CUDART_VERSION, cudaSuccess;
}
cudaError_t cudaGetDeviceCount(int* n) {
  return *n = 1, cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int) {
  *p = {};
  std::strcpy(p->name, "pretended GPU");
  p->major = driver().mood == "capability_8" ? 8 : 9;
  p->multiProcessorCount = 8;  // few, so that grids stay small
  p->totalGlobalMem = gpu::emulator::device_bytes;
  p->sharedMemPerBlockOptin = 227 * 1024;
  return say(cudaSuccess);
}
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes*, const void*) {
  return say(driver().mood == "other_device" ? cudaErrorNoKernelImageForDevice : driver().mood == "taken" ? cudaErrorDevicesUnavailable : cudaSuccess);
}
cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int bytes) { return say(bytes <= 227 * 1024 ? cudaSuccess : cudaErrorInvalidValue); }
cudaError_t cudaDeviceSynchronize() {
  if (const cudaStream_t s = capturing()) return refuse(s);
  drain_all();
  return say(cudaSuccess);
}

cudaError_t cudaGetLastError() {
  const cudaError_t e = driver().last;
  driver().last = driver().sticky;
  return e;
}
const char* cudaGetErrorName(cudaError_t e) {
  switch (e) {
    case cudaErrorMemoryAllocation: return "cudaErrorMemoryAllocation";
    case cudaErrorIllegalAddress: return "cudaErrorIllegalAddress";
    case cudaErrorInvalidConfiguration: return "cudaErrorInvalidConfiguration";
    case cudaErrorDevicesUnavailable: return "cudaErrorDevicesUnavailable";
    case cudaErrorStreamCaptureUnsupported: return "cudaErrorStreamCaptureUnsupported";
    case cudaErrorStreamCaptureInvalidated: return "cudaErrorStreamCaptureInvalidated";
    case cudaErrorNotSupported: return "cudaErrorNotSupported";
    case cudaErrorCapturedEvent: return "cudaErrorCapturedEvent";
    default: return "another error";
  }
}
const char* cudaGetErrorString(cudaError_t) { return "as its name says"; }

// ---- memory

cudaError_t cudaMalloc(void** p, size_t bytes) {
  if (const cudaStream_t s = capturing_strictly()) return refuse(s);
  ++driver().calls.mallocs;
  *p = bytes ? gpu::emulator::new_buffer(bytes) : nullptr;
  return say(*p || !bytes ? cudaSuccess : cudaErrorMemoryAllocation);
}
cudaError_t cudaFree(void* p) {
  if (const cudaStream_t s = capturing_strictly()) return refuse(s);
  ++driver().calls.frees;
  drain_all();
  if (p) gpu::emulator::delete_buffer(p);
  return say(cudaSuccess);
}
cudaError_t cudaMallocHost(void** p, size_t bytes) {
  if (const cudaStream_t s = capturing_strictly()) return refuse(s);
  *p = std::malloc(bytes);
  driver().pinned.emplace(static_cast<char*>(*p), bytes);
  return say(cudaSuccess);
}
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  *total = gpu::emulator::device_bytes, *free = *total - gpu::emulator::memory_counters().live_bytes;
  return say(cudaSuccess);
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t s) {
  if (kind == cudaMemcpyHostToDevice ? !is_pinned(from, bytes) : kind == cudaMemcpyDeviceToHost && !is_pinned(to, bytes)) return say(cudaErrorInvalidValue);
  if (kind != cudaMemcpyHostToDevice) gpu::emulator::check_in_buffer("cudaMemcpyAsync, source", from, bytes);
  if (kind != cudaMemcpyDeviceToHost) gpu::emulator::check_in_buffer("cudaMemcpyAsync, destination", to, bytes);
  return submit(s, [=] { std::memcpy(kind == cudaMemcpyDeviceToHost ? to : seen(to), kind == cudaMemcpyHostToDevice ? from : seen(from), bytes); });
}
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t s) {
  gpu::emulator::check_in_buffer("cudaMemsetAsync", to, bytes);
  return submit(s, [=] { std::memset(seen(to), value, bytes); });
}

// ---- launches and streams

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* how, const void*, void** args) {
  Driver& d = driver();
  const dim3 grid = how->gridDim, block = how->blockDim;
  const cudaStream_t s = how->stream;
  ++d.calls.launches;
  for (unsigned i = 0; i < how->numAttrs; ++i) {
    const cudaLaunchAttribute& a = how->attrs[i];
    if (a.id != cudaLaunchAttributeProgrammaticStreamSerialization || a.val.programmaticStreamSerializationAllowed != 1) return say(cudaErrorInvalidValue);
    if (d.mood == "capability_8") return say(cudaErrorNotSupported);
    if (s->last != CUstream_st::Last::kernel) ++d.calls.overlapped_with_nothing;
    ++(s->recording ? d.calls.overlapped_in_graphs : d.calls.overlapped);
  }
  if (d.refused_at && --d.refused_at == 0) return say(cudaErrorInvalidConfiguration);
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.y > 65535 || grid.z > 65535 || block.x * block.y * block.z > 1024)
    return say(cudaErrorInvalidConfiguration);
  const bool breaks = d.lost_at && --d.lost_at == 0;
  const cudaError_t e = submit(s, [kernel = *static_cast<const test::cuda::Kernel*>(args[0]), breaks] {
    if (breaks) driver().sticky = cudaErrorIllegalAddress;
    else kernel();
  });
  s->last = CUstream_st::Last::kernel;
  return e;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* s, unsigned) {
  *s = driver().streams.emplace_back(new CUstream_st);
  return say(cudaSuccess);
}
cudaError_t cudaStreamSynchronize(cudaStream_t s) {
  if (s->recording) return refuse(s);
  drain(s);
  return say(cudaSuccess);
}

// ---- events

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* e, unsigned flags) {
  *e = new CUevent_st;
  (*e)->timed = !(flags & cudaEventDisableTiming);
  return say(cudaSuccess);
}
cudaError_t cudaEventCreate(cudaEvent_t* e) { return cudaEventCreateWithFlags(e, cudaEventDefault); }
cudaError_t cudaEventDestroy(cudaEvent_t e) {
  drain_all();  // one that is still in a queue
  delete e;
  return say(cudaSuccess);
}
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s) {
  if (s->recording) e->state = CUevent_st::captured;
  else e->state = CUevent_st::queued, s->queue.push_back({{}, e});
  return say(cudaSuccess);
}
cudaError_t cudaEventSynchronize(cudaEvent_t e) {
  if (const cudaStream_t s = capturing_strictly()) return refuse(s);
  if (e->state == CUevent_st::captured) return say(cudaErrorCapturedEvent);
  if (e->state == CUevent_st::queued)
    for (cudaStream_t s : driver().streams) drain(s, e);
  return say(cudaSuccess);
}
cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t a, cudaEvent_t b) {
  if (!a->timed || !b->timed || a->state == CUevent_st::captured || b->state == CUevent_st::captured) return say(cudaErrorInvalidResourceHandle);
  if (a->state != CUevent_st::done || b->state != CUevent_st::done) return say(cudaErrorNotReady);
  *ms = static_cast<float>(1e-6 * static_cast<double>(b->ns - a->ns));
  return say(cudaSuccess);
}

// ---- graphs

cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode mode) {
  if (s->recording) return refuse(s, cudaErrorIllegalState);
  s->recording = std::make_unique<Works>();
  s->last = CUstream_st::Last::nothing;
  s->mode = mode, s->spoiled = false;
  return say(cudaSuccess);
}
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t* graph) {
  *graph = nullptr;
  if (!s->recording) return say(cudaErrorIllegalState);
  const auto works = std::move(s->recording);
  s->last = CUstream_st::Last::nothing;
  if (s->spoiled) return say(cudaErrorStreamCaptureInvalidated);
  ++driver().calls.graphs;
  *graph = new CUgraph_st{std::move(*works)};
  return say(cudaSuccess);
}
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t* nodes, size_t* n) {
  if (nodes) return say(cudaErrorInvalidValue);  // only counted here
  return *n = graph->works.size(), say(cudaSuccess);
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  if (graph->works.empty()) return say(cudaErrorInvalidValue);  // what a driver makes of one without nodes is not said anywhere
  *exec = new CUgraphExec_st{std::make_shared<const Works>(graph->works)};
  return say(cudaSuccess);
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return say(cudaSuccess);
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t s) {
  if (s->recording) return refuse(s);
  ++driver().calls.replays;
  return submit(s, [works = exec->works] {
    for (const Work& w : *works) w();
  });
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  delete exec;
  return say(cudaSuccess);
}

}  // extern "C"
