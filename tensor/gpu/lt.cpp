#include "tensor/gpu/lt.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "tensor/error.h"
#include "tensor/gpu/cuda_library.h"
#include "tensor/gpu/device_error.h"
#include "tensor/gpu/gemm.h"
#include "tensor/gpu/lt_api.h"
#include "tensor/gpu/lt_choice.h"
#include "tensor/gpu/pool.h"
#include "tensor/gpu/recently_used.h"
#include "tensor/gpu/runtime.h"
#include "tensor/gpu/waits.h"

namespace facet::gpu {

// ---- layouts

namespace {

// A matrix [rows, columns] with strides (down, across) as column-major storage or its transpose.
bool describe(int64_t rows, int64_t columns, int64_t down, int64_t across, LtMatrix& m) {
  const bool as_is = (rows == 1 || down == 1) && (columns == 1 || across >= rows);
  const bool turned = (columns == 1 || across == 1) && (rows == 1 || down >= columns);
  if (!as_is && !turned) return false;
  m.transposed = turned && (!as_is || rows == 1);
  if (m.transposed) m.rows = columns, m.columns = rows, m.ld = rows == 1 ? columns : down;
  else m.rows = rows, m.columns = columns, m.ld = columns == 1 ? rows : across;
  return true;
}

}  // namespace

bool lt_layout(const Product& given, LtLayout& l) {
  l.swapped = given.n > 1 && given.c.column != 1;
  const Product g = l.swapped ? transposed(given) : given;
  if (g.kept.count.rank > 1 || g.summed.count.rank > 0) return false;
  if (!describe(g.n, g.p, g.b.column, g.b.row, l.first) || !describe(g.p, g.m, g.a.column, g.a.row, l.second) ||
      !describe(g.n, g.m, g.c.column, g.c.row, l.result))
    return false;
  if (l.result.transposed) {  // a single column of c: n = 1, dense or not
    l.result = {false, 1, g.m, g.c.row};
    if (g.c.row < 1) return false;
  }
  if (g.kept.count.rank) l.batch = g.kept.count.dim[0], l.first_step = g.kept.b.dim[0], l.second_step = g.kept.a.dim[0], l.result_step = g.kept.c.dim[0];
  return true;
}

bool lt_takes(const Product& g) {
  LtLayout l;
  if (g.a.dtype != g.b.dtype || (g.a.dtype == DType::f32 && g.c.dtype != DType::f32)) return false;
  return std::max({g.m, g.n, g.p, g.kept.count.numel()}) < (int64_t{1} << 31) && lt_layout(g, l);
}

// ---- settings

namespace {

struct Settings {
  bool deterministic = true;
  std::optional<Tuning> asked;
  size_t workspace_bytes = size_t{32} << 20;
  int changes = 0;  // of tuning: plans made before are made again

  Settings() {
    if (const char* d = std::getenv("FACET_GPU_DETERMINISTIC")) deterministic = std::strcmp(d, "0") != 0;
    if (const char* t = std::getenv("FACET_GPU_TUNE")) {
      if (!std::strcmp(t, "off")) asked = Tuning::off;
      else if (!std::strcmp(t, "file")) asked = Tuning::file;
      else if (!std::strcmp(t, "on")) asked = Tuning::on;
      else fail(Kind::usage, "FACET_GPU_TUNE={}: expected off, on or file", t);
    }
    if (const char* w = std::getenv("FACET_GPU_WORKSPACE_MB")) {
      char* end = nullptr;
      const long mb = std::strtol(w, &end, 10);
      if (end == w || *end || mb < 0 || mb > 4096) fail(Kind::usage, "FACET_GPU_WORKSPACE_MB={}: expected 0 to 4096", w);
      workspace_bytes = static_cast<size_t>(mb) << 20;
    }
  }
  Tuning tuning() const { return asked ? *asked : device().emulated ? Tuning::off : Tuning::on; }  // emulated: nothing to measure
};
Settings& settings() {
  static Settings s;
  return s;
}

}  // namespace

void set_deterministic(bool on) { settings().deterministic = on; }
bool deterministic() { return settings().deterministic; }
void set_tuning(Tuning t) {
  settings().asked = t;
  ++settings().changes;
}
Tuning tuning() { return settings().tuning(); }
void set_gemm_workspace(size_t bytes) { settings().workspace_bytes = bytes; }
size_t gemm_workspace() { return lt_why_not().empty() ? settings().workspace_bytes : 0; }
std::string cublaslt_why_not() { return lt_why_not(); }

#ifndef FACET_HAS_CUBLASLT

const std::string& lt_why_not() {
  static const std::string reason = "this program was built without the headers of cuBLASLt; own kernels compute all products";
  return reason;
}
std::string lt_version() { return {}; }
bool product_lt(const char*, const Product&) { return false; }
size_t lt_plans() { return 0; }

#else

// ---- the library

namespace {

struct Library {
  LtApi api{};
  cublasLtHandle_t handle = nullptr;
  std::string version, why_not;

