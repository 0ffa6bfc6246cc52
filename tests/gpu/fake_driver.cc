// Stands in for the driver (libcuda.so.1) on machines without one, so that cuDNN makes execution plans there: it compiles its kernels with
// NVRTC for a GPU that a text describes and hands the code to the driver, which takes it and does nothing. cuInit says that there is no GPU.
// The functions are those the library looks up by name; of their arguments only the first, an address for the result, is looked at.
//
// FAKE_DRIVER in the environment makes it another one, for tests of what is said then: none (its version is 0), old, broken (it does not start).
#include <cstdlib>
#include <cstring>

namespace {
enum { ok = 0, no_device = 100, unknown = 999 };
bool is(const char* kind) {
  const char* asked = std::getenv("FAKE_DRIVER");
  return asked && !std::strcmp(asked, kind);
}
int handed_out(void** to) {
  *to = to;
  return ok;
}
int zero(int* to) {
  *to = 0;
  return ok;
}
}  // namespace

extern "C" {
int cuInit(unsigned) { return is("broken") ? unknown : no_device; }
int cuDriverGetVersion(int* version) {
  *version = is("none") ? 0 : is("old") ? 11040 : 13000;
  return ok;
}
int cuLibraryLoadData(void** to) { return handed_out(to); }
int cuLibraryGetKernel(void** to) { return handed_out(to); }
int cuKernelGetFunction(void** to) { return handed_out(to); }
int cuModuleLoadData(void** to) { return handed_out(to); }
int cuModuleGetFunction(void** to) { return handed_out(to); }
int cuFuncGetAttribute(int* to) { return zero(to); }
int cuKernelGetAttribute(int* to) { return zero(to); }
int cuDeviceGetCount(int* to) { return zero(to); }
int cuGetErrorString(int, const char** text) {
  *text = "no driver";
  return ok;
}
int cuGetErrorName(int, const char** text) {
  *text = "no driver";
  return ok;
}

int cuLibraryUnload() { return ok; }
int cuFuncSetAttribute() { return ok; }
int cuKernelSetAttribute() { return ok; }
int cuCtxGetCurrent() { return no_device; }
int cuCtxGetLimit() { return no_device; }
int cuCtxPopCurrent() { return no_device; }
int cuCtxPushCurrent() { return no_device; }
int cuStreamGetCtx() { return no_device; }
int cuLinkCreate() { return no_device; }
int cuLinkAddData() { return no_device; }
int cuLinkComplete() { return no_device; }
int cuLinkDestroy() { return no_device; }
int cuLaunchKernel() { return no_device; }
int cuLaunchKernelEx() { return no_device; }
int cuLaunchCooperativeKernel() { return no_device; }
int cuDeviceGet() { return no_device; }
int cuLibraryLoadFromFile() { return no_device; }
int cuOccupancyMaxPotentialClusterSize() { return no_device; }
}
