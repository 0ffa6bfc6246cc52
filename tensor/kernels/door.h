// Which of the two bodies runs: one branch on the device of the windows a kernel was given. cpu::f and gpu::f are plain
// functions of one signature, declared side by side on the kernel's page; a body that is missing fails when the program
// is linked. What goes to the GPU is noted on its way, since a driver that refuses a call, or a device that was lost, knows no operands.
#pragma once
#include <span>
#include <string>

#include "tensor/view.h"

namespace facet {
namespace detail {
FACET_INLINE bool gpu_window(const View& v) { return v.data && v.device == Device::gpu; }
FACET_INLINE bool cpu_window(const View& v) { return v.data && v.device == Device::cpu; }
FACET_INLINE bool f64_window(const View& v) { return v.data && v.dtype == DType::f64; }
template <class V>
FACET_INLINE bool gpu_window(std::span<const V> list) {
  for (const V& v : list)
    if (gpu_window(v)) return true;
  return false;
}
template <class V>
FACET_INLINE bool cpu_window(std::span<const V> list) {
  for (const V& v : list)
    if (cpu_window(v)) return true;
  return false;
}
template <class V>
FACET_INLINE bool f64_window(std::span<const V> list) {
  for (const V& v : list)
    if (f64_window(v)) return true;
  return false;
}
/// From now on last_gpu_operation() is this one, with what is noted of its operands.
void note_operation(const char* op);
void note_operand(const View& v);
template <class V>
void note_operand(std::span<const V> list) {
  for (const V& v : list) note_operand(static_cast<const View&>(v));
}
/// Throws: "rms_norm: one operand is on the CPU, another on the GPU; ...".
[[noreturn]] void mixed_devices(const char* op);
[[noreturn]] void f64_on_gpu(const char* op);
}  // namespace detail

/// True: the windows lie on the GPU. Absent ones do not count; a mixture throws, and so does f64, which is for checking
/// gradients on the CPU.
template <class... V>
FACET_INLINE bool on_gpu(const char* op, const V&... v) {
  if (__builtin_expect(!(... || detail::gpu_window(v)), 1)) return false;
  if ((... || detail::cpu_window(v))) detail::mixed_devices(op);
  if ((... || detail::f64_window(v))) detail::f64_on_gpu(op);
  detail::note_operation(op);
  (detail::note_operand(v), ...);
  return true;
}
/// The same for kernels that take f64 on the GPU too.
template <class... V>
FACET_INLINE bool on_gpu_any_dtype(const char* op, const V&... v) {
  if (__builtin_expect(!(... || detail::gpu_window(v)), 1)) return false;
  if ((... || detail::cpu_window(v))) detail::mixed_devices(op);
  detail::note_operation(op);
  (detail::note_operand(v), ...);
  return true;
}

/// The operation that this thread gave to the GPU last, with its operands that are present: "rms_norm of bf16 [2048, 640], f32 [640]".
/// Empty: none yet.
std::string last_gpu_operation();

}  // namespace facet