  Library() {
    why_not = load();
    if (!why_not.empty()) why_not = "cuBLASLt " + why_not + "; own kernels compute all products";
  }

 private:
  std::string load() {
    CudaLibrary library({"libcublasLt.so.13", "libcublasLt.so"});
    library.get(api.create, "cublasLtCreate");
    library.get(api.version, "cublasLtGetVersion");
    library.get(api.status, "cublasLtGetStatusString");
    library.get(api.desc_create, "cublasLtMatmulDescCreate");
    library.get(api.desc_destroy, "cublasLtMatmulDescDestroy");
    library.get(api.desc_set, "cublasLtMatmulDescSetAttribute");
    library.get(api.desc_get, "cublasLtMatmulDescGetAttribute");
    library.get(api.layout_create, "cublasLtMatrixLayoutCreate");
    library.get(api.layout_destroy, "cublasLtMatrixLayoutDestroy");
    library.get(api.layout_set, "cublasLtMatrixLayoutSetAttribute");
    library.get(api.layout_get, "cublasLtMatrixLayoutGetAttribute");
    library.get(api.preference_create, "cublasLtMatmulPreferenceCreate");
    library.get(api.preference_destroy, "cublasLtMatmulPreferenceDestroy");
    library.get(api.preference_set, "cublasLtMatmulPreferenceSetAttribute");
    library.get(api.preference_get, "cublasLtMatmulPreferenceGetAttribute");
    library.get(api.heuristic, "cublasLtMatmulAlgoGetHeuristic");
    library.get(api.algo_check, "cublasLtMatmulAlgoCheck");
    library.get(api.matmul, "cublasLtMatmul");
    if (!library.why_not().empty()) return library.why_not();
    const size_t v = api.version();
    version = version_text(v);
    if (v / 10000 != CUBLAS_VER_MAJOR) return fmt::format("is version {}, this program was built for {}", version, CUBLAS_VER_MAJOR);
    replace_for_backend(api);
    if (const cublasStatus_t s = api.create(&handle); s != CUBLAS_STATUS_SUCCESS) return fmt::format("does not start: {}", api.status(s));
    return {};
  }
};
Library& library() {
  static Library* l = new Library;
  return *l;
}

void check(cublasStatus_t s, const char* op, const char* what) {
  if (s != CUBLAS_STATUS_SUCCESS) fail(Kind::environment, "{}: cuBLASLt: {} failed: {}.{}", op, what, library().api.status(s), after_operation());
}

/// Whether it does not take a problem, which own kernels then compute. That it has no algorithm is its right; any other refusal is told, once.
bool refuses(cublasStatus_t s, const char* op) {
  if (s == CUBLAS_STATUS_NOT_SUPPORTED) return true;
  if (s != CUBLAS_STATUS_INVALID_VALUE && s != CUBLAS_STATUS_ARCH_MISMATCH) return false;
  static bool told = false;
  if (!std::exchange(told, true))
    warn(fmt::format("{}: cuBLASLt {} refuses a product ({}); own kernels compute such ones.{}", op, library().version, library().api.status(s),
                     after_operation()));
  return true;
}

// ---- one problem

cudaDataType_t type_of(DType t) { return t == DType::bf16 ? CUDA_R_16BF : CUDA_R_32F; }

int64_t alignment(const void* p) {  // more than 16 makes no difference to it
  const auto a = reinterpret_cast<uintptr_t>(p);
  return std::min<int64_t>(16, static_cast<int64_t>(a & (~a + 1)));
}

// What a call multiplies: the product in the library's order.
struct Call {
  const void *first, *second;
  void* result;
  LtLayout layout;
  DType in, out;
  float alpha, beta;
  LtKey key;

