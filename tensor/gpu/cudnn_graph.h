// Operation graphs of cuDNN, built node by node through its backend interface (cudnn_backend.h; no C++ frontend is needed). A graph and its
// execution plan are made and checked by the library without a GPU too: which device they are for is a text (device_text). Only running one
// needs a handle. Host code only.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tensor/view.h"

#if __has_include(<cudnn_graph.h>) && __has_include(<cuda_runtime_api.h>)
#define FACET_HAS_CUDNN 1
#include <cudnn_graph.h>
#endif

namespace facet::gpu {

/// Empty when the library is there (libcudnn.so.9, opened at the first call), GPU or not; else why not, one sentence.
const std::string& cudnn_library_why_not();
/// Such as "9.19.0"; empty without the library.
std::string cudnn_version();

#ifdef FACET_HAS_CUDNN
namespace cudnn {

/// The functions that are used.
struct Api {
  decltype(&cudnnGetVersion) version;
  decltype(&cudnnGetErrorString) error_string;
  decltype(&cudnnGetLastErrorString) last_error;
  decltype(&cudnnCreate) create;
  decltype(&cudnnSetStream) set_stream;
  decltype(&cudnnBackendCreateDescriptor) descriptor_create;
  decltype(&cudnnBackendDestroyDescriptor) descriptor_destroy;
  decltype(&cudnnBackendSetAttribute) descriptor_set;
  decltype(&cudnnBackendGetAttribute) descriptor_get;
  decltype(&cudnnBackendFinalize) descriptor_finalize;
  decltype(&cudnnBackendExecute) execute;
};
/// Throws Error(Kind::environment) with cudnn_library_why_not().
const Api& api();
/// Throws Error(Kind::environment) with `what` and the library's own words unless it succeeded.
void check(cudnnStatus_t, const char* what);

/// One descriptor, owned.
class Descriptor {
 public:
  explicit Descriptor(cudnnBackendDescriptorType_t);
  ~Descriptor();
  Descriptor(Descriptor&& o) noexcept : p_(std::exchange(o.p_, nullptr)) {}
  Descriptor& operator=(Descriptor&& o) noexcept {
    std::swap(p_, o.p_);
    return *this;
  }
  void set(cudnnBackendAttributeName_t, cudnnBackendAttributeType_t, int64_t count, const void* values);
  void set(cudnnBackendAttributeName_t name, int64_t v) { set(name, CUDNN_TYPE_INT64, 1, &v); }
  void set(cudnnBackendAttributeName_t name, bool v) { set(name, CUDNN_TYPE_BOOLEAN, 1, &v); }
  void set(cudnnBackendAttributeName_t name, cudnnDataType_t v) { set(name, CUDNN_TYPE_DATA_TYPE, 1, &v); }
  void set(cudnnBackendAttributeName_t name, const Descriptor& d) { set(name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &d.p_); }
  /// How many there are; at most `most` are written.
  int64_t get(cudnnBackendAttributeName_t, cudnnBackendAttributeType_t, int64_t most, void* values) const;
  void finalize(const char* what);
  cudnnBackendDescriptor_t raw() const { return p_; }

 private:
  cudnnBackendDescriptor_t p_ = nullptr;
};

/// Four sizes or strides.
using Dims = std::vector<int64_t>;
Dims dense(const Dims& sizes);

/// A graph under construction. Tensors are named by number (the library's unique ids), starting at 1.
class Graph {
 public:
  /// What an elementwise operation was made from: the one kind the library does not let be read back.
  struct Elementwise {
    cudnnPointwiseMode_t mode;
    std::vector<int> inputs;
    int y;
    cudnnDataType_t arithmetic;
    int axis;
  };
  struct Node {
    cudnnBackendDescriptorType_t type;
    Descriptor operation;
    std::optional<Descriptor> how;  ///< what the operation points to: the product, the function, the reduction
    std::optional<Elementwise> elementwise;
  };
  /// In memory at execution.
  int tensor(const Dims& sizes, const Dims& strides, cudnnDataType_t);
  /// One f32 number, handed over by value at execution.
  int scalar(float);
  /// Intermediate; never in memory. Dense unless strides are given.
  int between(const Dims& sizes, cudnnDataType_t = CUDNN_DATA_FLOAT, const Dims& strides = {});

  /// c = a b, over the last two dimensions; fewer heads of b serve several of a.
  void matmul(int a, int b, int c);
  /// y = f(x), f(x, b) or f(x, b, t): sizes of 1 are spread. `axis`: of GEN_INDEX.
  void pointwise(cudnnPointwiseMode_t, std::vector<int> inputs, int y, cudnnDataType_t arithmetic = CUDNN_DATA_FLOAT, int axis = -1);
  /// y = op over the dimensions where y has size 1, or, for heads, over neighbours that share one.
  void reduce(cudnnReduceTensorOp_t, int x, int y);
  /// The same elements under y's strides (and type): a transposition.
  void reshape(int x, int y);
  void finalize();

  const Descriptor& operation_graph() const { return graph_; }
  const std::vector<Node>& nodes() const { return nodes_; }
  const Descriptor& at(int id) const { return tensors_[static_cast<size_t>(id - 1)]; }
  /// The numbers of scalars with their values, for execution and for readers of the graph.
  const std::vector<std::pair<int64_t, float>>& scalars() const { return scalars_; }

 private:
  int add(const Dims& sizes, const Dims& strides, cudnnDataType_t, bool is_virtual, bool by_value);
  Node& node(cudnnBackendDescriptorType_t, Descriptor&& operation, std::optional<Descriptor> how = std::nullopt);
  std::vector<Descriptor> tensors_;
  std::vector<Node> nodes_;
  std::vector<std::pair<int64_t, float>> scalars_;
  Descriptor graph_{CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR};
};

/// What a plan is made for: the present GPU's handle, or a text such as device_text().
Descriptor device_of(cudnnHandle_t);
Descriptor device_of(const std::string& text);
/// The text of a device descriptor (JSON), which another machine can make plans from.
std::string device_text(const Descriptor&);

struct Plan {
  Descriptor plan{CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR};
  int64_t workspace_bytes = 0;
  int64_t engine = -1;
};
/// The first of the library's suggestions that can be made; nothing when it has no engine for the graph, `why` is the last refusal then.
/// `deterministic`: engines that are said not to be are passed over.
std::optional<Plan> make_plan(const Graph&, const Descriptor& device, bool deterministic, std::string* why = nullptr);

/// Runs on the stream; `pointers` for every tensor in memory. Scalars come from the graph.
void execute(cudnnHandle_t, const Graph&, const Plan&, std::vector<std::pair<int64_t, void*>> pointers, void* workspace);

}  // namespace cudnn
#endif

}  // namespace facet::gpu
