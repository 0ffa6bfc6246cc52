// A kernel that does nothing: the runtime asks whether the program holds code for the device at hand.
namespace facet::gpu {
namespace {
__global__ void probe() {}
}  // namespace
const void* probe_kernel() { return reinterpret_cast<const void*>(&probe); }
const char* built_for() { return FACET_CUDA_ARCHS_TEXT; }
}  // namespace facet::gpu