  explicit Call(const Product& g) {
    lt_layout(g, layout);
    first = layout.swapped ? g.a.data : g.b.data, second = layout.swapped ? g.b.data : g.a.data;
    result = const_cast<void*>(g.c.data);
    in = g.a.dtype, out = g.c.dtype;
    alpha = g.alpha, beta = g.accumulate ? 1.f : 0.f;
    const LtLayout& l = layout;
    key.v = {l.first.transposed, l.second.transposed, l.result.rows, l.result.columns, g.p, l.first.ld, l.second.ld, l.result.ld, l.batch,
             l.first_step, l.second_step, l.result_step, static_cast<int64_t>(in), static_cast<int64_t>(out), g.accumulate,
             settings().deterministic, alignment(first), alignment(second), alignment(result), static_cast<int64_t>(settings().workspace_bytes)};
  }
  size_t result_bytes() const {
    const LtMatrix& r = layout.result;
    return static_cast<size_t>((layout.batch - 1) * layout.result_step + (r.columns - 1) * r.ld + r.rows) * static_cast<size_t>(size_of(out));
  }
};

struct Plan {
  cublasLtMatmulDesc_t desc = nullptr;
  cublasLtMatrixLayout_t first = nullptr, second = nullptr, result = nullptr;
  cublasLtMatmulAlgo_t algorithm{};
  size_t workspace_bytes = 0;
  bool usable = false;   // there is an algorithm
  bool settled = false;  // nothing better will be known
  int changes = 0;       // the setting under which it was

  Plan(const char* op, const Call& c) {
    const LtApi& api = library().api;
    const cublasComputeType_t compute = CUBLAS_COMPUTE_32F;  // f32 sums; f32 operands as they are
    check(api.desc_create(&desc, compute, CUDA_R_32F), op, "making a descriptor");
    set_transposed(op, CUBLASLT_MATMUL_DESC_TRANSA, c.layout.first.transposed);
    set_transposed(op, CUBLASLT_MATMUL_DESC_TRANSB, c.layout.second.transposed);
    first = layout(op, c.in, c.layout.first, c.layout.batch, c.layout.first_step);
    second = layout(op, c.in, c.layout.second, c.layout.batch, c.layout.second_step);
    result = layout(op, c.out, c.layout.result, c.layout.batch, c.layout.result_step);
  }
  Plan(const Plan&) = delete;
  ~Plan() {
    const LtApi& api = library().api;
    for (cublasLtMatrixLayout_t l : {first, second, result})
      if (l) api.layout_destroy(l);
    if (desc) api.desc_destroy(desc);
  }

  cublasStatus_t run(const Call& c, void* to, const cublasLtMatmulAlgo_t& a, size_t bytes) const {
    std::optional<Scratch> workspace;
    if (bytes) workspace.emplace(bytes, "workspace of cuBLASLt");
    return library().api.matmul(library().handle, desc, &c.alpha, c.first, first, c.second, second, &c.beta, to, result, to, result, &a,
                                workspace ? workspace->as<void>() : nullptr, bytes, static_cast<cudaStream_t>(stream()));
  }

