#include "tensor/gpu/cudnn_graph.h"

#include "tensor/error.h"
#include "tensor/gpu/cuda_library.h"
#include "tensor/gpu/device_error.h"

#ifdef FACET_HAS_CUDNN
#include <algorithm>
#endif

namespace facet::gpu {

#ifndef FACET_HAS_CUDNN

const std::string& cudnn_library_why_not() {
  static const std::string reason = "this program was built without the headers of cuDNN; own kernels compute attention";
  return reason;
}
std::string cudnn_version() { return {}; }

#else

namespace {

struct Library {
  cudnn::Api api{};
  std::string version, why_not;

  Library() {
    why_not = load();
    if (!why_not.empty()) why_not = "cuDNN " + why_not + "; own kernels compute attention";
  }

 private:
  // libcudnn.so.9 is a small door: it opens the libraries behind it when they are needed, by their folder.
  std::string load() {
    const std::string name = "libcudnn.so." + std::to_string(CUDNN_MAJOR);
    CudaLibrary library({name.c_str()});
    library.get(api.version, "cudnnGetVersion");
    library.get(api.error_string, "cudnnGetErrorString");
    library.get(api.last_error, "cudnnGetLastErrorString");
    library.get(api.create, "cudnnCreate");
    library.get(api.set_stream, "cudnnSetStream");
    library.get(api.descriptor_create, "cudnnBackendCreateDescriptor");
    library.get(api.descriptor_destroy, "cudnnBackendDestroyDescriptor");
    library.get(api.descriptor_set, "cudnnBackendSetAttribute");
    library.get(api.descriptor_get, "cudnnBackendGetAttribute");
    library.get(api.descriptor_finalize, "cudnnBackendFinalize");
    library.get(api.execute, "cudnnBackendExecute");
    if (!library.why_not().empty()) return library.why_not();
    const size_t v = api.version();
    version = version_text(v);
    // Before 9.16 the backward pass is wrong for lengths that are no multiple of 128 unless worked around.
    if (v < 91600) return fmt::format("is version {}, at least 9.16 is needed", version);
    return {};
  }
};
const Library& library() {
  static const Library* l = new Library;  // never closed: its threads may outlive main
  return *l;
}

}  // namespace

const std::string& cudnn_library_why_not() { return library().why_not; }
std::string cudnn_version() { return library().version; }

namespace cudnn {

const Api& api() {
  if (!library().why_not.empty()) fail(Kind::environment, "{}", library().why_not);
  return library().api;
}

namespace {
std::string last_words(cudnnStatus_t s) {
  char words[1024] = "";
  api().last_error(words, sizeof words);
  return fmt::format("{}{}{}", api().error_string(s), *words ? ": " : "", words);
}
}  // namespace

void check(cudnnStatus_t s, const char* what) {
  if (s != CUDNN_STATUS_SUCCESS) fail(Kind::environment, "cuDNN: {} failed: {}.{}", what, last_words(s), after_operation());
}

// ---- descriptors

Descriptor::Descriptor(cudnnBackendDescriptorType_t type) { check(api().descriptor_create(type, &p_), "making a descriptor"); }
Descriptor::~Descriptor() {
  if (p_) api().descriptor_destroy(p_);
}
void Descriptor::set(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, int64_t count, const void* values) {
  if (const cudnnStatus_t s = api().descriptor_set(p_, name, type, count, values); s != CUDNN_STATUS_SUCCESS)
    check(s, fmt::format("setting attribute {}", static_cast<int>(name)).c_str());
}
int64_t Descriptor::get(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, int64_t most, void* values) const {
  int64_t count = 0;
  if (const cudnnStatus_t s = api().descriptor_get(p_, name, type, most, &count, values); s != CUDNN_STATUS_SUCCESS)
    check(s, fmt::format("reading attribute {}", static_cast<int>(name)).c_str());
  return count;
}
void Descriptor::finalize(const char* what) { check(api().descriptor_finalize(p_), what); }

// ---- graphs

Dims dense(const Dims& sizes) {
  Dims strides(sizes.size(), 1);
  for (size_t i = sizes.size(); i-- > 1;) strides[i - 1] = strides[i] * sizes[i];
  return strides;
}

int Graph::add(const Dims& sizes, const Dims& strides, cudnnDataType_t type, bool is_virtual, bool by_value) {
  const auto id = static_cast<int64_t>(tensors_.size()) + 1;
  Descriptor d(CUDNN_BACKEND_TENSOR_DESCRIPTOR);
  d.set(CUDNN_ATTR_TENSOR_UNIQUE_ID, id);
  d.set(CUDNN_ATTR_TENSOR_DATA_TYPE, type);
  d.set(CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, static_cast<int64_t>(sizes.size()), sizes.data());
  d.set(CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, static_cast<int64_t>(strides.size()), strides.data());
  d.set(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, int64_t{16});
  d.set(CUDNN_ATTR_TENSOR_IS_VIRTUAL, is_virtual);
  d.set(CUDNN_ATTR_TENSOR_IS_BY_VALUE, by_value);
  d.finalize("a tensor of the graph");
  tensors_.push_back(std::move(d));
  return static_cast<int>(id);
}
int Graph::tensor(const Dims& sizes, const Dims& strides, cudnnDataType_t type) { return add(sizes, strides, type, false, false); }
int Graph::between(const Dims& sizes, cudnnDataType_t type, const Dims& strides) {
  return add(sizes, strides.empty() ? dense(sizes) : strides, type, true, false);
}
int Graph::scalar(float value) {
  const int id = add({1, 1, 1, 1}, {1, 1, 1, 1}, CUDNN_DATA_FLOAT, false, true);
  scalars_.emplace_back(id, value);
  return id;
}

Graph::Node& Graph::node(cudnnBackendDescriptorType_t type, Descriptor&& operation, std::optional<Descriptor> how) {
  operation.finalize("an operation of the graph");
  return nodes_.emplace_back(Node{type, std::move(operation), std::move(how), std::nullopt});
}

void Graph::matmul(int a, int b, int c) {
  Descriptor how(CUDNN_BACKEND_MATMUL_DESCRIPTOR);
  how.set(CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_DATA_FLOAT);
  how.finalize("a product of the graph");
  Descriptor op(CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR);
  op.set(CUDNN_ATTR_OPERATION_MATMUL_ADESC, at(a));
  op.set(CUDNN_ATTR_OPERATION_MATMUL_BDESC, at(b));
  op.set(CUDNN_ATTR_OPERATION_MATMUL_CDESC, at(c));
  op.set(CUDNN_ATTR_OPERATION_MATMUL_DESC, how);
  node(CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR, std::move(op), std::move(how));
}

void Graph::pointwise(cudnnPointwiseMode_t mode, std::vector<int> inputs, int y, cudnnDataType_t arithmetic, int axis) {
  Elementwise e{mode, std::move(inputs), y, arithmetic, axis};
  Descriptor how(CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
  how.set(CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &e.mode);
  how.set(CUDNN_ATTR_POINTWISE_MATH_PREC, e.arithmetic);
  if (e.axis >= 0) how.set(CUDNN_ATTR_POINTWISE_AXIS, int64_t{e.axis});
  how.finalize("an elementwise function of the graph");
  Descriptor op(CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
  op.set(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, how);
  constexpr cudnnBackendAttributeName_t names[] = {CUDNN_ATTR_OPERATION_POINTWISE_XDESC, CUDNN_ATTR_OPERATION_POINTWISE_BDESC,
                                                   CUDNN_ATTR_OPERATION_POINTWISE_TDESC};
  for (size_t i = 0; i < e.inputs.size(); ++i) op.set(names[i], at(e.inputs[i]));
  op.set(CUDNN_ATTR_OPERATION_POINTWISE_YDESC, at(e.y));
  node(CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR, std::move(op), std::move(how)).elementwise = std::move(e);
}

void Graph::reduce(cudnnReduceTensorOp_t what, int x, int y) {
  Descriptor how(CUDNN_BACKEND_REDUCTION_DESCRIPTOR);
  how.set(CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, 1, &what);
  how.set(CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_DATA_FLOAT);
  how.finalize("a reduction of the graph");
  Descriptor op(CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR);
  op.set(CUDNN_ATTR_OPERATION_REDUCTION_DESC, how);
  op.set(CUDNN_ATTR_OPERATION_REDUCTION_XDESC, at(x));
  op.set(CUDNN_ATTR_OPERATION_REDUCTION_YDESC, at(y));
  node(CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR, std::move(op), std::move(how));
}

void Graph::reshape(int x, int y) {
  Descriptor op(CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR);
  op.set(CUDNN_ATTR_OPERATION_RESHAPE_XDESC, at(x));
  op.set(CUDNN_ATTR_OPERATION_RESHAPE_YDESC, at(y));
  node(CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR, std::move(op));
}

void Graph::finalize() {
  std::vector<cudnnBackendDescriptor_t> all;
  for (const Node& n : nodes_) all.push_back(n.operation.raw());
  graph_.set(CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, static_cast<int64_t>(all.size()), all.data());
  graph_.finalize("a graph of operations");
}

// ---- plans

Descriptor device_of(cudnnHandle_t handle) {
  Descriptor d(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR);
  d.set(CUDNN_ATTR_DEVICEPROP_HANDLE, CUDNN_TYPE_HANDLE, 1, &handle);
  d.finalize("describing the GPU");
  return d;
}
Descriptor device_of(const std::string& text) {
  Descriptor d(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR);
  d.set(CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR, static_cast<int64_t>(text.size()), text.data());
  d.finalize("reading the text of a GPU");
  return d;
}
std::string device_text(const Descriptor& device) {
  std::string text(static_cast<size_t>(device.get(CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR, 0, nullptr)), ' ');
  device.get(CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR, static_cast<int64_t>(text.size()), text.data());
  return text;
}

std::optional<Plan> make_plan(const Graph& graph, const Descriptor& device, bool deterministic, std::string* why) {
  Descriptor heuristics(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
  const cudnnBackendHeurMode_t mode = CUDNN_HEUR_MODE_A;
  heuristics.set(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph.operation_graph());
  heuristics.set(CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
  heuristics.set(CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, device);
  const auto refused = [&](cudnnStatus_t s) {
    if (why) *why = last_words(s);
  };
  if (const cudnnStatus_t s = api().descriptor_finalize(heuristics.raw()); s != CUDNN_STATUS_SUCCESS) {
    refused(s);
    return std::nullopt;
  }
  std::vector<Descriptor> configs;
  std::vector<cudnnBackendDescriptor_t> raw;
  const int64_t most = heuristics.get(CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR, 0, nullptr);
  for (int64_t i = 0; i < most; ++i) raw.push_back(configs.emplace_back(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR).raw());
  const int64_t found = most ? heuristics.get(CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR, most, raw.data()) : 0;
  if (why && found == 0) *why = "no engine takes the graph";

  for (int64_t i = 0; i < found; ++i) {
    const Descriptor& config = configs[static_cast<size_t>(i)];
    Descriptor engine(CUDNN_BACKEND_ENGINE_DESCRIPTOR);
    cudnnBackendDescriptor_t place = engine.raw();
    config.get(CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &place);
    Plan p;
    engine.get(CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1, &p.engine);
    cudnnBackendNumericalNote_t notes[CUDNN_NUMERICAL_NOTE_TYPE_COUNT] = {};
    const int64_t count = engine.get(CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE, CUDNN_NUMERICAL_NOTE_TYPE_COUNT, notes);
    if (deterministic && std::count(notes, notes + count, CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC)) {
      if (why) *why = "the engines it has are not deterministic";
      continue;
    }
    p.plan.set(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, config);
    p.plan.set(CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, device);
    if (const cudnnStatus_t s = api().descriptor_finalize(p.plan.raw()); s != CUDNN_STATUS_SUCCESS) {
      refused(s);
      continue;
    }
    p.plan.get(CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1, &p.workspace_bytes);
    return p;
  }
  return std::nullopt;
}

void execute(cudnnHandle_t handle, const Graph& graph, const Plan& plan, std::vector<std::pair<int64_t, void*>> pointers, void* workspace) {
  for (const auto& [id, value] : graph.scalars()) pointers.emplace_back(id, const_cast<float*>(&value));
  std::vector<int64_t> ids;
  std::vector<void*> data;
  for (const auto& [id, p] : pointers) {
    ids.push_back(id);
    data.push_back(p);
  }
  Descriptor pack(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
  pack.set(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, static_cast<int64_t>(ids.size()), ids.data());
  pack.set(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, static_cast<int64_t>(data.size()), data.data());
  pack.set(CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &workspace);
  pack.finalize("the operands of a graph");
  check(api().execute(handle, plan.plan.raw(), pack.raw()), "running a graph");
}

}  // namespace cudnn
#endif

}  // namespace facet::gpu
