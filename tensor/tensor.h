// Tensor: a strided window on refcounted storage, plus an opaque slot where the autograd layer hangs the node that made it.
#pragma once
#include <iosfwd>
#include <span>
#include <string>
#include <vector>

#include "tensor/error.h"
#include "tensor/storage.h"
#include "tensor/view.h"

namespace facet {

const char* name_of(DType);
const char* name_of(Device);
std::string to_string(const Shape&);  ///< "[2, 3]"

/// The DType of a C++ element type.
template <class T>
constexpr DType dtype_of() {
  if constexpr (sizeof(T) == 8) return DType::f64;
  else if constexpr (sizeof(T) == 2) return DType::bf16;
  else if constexpr (std::is_same_v<T, float>) return DType::f32;
  else return DType::i32;
}

class Tensor {
 public:
  Tensor() = default;  ///< absent: no storage, false as a bool

  // ---- making one
  static Tensor empty(const Shape&, DType = DType::f32, Device = Device::cpu);
  static Tensor zeros(const Shape&, DType = DType::f32, Device = Device::cpu);
  /// Rows with `room` elements of memory behind each, nobody's at first: what is put there later makes one matrix with these values, and a product
  /// of both costs one product's traffic.
  static Tensor with_room(const Shape&, int64_t room, DType = DType::f32, Device = Device::cpu);
  static Tensor full(const Shape&, double value, DType = DType::f32, Device = Device::cpu);
  /// Copies values given in row-major order. On the CPU, like scalar() and arange(): to(Device::gpu) moves them.
  template <class T>
  static Tensor from(std::span<const T> values, const Shape& shape) {
    return from_bytes(values.data(), values.size(), shape, dtype_of<T>());
  }
  template <class T>
  static Tensor from(const std::vector<T>& values, const Shape& shape) {
    return from(std::span<const T>(values), shape);
  }
  static Tensor from(std::initializer_list<float> values, const Shape& shape) {
    return from_bytes(values.begin(), values.size(), shape, DType::f32);
  }
  static Tensor scalar(double value, DType = DType::f32);  ///< rank 0
  static Tensor arange(int64_t n, DType = DType::i32);     ///< 0, 1, ..., n-1

  // ---- looking at it
  explicit operator bool() const { return static_cast<bool>(storage_); }
  const Shape& shape() const { return shape_; }
  const Shape& stride() const { return stride_; }
  int rank() const { return shape_.rank; }
  int64_t dim(int i) const { return shape_[i]; }  ///< negative i counts from the end
  int64_t numel() const { return shape_.numel(); }
  DType dtype() const { return dtype_; }
  Device device() const { return storage_ ? storage_->device : Device::cpu; }
  bool contiguous() const { return is_dense(shape_, stride_); }
  View view() const;
  /// The only way to write; bumps the version, so that saved tensors notice.
  Out out(bool accumulate = false) const;
  /// Writes the values of a tensor of the same shape and dtype, from whatever device they are on.
  void set(const Tensor& values) const;
  /// Elements of a contiguous tensor on the CPU.
  template <class T>
  std::span<const T> data() const {
    check_data(dtype_of<T>());
    return {static_cast<const T*>(raw()), static_cast<size_t>(numel())};
  }
  // These three fetch from the GPU, and wait for it.
  double at(std::initializer_list<int64_t> index) const;  ///< one element, any dtype, bounds-checked
  double item() const;                                    ///< the only element
  std::vector<double> to_vector() const;                  ///< all elements in row-major order
  uint32_t version() const { return storage_ ? storage_->version : 0; }
  bool unique() const { return storage_.count() == 1; }  ///< no other handle shares the storage
  bool shares_storage(const Tensor& o) const { return storage_.get() == o.storage_.get(); }
  int64_t offset() const { return offset_; }  ///< elements from the start of the storage
  /// Elements behind each row of a tensor that was made with_room, or of some of its rows, which nobody has taken; else 0.
  int64_t room() const;
  /// The first n elements behind each row [.., n], for whoever asks first: then there is no room any more.
  Tensor take_room(int64_t n) const;

  // ---- windows on the same storage. They carry no gradient, so a tensor that has a slot refuses: use the functions of
  // autograd/ops.h, or detach() first.
  Tensor detach() const;
  Tensor reshape(const Shape&) const;  ///< one size may be -1; the layout must allow it without a copy
  bool reshapes(const Shape&) const;           ///< reshape needs no copy
  Tensor permute(std::initializer_list<int> order) const { return permute(std::span<const int>(order.begin(), order.size())); }
  Tensor permute(std::span<const int> order) const;
  Tensor transpose(int a, int b) const;
  Tensor slice(int dim, int64_t begin, int64_t end, int64_t step = 1) const;
  Tensor expand(const Shape&) const;  ///< numpy broadcasting: sizes 1 and new leading dimensions get stride 0

  // ---- copies (no gradient either)
  Tensor clone() const;               ///< dense, own storage
  Tensor dense() const;               ///< itself when contiguous, else clone()
  Tensor to(DType) const;             ///< itself when the dtype is right, else a converted copy
  Tensor to(Device) const;            ///< itself when it is there already, else a dense copy; to the CPU it waits for the GPU

  // ---- the autograd slot
  const Ref<Opaque>& slot() const { return slot_; }
  uint16_t slot_output() const { return slot_output_; }
  void set_slot(Ref<Opaque> node, uint16_t output) {
    slot_ = std::move(node);
    slot_output_ = output;
  }

 private:
  static Tensor from_bytes(const void* data, size_t count, const Shape&, DType);
  const void* raw() const { return static_cast<const char*>(storage_->data) + offset_ * size_of(dtype_); }
  Tensor fetched(int64_t offset) const;
  void check_data(DType) const;
  void check_no_slot(const char* what) const;
  Shape resolve(const Shape&) const;

  Ref<Storage> storage_;
  int64_t offset_ = 0;
  Shape shape_, stride_;
  DType dtype_ = DType::f32;
  Ref<Opaque> slot_;
  uint16_t slot_output_ = 0;
};

/// The shape two operands broadcast to (numpy rules); throws Error(Kind::usage) naming `op` and both shapes.
Shape broadcast_shape(const char* op, const Shape& a, const Shape& b);
/// 0 <= result < rank; throws naming `op` otherwise.
int normal_dim(const char* op, int dim, int rank);

/// "f32[2, 3] [[1, 2, 3], [4, 5, 6]]", long dimensions shortened with "...".
std::string to_string(const Tensor&);
std::ostream& operator<<(std::ostream&, const Tensor&);

/// A tensor kept for backward: without slot (so no cycle); throws when the storage was written after it was saved.
class Saved {
 public:
  Saved() = default;
  Saved(const Tensor& t) : tensor_(t.detach()), version_(t.version()) {}
  /// The tensor; throws Error(Kind::usage) naming the op after an in-place write.
  const Tensor& get() const;
  View view() const { return get().view(); }
  explicit operator bool() const { return static_cast<bool>(tensor_); }

 private:
  Tensor tensor_;
  uint32_t version_ = 0;
};

}  // namespace facet
