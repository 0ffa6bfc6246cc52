// norm_rope: rms_norm of every head, then rotary position (Su et al. 2021) in the half-split form: element i turns with i + Dh/2.
//
//   n[i]        = x[i] * rstd * (1 + w[i]),  rstd = 1 / sqrt(mean(x^2) + eps) per head     (w absent: n = x)
//   y[i]        = n[i] cos_p[i] - n[i + Dh/2] sin_p[i]          p = position of the token, 0 when negative
//   y[i + Dh/2] = n[i + Dh/2] cos_p[i] + n[i] sin_p[i]          i < Dh/2
//
//   dn = dy turned by the opposite angle;  dx = dn when w is absent, else with g = dn * (1 + w):
//   dx[i] (+)= rstd * (g[i] - x[i] * rstd^2 * mean(g * x));   dw[i] (+)= sum over tokens and heads of dn[i] * x[i] * rstd
//
// Shapes: x, y, dy, dx [B, T, H, Dh], Dh even; w, dw [Dh]; positions i32 [B, T]; rstd [B*T*H]; table rows of Dh numbers.
// Dtypes: x, y, dy, dx of one dtype T (f32, bf16, f64); rstd, dw and the table in the accumulation type of T; w any floating
// dtype. Computed in the accumulation type, rounded once (not between norm and rotation).
// Layouts: Dh contiguous in x, dy and dx, their leading strides free (x may be a slice of a fused projection, dx of its gradient);
// positions dense; w any stride; y, dw, rstd dense. Null rstd, dx or dw: skipped; without w there is no dw, and backward reads neither x nor rstd.
// No aliasing. Order of sums as in rms_norm.
#pragma once
#include "tensor/cpu/tier.h"
#include "tensor/kernels/door.h"
#include "tensor/rope_rows.h"

namespace facet {
namespace cpu {
extern const Kernel<void(View x, View w, double eps, View positions, RopeRows table, Out y, Out rstd)> norm_rope;
extern const Kernel<void(View dy, View x, View w, View rstd, View positions, RopeRows table, Out dx, Out dw)> norm_rope_backward;
}  // namespace cpu
namespace gpu {
void norm_rope(View x, View w, double eps, View positions, RopeRows table, Out y, Out rstd);
void norm_rope_backward(View dy, View x, View w, View rstd, View positions, RopeRows table, Out dx, Out dw);
}  // namespace gpu
FACET_INLINE void norm_rope(View x, View w, double eps, View positions, RopeRows table, Out y, Out rstd) {
  on_gpu("norm_rope", x, w, positions, y, rstd)
      ? gpu::norm_rope(x, w, eps, positions, table, y, rstd)
      : cpu::norm_rope(x, w, eps, positions, table, y, rstd);
}
FACET_INLINE void norm_rope_backward(View dy, View x, View w, View rstd, View positions, RopeRows table, Out dx, Out dw) {
  on_gpu("norm_rope_backward", dy, x, w, rstd, positions, dx, dw)
      ? gpu::norm_rope_backward(dy, x, w, rstd, positions, table, dx, dw)
      : cpu::norm_rope_backward(dy, x, w, rstd, positions, table, dx, dw);
}
}  // namespace facet