 private:
  void set_transposed(const char* op, cublasLtMatmulDescAttributes_t which, bool on) {
    const cublasOperation_t value = on ? CUBLAS_OP_T : CUBLAS_OP_N;
    check(library().api.desc_set(desc, which, &value, sizeof value), op, "describing a transposition");
  }
  static cublasLtMatrixLayout_t layout(const char* op, DType t, const LtMatrix& m, int64_t batch, int64_t step) {
    const LtApi& api = library().api;
    cublasLtMatrixLayout_t l = nullptr;
    check(api.layout_create(&l, type_of(t), static_cast<uint64_t>(m.rows), static_cast<uint64_t>(m.columns), m.ld), op, "describing a matrix");
    if (batch > 1) {
      const auto count = static_cast<int32_t>(batch);
      check(api.layout_set(l, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count, sizeof count), op, "describing a batch");
      check(api.layout_set(l, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &step, sizeof step), op, "describing a batch");
    }
    return l;
  }
};

// ---- choosing

using Candidates = std::vector<cublasLtMatmulHeuristicResult_t>;

Candidates suggestions(const char* op, const Plan& plan, const Call& c, int most) {
  const LtApi& api = library().api;
  cublasLtMatmulPreference_t preference = nullptr;
  check(api.preference_create(&preference), op, "making a preference");
  const std::unique_ptr<cublasLtMatmulPreferenceOpaque_t, decltype(api.preference_destroy)> owner(preference, api.preference_destroy);
  auto set = [&](cublasLtMatmulPreferenceAttributes_t which, const auto& value) {
    check(api.preference_set(preference, which, &value, sizeof value), op, "setting a preference");
  };
  set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<uint64_t>(settings().workspace_bytes));
  // Sums split over P: apart, in f32, and then one rounding; in place only where the result is f32 and the order may vary.
  uint32_t schemes = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
  if (!settings().deterministic && c.out == DType::f32) schemes |= CUBLASLT_REDUCTION_SCHEME_INPLACE;
  set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, schemes);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, static_cast<uint32_t>(alignment(c.first)));
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, static_cast<uint32_t>(alignment(c.second)));
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, static_cast<uint32_t>(alignment(c.result)));
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, static_cast<uint32_t>(alignment(c.result)));
  Candidates list(static_cast<size_t>(most));
  int n = 0;
  const cublasStatus_t s = api.heuristic(library().handle, plan.desc, plan.first, plan.second, plan.result, plan.result, preference, most, list.data(), &n);
  if (refuses(s, op)) n = 0;
  else check(s, op, "asking for algorithms");
  list.resize(static_cast<size_t>(n));
  std::erase_if(list, [](const auto& r) { return r.state != CUBLAS_STATUS_SUCCESS || r.workspaceSize > settings().workspace_bytes; });
  return list;
}

constexpr double never = 1e300;
// Seconds of one run, over some; never when it does not run.
double measure(const Plan& plan, const Call& c, void* to, const cublasLtMatmulHeuristicResult_t& r, int runs) {
  Timer timer;
  timer.start();
  for (int i = 0; i < runs; ++i)
    if (plan.run(c, to, r.algo, r.workspaceSize) != CUBLAS_STATUS_SUCCESS) return never;
  return timer.seconds() / runs;
}

// The fastest of the candidates: all once to warm up, those within a factor of two of the best three times as often as it takes to see them.
size_t fastest(const Plan& plan, const Call& c, void* to, const Candidates& list, double& seconds) {
  const MaySync measuring;  // once for a shape
  std::vector<double> time(list.size());
  for (size_t i = 0; i < list.size(); ++i) {
    measure(plan, c, to, list[i], 1);
    time[i] = measure(plan, c, to, list[i], 1);
  }
  const double first = *std::min_element(time.begin(), time.end());
  const int runs = std::clamp(static_cast<int>(5e-4 / std::max(first, 1e-6)), 2, 20);
  std::vector<double> best(list.size(), never);
  for (int round = 0; round < 3; ++round)  // in turns: a clock that drifts treats all alike
    for (size_t i = 0; i < list.size(); ++i)
      if (time[i] <= 2 * first) best[i] = std::min(best[i], measure(plan, c, to, list[i], runs));
  const auto at = std::min_element(best.begin(), best.end());
  seconds = *at;
  return static_cast<size_t>(at - best.begin());
}

