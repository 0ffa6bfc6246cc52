#include "tensor/tensor.h"

#include <cstring>
#include <ostream>

#include "tensor/cpu/bf16.h"
#include "tensor/gpu/runtime.h"
#include "tensor/kernels/copy.h"

namespace facet {

const char* name_of(DType t) {
  switch (t) {
    case DType::f32: return "f32";
    case DType::bf16: return "bf16";
    case DType::f64: return "f64";
    default: return "i32";
  }
}

const char* name_of(Device d) { return d == Device::cpu ? "cpu" : "gpu"; }

std::string to_string(const Shape& s) { return fmt::format("[{}]", fmt::join(s.begin(), s.end(), ", ")); }

int normal_dim(const char* op, int dim, int rank) {
  const int d = dim < 0 ? dim + rank : dim;
  if (d < 0 || d >= rank) fail(Kind::usage, "{}: dimension {} is out of range for rank {}", op, dim, rank);
  return d;
}

Shape broadcast_shape(const char* op, const Shape& a, const Shape& b) {
  Shape r;
  r.rank = std::max(a.rank, b.rank);
  for (int i = 1; i <= r.rank; ++i) {
    const int64_t x = i <= a.rank ? a[-i] : 1, y = i <= b.rank ? b[-i] : 1;
    if (x != y && x != 1 && y != 1)
      fail(Kind::usage, "{}: shapes {} and {} do not broadcast (size {} against {} in dimension {} from the end)", op,
           to_string(a), to_string(b), x, y, i);
    r[-i] = x == 1 ? y : x;
  }
  return r;
}

// ---- making one

Tensor Tensor::empty(const Shape& shape, DType dtype, Device device) {
  int64_t n = 1;
  for (int64_t d : shape) {
    if (d < 0) fail(Kind::usage, "tensor: negative size in shape {}", to_string(shape));
    if (__builtin_mul_overflow(n, d, &n)) fail(Kind::usage, "tensor: shape {} has too many elements", to_string(shape));
  }
  if (n > (int64_t{1} << 46)) fail(Kind::memory, "tensor: shape {} has too many elements", to_string(shape));
  Tensor t;
  t.shape_ = shape;
  t.stride_ = dense_strides(shape);
  t.dtype_ = dtype;
  t.storage_ = new_storage(static_cast<size_t>(n * size_of(dtype)), {"tensor", shape, dtype}, device);
  return t;
}

Tensor Tensor::zeros(const Shape& shape, DType dtype, Device device) {
  Tensor t = empty(shape, dtype, device);
  fill_bytes(device, t.storage_->data, 0, t.storage_->bytes);
  return t;
}

Tensor Tensor::with_room(const Shape& shape, int64_t room, DType dtype, Device device) {
  if (shape.rank < 1 || room < 0) fail(Kind::usage, "tensor: shape {} with room for {} behind each row: expected [.., D] and 0 or more", to_string(shape), room);
  Shape rows = shape;
  rows[-1] += room;
  Tensor t = empty(rows, dtype, device);
  t.shape_ = shape;
  t.storage_->room = room;
  return t;
}

Tensor Tensor::full(const Shape& shape, double value, DType dtype, Device device) {
  Tensor t = empty(shape, dtype, device);
  fill(t.out(), value);
  return t;
}

Tensor Tensor::scalar(double value, DType dtype) { return full({}, value, dtype); }

Tensor Tensor::arange(int64_t n, DType dtype) {
  std::vector<int32_t> v(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) v[static_cast<size_t>(i)] = static_cast<int32_t>(i);
  return from(v, {n}).to(dtype);
}

Tensor Tensor::from_bytes(const void* data, size_t count, const Shape& shape, DType dtype) {
  Tensor t = empty(shape, dtype);
  if (static_cast<size_t>(shape.numel()) != count)
    fail(Kind::usage, "tensor: {} values given for shape {}", count, to_string(shape));
  std::memcpy(t.storage_->data, data, t.storage_->bytes);
  return t;
}

// ---- looking at it

View Tensor::view() const {
  View v;
  if (!storage_) return v;
  v.data = raw();
  v.dtype = dtype_;
  v.device = storage_->device;
  v.shape = shape_;
  v.stride = stride_;
  return v;
}

int64_t Tensor::room() const {
  const int64_t room = storage_ ? storage_->room : 0;
  const bool rows = rank() >= 2 && stride_[-1] == 1 && stride_[-2] == shape_[-1] + room;  // not some of their columns
  return rows && offset_ % stride_[-2] == 0 ? room : 0;
}

Tensor Tensor::take_room(int64_t n) const {
  if (n < 0 || n > room()) fail(Kind::usage, "take_room: {} elements behind each row of {}: there is room for {}", n, to_string(shape_), room());
  Tensor t = detach();
  t.offset_ += shape_[-1];
  t.shape_[-1] = n;
  storage_->room = 0;
  return t;
}

Out Tensor::out(bool accumulate) const {
  Out o;
  static_cast<View&>(o) = view();
  o.accumulate = accumulate;
  if (storage_) ++storage_->version;
  return o;
}

void Tensor::set(const Tensor& values) const {
  if (!(values.shape_ == shape_) || values.dtype_ != dtype_)
    fail(Kind::usage, "set: values {}{} for a tensor {}{}", name_of(values.dtype_), to_string(values.shape_), name_of(dtype_), to_string(shape_));
  if (shares_storage(values)) {
    if (offset_ != values.offset_ || !(stride_ == values.stride_)) copy(values.dense().view(), out());
    return;
  }
  if (values.device() == device()) return copy(values.view(), out());
  if (!contiguous()) return copy(values.to(device()).view(), out());
  const Tensor from = values.detach().dense();
  const size_t bytes = static_cast<size_t>(numel() * size_of(dtype_));
  if (device() == Device::gpu) gpu::copy_to_device(out().as<char>(), from.raw(), bytes);
  else gpu::copy_to_host(out().as<char>(), from.raw(), bytes);
}

void Tensor::check_data(DType asked) const {
  if (!storage_) fail(Kind::usage, "tensor: data() of an absent tensor");
  if (device() == Device::gpu) fail(Kind::usage, "tensor: data() of a tensor on the GPU {}; call to(Device::cpu) first", to_string(shape_));
  if (asked != dtype_) fail(Kind::usage, "tensor: data() as {} of a {} tensor", name_of(asked), name_of(dtype_));
  if (!contiguous()) fail(Kind::usage, "tensor: data() of a strided view {}; call dense() first", to_string(shape_));
}

// The element `offset` elements after the first, on the CPU.
Tensor Tensor::fetched(int64_t offset) const {
  Tensor t = empty({}, dtype_);
  gpu::copy_to_host(t.storage_->data, static_cast<const char*>(raw()) + offset * size_of(dtype_), static_cast<size_t>(size_of(dtype_)));
  return t;
}

double Tensor::at(std::initializer_list<int64_t> index) const {
  if (static_cast<int>(index.size()) != rank())
    fail(Kind::usage, "at: {} indices for shape {}", index.size(), to_string(shape_));
  int64_t o = 0;
  int i = 0;
  for (int64_t k : index) {
    if (k < 0 || k >= shape_[i]) fail(Kind::usage, "at: index {} out of range in dimension {} of {}", k, i, to_string(shape_));
    o += k * stride_[i++];
  }
  if (device() == Device::gpu) return fetched(o).item();
  double r = 0;
  cpu::by_dtype(dtype_, [&](auto t) { r = cpu::convert<double>(static_cast<const decltype(t)*>(raw())[o]); });
  return r;
}

double Tensor::item() const {
  if (numel() != 1) fail(Kind::usage, "item: shape {} holds {} elements, not one", to_string(shape_), numel());
  if (device() == Device::gpu) return fetched(0).item();
  double r = 0;
  cpu::by_dtype(dtype_, [&](auto t) { r = cpu::convert<double>(*static_cast<const decltype(t)*>(raw())); });
  return r;
}

std::vector<double> Tensor::to_vector() const {
  std::vector<double> r(static_cast<size_t>(numel()));
  if (r.empty()) return r;
  if (device() == Device::gpu) return detach().to(Device::cpu).to_vector();
  Out o;
  o.data = r.data();
  o.dtype = DType::f64;
  o.shape = shape_;
  o.stride = dense_strides(shape_);
  copy(view(), o);
  return r;
}

// ---- windows

Tensor Tensor::detach() const {
  Tensor t = *this;
  t.slot_ = {};
  t.slot_output_ = 0;
  return t;
}

void Tensor::check_no_slot(const char* what) const {
  if (slot_)
    fail(Kind::usage, "Tensor::{}: this tensor carries a gradient, a plain view would lose it; use facet::{} or detach()", what,
         what);
}

namespace {
// Strides of the same elements under another shape of equal size; false when that needs a copy. Walks old and new sizes from the
// back: a new dimension may split an old run but not join two that are not adjacent.
bool reshaped_strides(const Shape& old, const Shape& old_stride, const Shape& shape, Shape& stride) {
  stride = dense_strides(shape);
  if (shape.numel() == 0 || is_dense(old, old_stride)) return true;
  int o = old.rank - 1;
  int64_t run = 1, step = 0;
  for (int i = shape.rank - 1; i >= 0; --i) {
    if (shape[i] == 1) {
      stride[i] = run == 1 ? 1 : step * run;
      continue;
    }
    while (run == 1 && o >= 0) {  // next run of old dimensions that walk as one
      if (old[o] == 1) { --o; continue; }
      step = old_stride[o];
      run = old[o--];
      while (o >= 0 && (old[o] == 1 || old_stride[o] == step * run)) run *= old[o--];
    }
    if (run % shape[i]) return false;
    stride[i] = step;
    step *= shape[i];
    run /= shape[i];
  }
  return true;
}
}  // namespace

// Fills in the one size that may be -1.
Shape Tensor::resolve(const Shape& wanted) const {
  Shape shape = wanted;
  int64_t known = 1;
  int open = -1;
  for (int i = 0; i < shape.rank; ++i) {
    if (shape[i] >= 0) known *= shape[i];
    else if (shape[i] == -1 && open < 0) open = i;
    else fail(Kind::usage, "reshape: bad shape {}", to_string(wanted));
  }
  if (open >= 0) shape[open] = known ? numel() / known : 0;
  if (shape.numel() != numel())
    fail(Kind::usage, "reshape: {} ({} elements) cannot become {}", to_string(shape_), numel(), to_string(wanted));
  return shape;
}

Tensor Tensor::reshape(const Shape& wanted) const {
  check_no_slot("reshape");
  const Shape shape = resolve(wanted);
  Tensor t = *this;
  t.shape_ = shape;
  if (!reshaped_strides(shape_, stride_, shape, t.stride_))
    fail(Kind::usage, "reshape: {} with strides {} cannot become {} without a copy; call dense() first", to_string(shape_),
         to_string(stride_), to_string(wanted));
  return t;
}

bool Tensor::reshapes(const Shape& shape) const {
  Shape stride;
  return reshaped_strides(shape_, stride_, resolve(shape), stride);
}

Tensor Tensor::permute(std::span<const int> order) const {
  check_no_slot("permute");
  if (static_cast<int>(order.size()) != rank())
    fail(Kind::usage, "permute: {} dimensions given for shape {}", order.size(), to_string(shape_));
  Tensor t = *this;
  unsigned seen = 0;
  for (int i = 0; i < rank(); ++i) {
    const int d = normal_dim("permute", order[static_cast<size_t>(i)], rank());
    if (seen & (1u << d)) fail(Kind::usage, "permute: dimension {} is named twice", d);
    seen |= 1u << d;
    t.shape_[i] = shape_[d];
    t.stride_[i] = stride_[d];
  }
  return t;
}

Tensor Tensor::transpose(int a, int b) const {
  check_no_slot("transpose");
  a = normal_dim("transpose", a, rank());
  b = normal_dim("transpose", b, rank());
  Tensor t = *this;
  std::swap(t.shape_[a], t.shape_[b]);
  std::swap(t.stride_[a], t.stride_[b]);
  return t;
}

Tensor Tensor::slice(int d, int64_t begin, int64_t end, int64_t step) const {
  check_no_slot("slice");
  d = normal_dim("slice", d, rank());
  const int64_t n = shape_[d];
  if (begin < 0) begin += n;
  if (end < 0) end += n;
  if (begin < 0 || begin > end || end > n || step < 1)
    fail(Kind::usage, "slice: [{}, {}) step {} does not fit dimension {} of {}", begin, end, step, d, to_string(shape_));
  Tensor t = *this;
  t.offset_ += begin * stride_[d];
  t.shape_[d] = (end - begin + step - 1) / step;
  t.stride_[d] = stride_[d] * step;
  return t;
}

Tensor Tensor::expand(const Shape& shape) const {
  check_no_slot("expand");
  if (!(broadcast_shape("expand", shape_, shape) == shape))
    fail(Kind::usage, "expand: {} does not broadcast to {}", to_string(shape_), to_string(shape));
  Tensor t = *this;
  t.shape_ = t.stride_ = shape;
  for (int i = 1; i <= shape.rank; ++i)
    t.stride_[-i] = i <= rank() && shape_[-i] == shape[-i] ? stride_[-i] : 0;
  return t;
}

// ---- copies

Tensor Tensor::clone() const {
  Tensor t = empty(shape_, dtype_, device());
  copy(view(), t.out());
  return t;
}

Tensor Tensor::dense() const { return contiguous() ? *this : clone(); }

Tensor Tensor::to(DType dtype) const {
  if (dtype == dtype_) return *this;
  check_no_slot("to");
  Tensor t = empty(shape_, dtype, device());
  copy(view(), t.out());
  return t;
}

Tensor Tensor::to(Device device) const {
  if (!storage_ || device == this->device()) return *this;
  check_no_slot("to");
  const Tensor from = dense();
  Tensor t = empty(shape_, dtype_, device);
  t.set(from);
  return t;
}

const Tensor& Saved::get() const {
  if (tensor_ && tensor_.version() != version_)
    fail(Kind::usage,
         "backward: a saved tensor {} was written in place after the forward pass (version {} then, {} now); clone() it before "
         "writing",
         to_string(tensor_.shape()), version_, tensor_.version());
  return tensor_;
}

// ---- printing

namespace {
void print(std::string& s, const Tensor& t, int level) {
  if (level == t.rank()) {
    s += fmt::format("{:.6g}", t.item());
    return;
  }
  const int64_t n = t.dim(level), edge = level + 1 == t.rank() ? 4 : 3;
  s += '[';
  for (int64_t i = 0; i < n; ++i) {
    if (i) s += ", ";
    if (n > 2 * edge && i == edge) {
      s += "..., ";
      i = n - edge;
    }
    print(s, t.slice(level, i, i + 1), level + 1);
  }
  s += ']';
}
}  // namespace

std::string to_string(const Tensor& t) {
  if (!t) return "(absent)";
  std::string s = fmt::format("{}{} ", name_of(t.dtype()), to_string(t.shape()));
  print(s, t.detach().to(Device::cpu), 0);
  return s;
}

std::ostream& operator<<(std::ostream& o, const Tensor& t) { return o << to_string(t); }

}  // namespace facet
