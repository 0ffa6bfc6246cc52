// cuBLASLt where there is no GPU: the library's own descriptors, and in place of the product one that reads them back. So what is checked is
// what was really described: types, sizes, leading dimensions, order, transpositions, batches, alignment, workspace.
#include "tensor/gpu/lt_api.h"

#ifdef FACET_HAS_CUBLASLT
#include <algorithm>
#include <string>

#include "tensor/error.h"
#include "tensor/gpu/emulator/lt_product.h"

namespace facet::gpu {
namespace {

LtApi api;
int handle_place;

[[noreturn]] void wrong(const std::string& what) { fail(Kind::check, "cublasLtMatmul: {}", what); }

template <class T, class Get, class Object, class Attribute>
T read(Get get, Object object, Attribute attribute, const char* what) {
  T value{};
  size_t written = 0;
  if (get(object, attribute, &value, sizeof value, &written) != CUBLAS_STATUS_SUCCESS || written != sizeof value)
    wrong(fmt::format("the {} of a descriptor cannot be read", what));
  return value;
}

emulator::LtWindow window(const char* name, const void* data, cublasLtMatrixLayout_t layout) {
  auto get = [&]<class T>(T, cublasLtMatrixLayoutAttribute_t a, const char* what) { return read<T>(api.layout_get, layout, a, what); };
  emulator::LtWindow w;
  w.data = data;
  const auto type = static_cast<cudaDataType_t>(get(uint32_t{}, CUBLASLT_MATRIX_LAYOUT_TYPE, "type"));
  if (type != CUDA_R_16BF && type != CUDA_R_32F) wrong(fmt::format("{} has type {}", name, static_cast<int>(type)));
  w.dtype = type == CUDA_R_16BF ? DType::bf16 : DType::f32;
  w.rows = static_cast<int64_t>(get(uint64_t{}, CUBLASLT_MATRIX_LAYOUT_ROWS, "rows"));
  w.columns = static_cast<int64_t>(get(uint64_t{}, CUBLASLT_MATRIX_LAYOUT_COLS, "columns"));
  w.ld = get(int64_t{}, CUBLASLT_MATRIX_LAYOUT_LD, "leading dimension");
  const int32_t order = get(int32_t{}, CUBLASLT_MATRIX_LAYOUT_ORDER, "order");
  if (order != CUBLASLT_ORDER_COL && order != CUBLASLT_ORDER_ROW) wrong(fmt::format("{} has order {}", name, order));
  w.row_major = order == CUBLASLT_ORDER_ROW;
  w.batch = get(int32_t{}, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, "batch count");
  w.batch_step = get(int64_t{}, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, "batch offset");
  if (w.ld < (w.row_major ? w.columns : w.rows))
    wrong(fmt::format("{} is {} x {} with leading dimension {}", name, w.rows, w.columns, w.ld));
  if (!data) wrong(fmt::format("{} is null", name));
  if (reinterpret_cast<uintptr_t>(data) % static_cast<uintptr_t>(size_of(w.dtype))) wrong(fmt::format("{} is not aligned to its elements", name));
  return w;
}

bool same_form(const emulator::LtWindow& x, const emulator::LtWindow& y) {
  return x.dtype == y.dtype && x.rows == y.rows && x.columns == y.columns && x.ld == y.ld && x.row_major == y.row_major && x.batch == y.batch &&
         x.batch_step == y.batch_step;
}

// ---- algorithms: word 0 tells which, word 1 the alignments it asks for, as min_alignment_* of the preference.

struct Algorithm {
  size_t workspace_bytes;
  int parts;
  uint32_t scheme;  ///< how it adds up its parts
};
constexpr Algorithm first_algorithms[emulator::lt_alike] = {{0, 1, CUBLASLT_REDUCTION_SCHEME_NONE},
                                                            {4096, 2, CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE},
                                                            {64, 3, CUBLASLT_REDUCTION_SCHEME_INPLACE},
                                                            {1 << 20, 4, CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE}};
const Algorithm& algorithm(uint64_t i) { return first_algorithms[i < emulator::lt_alike ? i : emulator::lt_whole]; }
constexpr uint64_t mark = 0xfacef00d00000000u;

const Algorithm* known(const cublasLtMatmulAlgo_t* a) {
  if (!a || (a->data[0] & ~uint64_t{0xff}) != mark || (a->data[0] & 0xff) >= emulator::lt_algorithms) return nullptr;
  return &algorithm(a->data[0] & 0xff);
}

cublasStatus_t create(cublasLtHandle_t* handle) {
  *handle = reinterpret_cast<cublasLtHandle_t>(&handle_place);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t heuristic(cublasLtHandle_t, cublasLtMatmulDesc_t, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                         cublasLtMatrixLayout_t, cublasLtMatmulPreference_t preference, int most, cublasLtMatmulHeuristicResult_t* results, int* count) {
  auto get = [&]<class T>(T, cublasLtMatmulPreferenceAttributes_t a) { return read<T>(api.preference_get, preference, a, "preference"); };
  const auto workspace = get(uint64_t{}, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES);
  const auto schemes = get(uint32_t{}, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK);
  uint64_t aligned = 0;
  int shift = 0;
  for (auto a : {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
                 CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
    aligned |= static_cast<uint64_t>(get(uint32_t{}, a)) << (16 * shift++);
  *count = 0;
  for (uint64_t i = 0; i < emulator::lt_algorithms && *count < most; ++i) {
    if (algorithm(i).workspace_bytes > workspace || (algorithm(i).scheme & ~schemes)) continue;
    cublasLtMatmulHeuristicResult_t& r = results[(*count)++];
    r = {};
    r.algo.data[0] = mark | i;
    r.algo.data[1] = aligned;
    r.workspaceSize = algorithm(i).workspace_bytes;
    r.state = CUBLAS_STATUS_SUCCESS;
  }
  return *count ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t algo_check(cublasLtHandle_t, cublasLtMatmulDesc_t, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                          cublasLtMatrixLayout_t, const cublasLtMatmulAlgo_t* a, cublasLtMatmulHeuristicResult_t* result) {
  const Algorithm* found = known(a);
  if (!found) return CUBLAS_STATUS_INVALID_VALUE;
  result->workspaceSize = found->workspace_bytes;
  result->state = CUBLAS_STATUS_SUCCESS;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t matmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void* alpha, const void* a, cublasLtMatrixLayout_t a_layout,
                      const void* b, cublasLtMatrixLayout_t b_layout, const void* beta, const void* c, cublasLtMatrixLayout_t c_layout, void* d,
                      cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t* chosen, void* workspace, size_t workspace_bytes, cudaStream_t) {
  if (handle != reinterpret_cast<cublasLtHandle_t>(&handle_place)) wrong("the handle is another one");
  auto get = [&](cublasLtMatmulDescAttributes_t which, const char* what) { return read<int32_t>(api.desc_get, desc, which, what); };
  if (get(CUBLASLT_MATMUL_DESC_COMPUTE_TYPE, "compute type") != CUBLAS_COMPUTE_32F) wrong("sums are not f32 as they are");
  if (get(CUBLASLT_MATMUL_DESC_SCALE_TYPE, "scale type") != CUDA_R_32F) wrong("alpha and beta are not f32");
  if (get(CUBLASLT_MATMUL_DESC_POINTER_MODE, "pointer mode") != CUBLASLT_POINTER_MODE_HOST) wrong("alpha and beta are not on the host");
  if (get(CUBLASLT_MATMUL_DESC_EPILOGUE, "epilogue") != CUBLASLT_EPILOGUE_DEFAULT) wrong("there is an epilogue");
  const int32_t op_a = get(CUBLASLT_MATMUL_DESC_TRANSA, "transposition"), op_b = get(CUBLASLT_MATMUL_DESC_TRANSB, "transposition");
  if (op_a == CUBLAS_OP_C || op_b == CUBLAS_OP_C || get(CUBLASLT_MATMUL_DESC_TRANSC, "transposition") != CUBLAS_OP_N)
    wrong("an operation is neither N nor T");

  emulator::LtProduct g;
  g.a = window("a", a, a_layout), g.b = window("b", b, b_layout), g.c = window("c", c, c_layout), g.d = window("d", d, d_layout);
  g.transposed_a = op_a == CUBLAS_OP_T, g.transposed_b = op_b == CUBLAS_OP_T;
  g.alpha = *static_cast<const float*>(alpha), g.beta = *static_cast<const float*>(beta);
  const int64_t m = g.transposed_a ? g.a.columns : g.a.rows, p = g.transposed_a ? g.a.rows : g.a.columns;
  const int64_t q = g.transposed_b ? g.b.columns : g.b.rows, n = g.transposed_b ? g.b.rows : g.b.columns;
  if (p != q || g.d.rows != m || g.d.columns != n) wrong(fmt::format("[{}, {}] times [{}, {}] into [{}, {}]", m, p, q, n, g.d.rows, g.d.columns));
  if (!same_form(g.c, g.d)) wrong("c and d differ in form");
  if (g.a.dtype != g.b.dtype || (g.a.dtype == DType::f32 && g.d.dtype != DType::f32)) wrong("it does not multiply these types");
  if (g.a.batch != g.d.batch || g.b.batch != g.d.batch) wrong("batch counts differ");
  if (g.d.batch > 1 && g.d.batch_step == 0) wrong("the results of a batch lie on each other");

  const Algorithm* found = known(chosen);
  if (!found) return CUBLAS_STATUS_INVALID_VALUE;
  int shift = 0;
  for (const void* pointer : {a, b, c, static_cast<const void*>(d)}) {
    const uint64_t asked = chosen->data[1] >> (16 * shift++) & 0xffff;
    if (asked && reinterpret_cast<uintptr_t>(pointer) % asked) wrong(fmt::format("an address is not aligned to {} bytes as was promised", asked));
  }
  if (workspace_bytes < found->workspace_bytes) return CUBLAS_STATUS_INVALID_VALUE;
  if (found->workspace_bytes && (!workspace || reinterpret_cast<uintptr_t>(workspace) % 16)) return CUBLAS_STATUS_INVALID_VALUE;
  emulator::lt_used() |= 1u << (chosen->data[0] & 0xff);
  g.parts = found->parts;
  g.workspace = workspace, g.workspace_bytes = workspace_bytes;
  emulator::enqueue_product(g);
  return CUBLAS_STATUS_SUCCESS;
}

}  // namespace

unsigned& emulator::lt_used() {
  static unsigned bits = 0;
  return bits;
}

void replace_for_backend(LtApi& a) {
  api = a;
  a.create = create;
  a.heuristic = heuristic;
  a.algo_check = algo_check;
  a.matmul = matmul;
}

}  // namespace facet::gpu
#endif
