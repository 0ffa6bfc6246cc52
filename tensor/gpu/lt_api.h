// The functions of cuBLASLt that are used, as a table: filled from the library, or, where there is no GPU, with a stand-in for those few
// that need one (emulator/lt_api.cpp). Descriptors are the library's own in both.
#pragma once
#include <string>

#if __has_include(<cublasLt.h>)
#define FACET_HAS_CUBLASLT 1
#include <cublasLt.h>

namespace facet::gpu {

struct LtApi {
  decltype(&cublasLtCreate) create;
  decltype(&cublasLtGetVersion) version;
  decltype(&cublasLtGetStatusString) status;
  decltype(&cublasLtMatmulDescCreate) desc_create;
  decltype(&cublasLtMatmulDescDestroy) desc_destroy;
  decltype(&cublasLtMatmulDescSetAttribute) desc_set;
  decltype(&cublasLtMatmulDescGetAttribute) desc_get;
  decltype(&cublasLtMatrixLayoutCreate) layout_create;
  decltype(&cublasLtMatrixLayoutDestroy) layout_destroy;
  decltype(&cublasLtMatrixLayoutSetAttribute) layout_set;
  decltype(&cublasLtMatrixLayoutGetAttribute) layout_get;
  decltype(&cublasLtMatmulPreferenceCreate) preference_create;
  decltype(&cublasLtMatmulPreferenceDestroy) preference_destroy;
  decltype(&cublasLtMatmulPreferenceSetAttribute) preference_set;
  decltype(&cublasLtMatmulPreferenceGetAttribute) preference_get;
  decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic;
  decltype(&cublasLtMatmulAlgoCheck) algo_check;
  decltype(&cublasLtMatmul) matmul;
};

/// The backend's: replaces what the table takes from the library where there is no GPU, and nothing else.
void replace_for_backend(LtApi&);

}  // namespace facet::gpu
#endif