struct Planner {
  RecentlyUsed<LtKey, std::unique_ptr<Plan>, LtKeyHash> plans{most_lt_plans};
  std::unique_ptr<LtChoices> stored;

  LtChoices& choices() {
    if (!stored) stored = std::make_unique<LtChoices>(lt_choices_path(device().name, library().version));
    return *stored;
  }
  ~Planner() {
    if (stored) stored->save();
  }

  Plan& plan(const char* op, const Call& c) {
    std::unique_ptr<Plan>* const kept = plans.find(c.key);
    const std::unique_ptr<Plan>& p = kept ? *kept : plans.add(c.key, std::make_unique<Plan>(op, c));
    if (!p->settled || p->changes != settings().changes) {
      p->usable = p->usable && p->changes == settings().changes;
      p->changes = settings().changes;
      settle(op, *p, c);
    }
    return *p;
  }

  void settle(const char* op, Plan& p, const Call& c) {
    const Tuning tuning = settings().tuning();
    if (tuning != Tuning::off && recall(p, c)) return;
    const bool measures = tuning == Tuning::on && !capturing();
    if (p.usable && !measures) return;  // of a captured graph, or of an earlier setting
    const Candidates list = suggestions(op, p, c, measures ? 32 : 1);
    p.settled = tuning != Tuning::on || measures || list.empty();
    if (list.empty()) return;
    if (!measures) return use(p, list[0].algo, list[0].workspaceSize);
    size_t best = 0;
    double seconds = 0;
    try {
      std::optional<Scratch> apart;  // what is added to may be added to once
      if (c.beta != 0) apart.emplace(c.result_bytes(), "result of a measured product");
      best = fastest(p, c, apart ? apart->as<void>() : c.result, list, seconds);
    } catch (const Error& e) {
      if (e.kind() != Kind::memory) throw;
      return use(p, list[0].algo, list[0].workspaceSize);  // no room to measure in
    }
    if (seconds >= never) return;
    use(p, list[best].algo, list[best].workspaceSize);
    LtChoice choice;
    static_assert(sizeof choice.algorithm == sizeof p.algorithm);
    std::memcpy(choice.algorithm.data(), &p.algorithm, sizeof p.algorithm);
    choice.workspace_bytes = p.workspace_bytes, choice.seconds = seconds;
    choices().add(c.key, choice);
  }

  // A stored algorithm, if the library still accepts it.
  bool recall(Plan& p, const Call& c) {
    const LtChoice* choice = choices().find(c.key);
    if (!choice) return false;
    cublasLtMatmulHeuristicResult_t r{};
    std::memcpy(&r.algo, choice->algorithm.data(), sizeof r.algo);
    const cublasLtMatmulAlgo_t algorithm = r.algo;
    if (library().api.algo_check(library().handle, p.desc, p.first, p.second, p.result, p.result, &algorithm, &r) != CUBLAS_STATUS_SUCCESS ||
        r.workspaceSize > settings().workspace_bytes)
      return false;
    use(p, algorithm, r.workspaceSize);
    return p.settled = true;
  }

  static void use(Plan& p, const cublasLtMatmulAlgo_t& a, size_t workspace_bytes) {
    p.algorithm = a, p.workspace_bytes = workspace_bytes, p.usable = true;
  }
};
Planner& planner() {
  static Planner p;
  return p;
}

}  // namespace

const std::string& lt_why_not() { return library().why_not; }
std::string lt_version() { return library().version; }
size_t lt_plans() { return planner().plans.size(); }

bool product_lt(const char* op, const Product& g) {
  const Call c(g);
  const LaunchScope scope(op);
  Plan& p = planner().plan(op, c);
  if (!p.usable) return false;
  const cublasStatus_t s = p.run(c, c.result, p.algorithm, p.workspace_bytes);
  if (refuses(s, op)) return p.usable = false;
  check(s, op, "a product");
  return true;
}

#endif

}  // namespace facet::gpu
