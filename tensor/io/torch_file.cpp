#include "tensor/io/torch_file.h"

#include <algorithm>

#include "tensor/io/cursor.h"
#include "tensor/io/pickle.h"
#include "tensor/io/text.h"

namespace facet {

namespace {

using Type = PickleValue::Type;

struct StorageRow {
  std::string_view global, dtype;
};
constexpr StorageRow storages[] = {{"torch.FloatStorage", "F32"}, {"torch.DoubleStorage", "F64"}, {"torch.HalfStorage", "F16"},
                                   {"torch.BFloat16Storage", "BF16"}, {"torch.LongStorage", "I64"}, {"torch.IntStorage", "I32"},
                                   {"torch.ShortStorage", "I16"}, {"torch.CharStorage", "I8"}, {"torch.ByteStorage", "U8"},
                                   {"torch.BoolStorage", "BOOL"}, {"torch.ComplexFloatStorage", "C64"}};
constexpr std::string_view globals[] = {
    "torch.FloatStorage", "torch.DoubleStorage", "torch.HalfStorage", "torch.BFloat16Storage", "torch.LongStorage", "torch.IntStorage",
    "torch.ShortStorage", "torch.CharStorage", "torch.ByteStorage", "torch.BoolStorage", "torch.ComplexFloatStorage",
    "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter", "torch.Size", "torch.device", "_codecs.encode",
    "torch.bfloat16", "torch.float16", "torch.float32", "torch.float64", "torch.int32", "torch.int64", "torch.uint8", "torch.bool"};

constexpr uint64_t max_pickle = uint64_t{16} << 20;
constexpr size_t max_depth = 64, max_visits = 200'000;

const ZipMember* find(const std::vector<ZipMember>& members, std::string_view name) {
  const auto at = std::find_if(members.begin(), members.end(), [&](const ZipMember& m) { return m.name == name; });
  return at == members.end() ? nullptr : &*at;
}

constexpr std::string_view pickle_name = "/data.pkl";

// "<root>" of the one member <root>/data.pkl; empty when there is none.
std::string root_of(const std::vector<ZipMember>& members) {
  for (const ZipMember& m : members)
    if (m.name.ends_with(pickle_name) && m.name.find('/') == m.name.size() - pickle_name.size()) return m.name.substr(0, m.name.size() - pickle_name.size());
  return "";
}

std::string read_text(const InputFile& file, const ZipMember& m, uint64_t limit) {
  if (m.bytes > limit) fail(Kind::file, "{}: member \"{}\" has {} bytes, at most {} are expected", file.path(), printable(m.name), grouped(m.bytes), grouped(limit));
  std::string text(static_cast<size_t>(m.bytes), '\0');
  read_member(file, m, {reinterpret_cast<uint8_t*>(text.data()), text.size()});
  return text;
}

// Walks over the values of the pickle and lists the tensors among them.
class Walker {
 public:
  Walker(const InputFile& file, const std::vector<ZipMember>& members, const std::string& root, const Pickle& pickle)
      : file_(file), members_(members), root_(root), pickle_(pickle) {
    for (size_t i = 0; i < members.size(); ++i) by_name_.emplace(members[i].name, i);
  }

  TensorMap run() {
    visit(pickle_.root(), "", 0);
    return std::move(tensors_);
  }

 private:
  template <class... A>
  [[noreturn]] void error(const std::string& name, fmt::format_string<A...> format, A&&... a) const {
    fail(Kind::file, "{}: tensor \"{}\": {}", file_.path(), printable(name), fmt::format(format, std::forward<A>(a)...));
  }

  void visit(uint32_t index, const std::string& name, size_t depth) {
    if (depth > max_depth) fail(Kind::file, "{}: \"{}\": nested deeper than {} levels", file_.path(), printable(name), max_depth);
    if (++visits_ > max_visits) fail(Kind::file, "{}: more than {} values", file_.path(), grouped(max_visits));
    const PickleValue& v = pickle_.at(index);
    const auto below = [&](const std::string& key) {
      if (name.size() + key.size() >= max_name_bytes) fail(Kind::file, "{}: a tensor name has more than {} bytes", file_.path(), max_name_bytes);
      return name.empty() ? key : name + "." + key;
    };
    if (v.type == Type::dict) {
      for (size_t i = 0; i + 1 < v.items.size(); i += 2)
        if (const std::string key = key_of(v.items[i]); !key.empty()) visit(v.items[i + 1], below(key), depth + 1);
    } else if (v.type == Type::list || v.type == Type::tuple) {
      for (size_t i = 0; i < v.items.size(); ++i) visit(v.items[i], below(std::to_string(i)), depth + 1);
    } else if (v.type == Type::call) {
      const std::string_view f = pickle_.at(v.items[0]).text;
      const std::vector<uint32_t>& arguments = pickle_.at(v.items[1]).items;
      // A parameter is a tensor that learns: (tensor, requires_grad, hooks).
      if (f == "torch._utils._rebuild_parameter" && arguments.size() == 3) visit(arguments[0], name, depth + 1);
      else if (f == "torch._utils._rebuild_tensor_v2") add(name.empty() ? "tensor" : name, arguments);
    }
  }

  // Keys that no name can be made of hold no weights.
  std::string key_of(uint32_t index) const {
    const PickleValue& v = pickle_.at(index);
    if (v.type == Type::integer) return std::to_string(v.integer);
    return v.type == Type::text && invalid_utf8(v.text) == v.text.npos ? std::string(v.text) : "";
  }

  int64_t size(const std::string& name, uint32_t index, const char* what) const {
    const PickleValue& v = pickle_.at(index);
    if (v.type != Type::integer || v.integer < 0) error(name, "{} must be a whole number", what);
    return v.integer;
  }
  // A tuple of sizes; torch.Size(tuple) is one as well.
  Shape sizes(const std::string& name, uint32_t index, const char* what) const {
    const PickleValue* v = &pickle_.at(index);
    if (v->type == Type::call && pickle_.at(v->items[0]).text == "torch.Size" && pickle_.at(v->items[1]).items.size() == 1)
      v = &pickle_.at(pickle_.at(v->items[1]).items[0]);
    if (v->type != Type::tuple) error(name, "{} must be a tuple", what);
    if (v->items.size() > max_rank) error(name, "more than {} dimensions", max_rank);
    Shape s;
    for (uint32_t i : v->items) s.push(size(name, i, what));
    return s;
  }

  // _rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks[, metadata]); offset and strides count elements.
  void add(const std::string& name, const std::vector<uint32_t>& arguments) {
    if (arguments.size() != 6 && arguments.size() != 7) error(name, "{} arguments, 6 or 7 are expected", arguments.size());
    if (tensors_.size() == max_tensors) fail(Kind::file, "{}: more than {} tensors in one file", file_.path(), grouped(max_tensors));
    TensorInfo info;
    const uint64_t elements = find_storage(name, arguments[0], info);
    const auto offset = static_cast<uint64_t>(size(name, arguments[1], "the offset"));
    info.shape = sizes(name, arguments[2], "its size");
    const Shape stride = sizes(name, arguments[3], "its stride");
    if (stride.rank != info.shape.rank) error(name, "{} strides for shape {}", stride.rank, to_string(info.shape));
    if (!checked_bytes(info.shape, info.dtype, info.bytes)) error(name, "shape {} of {} overflows", to_string(info.shape), info.dtype);
    uint64_t last = offset;
    for (int i = 0; i < stride.rank; ++i) {
      uint64_t reach = 0;
      if (info.bytes == 0) break;
      if (!checked_mul(static_cast<uint64_t>(info.shape[i] - 1), static_cast<uint64_t>(stride[i]), reach) || !checked_add(last, reach, last))
        error(name, "its strides overflow");
    }
    if (info.bytes > 0 && last >= elements)
      error(name, "shape {} with strides {} from element {} leaves its storage of {}", to_string(info.shape), to_string(stride), grouped(offset),
            grouped(elements));
    // A few bytes can spell a huge view of one element.
    if (!checked_add(listed_, info.bytes, listed_) || listed_ > 2 * file_.size())
      error(name, "the tensors listed so far hold more than twice the {} bytes of the file", grouped(file_.size()));
    info.begin = members_[static_cast<size_t>(info.member)].begin + (info.bytes == 0 ? 0 : offset * bytes_of_type(info.dtype));
    if (!is_dense(info.shape, stride)) info.stride.assign(stride.begin(), stride.end());
    if (!tensors_.emplace(name, std::move(info)).second) fail(Kind::file, "{}: duplicate tensor name \"{}\"", file_.path(), printable(name));
  }

  // ("storage", type, key, location, elements): fills in dtype and member, returns the elements.
  uint64_t find_storage(const std::string& name, uint32_t index, TensorInfo& info) const {
    const PickleValue& v = pickle_.at(index);
    const PickleValue* t = v.type == Type::persistent ? &pickle_.at(v.items[0]) : nullptr;
    if (!t || t->type != Type::tuple || t->items.size() != 5 || pickle_.at(t->items[0]).text != "storage") error(name, "it has no storage");
    const std::string_view type = pickle_.at(t->items[1]).text;
    const auto row = std::find_if(std::begin(storages), std::end(storages), [&](const StorageRow& r) { return r.global == type; });
    if (row == std::end(storages)) error(name, "\"{}\" is no type of storage", printable(type, 60));
    info.dtype = row->dtype;
    const std::string member = fmt::format("{}/data/{}", root_, pickle_.at(t->items[2]).text);
    const auto at = by_name_.find(member);
    if (at == by_name_.end()) error(name, "its storage \"{}\" is not in the archive", printable(member));
    const auto elements = static_cast<uint64_t>(size(name, t->items[4], "the size of its storage"));
    uint64_t bytes = 0;
    if (!checked_mul(elements, bytes_of_type(info.dtype), bytes) || bytes != members_[at->second].bytes)
      error(name, "its storage of {} {} needs another size than the {} bytes of \"{}\"", grouped(elements), info.dtype,
            grouped(members_[at->second].bytes), printable(member));
    info.member = static_cast<int32_t>(at->second);
    return elements;
  }

  const InputFile& file_;
  const std::vector<ZipMember>& members_;
  const std::string& root_;
  const Pickle& pickle_;
  std::map<std::string_view, size_t> by_name_;
  size_t visits_ = 0;
  uint64_t listed_ = 0;
  TensorMap tensors_;
};

}  // namespace

bool is_torch(const std::vector<ZipMember>& members) { return !root_of(members).empty(); }

TensorList list_torch(const InputFile& file, std::vector<ZipMember> members) {
  const std::string root = root_of(members);
  for (const ZipMember& m : members) {
    if (m.deflated) fail(Kind::file, "{}: member \"{}\" is packed, PyTorch's never are; re-save it with torch.save", file.path(), printable(m.name));
    if (!m.name.starts_with(root + "/")) fail(Kind::file, "{}: member \"{}\" is not below \"{}/\"", file.path(), printable(m.name), printable(root));
  }
  if (find(members, root + "/constants.pkl")) fail(Kind::file, "{}: a TorchScript program, not a file of weights; save its state_dict() instead", file.path());
  if (const ZipMember* order = find(members, root + "/byteorder"))
    if (const std::string found = read_text(file, *order, 64); found != "little")
      fail(Kind::file, "{}: byte order \"{}\"; only little-endian files are read", file.path(), printable(found));
  // Beside the pickle and the storages there are a few short texts (version, serialization_id, ...), which PyTorch reads as such.
  for (const ZipMember& m : members)
    if (!m.name.starts_with(root + "/data") && m.bytes <= 4096 && invalid_utf8(read_text(file, m, 4096)) != std::string::npos)
      fail(Kind::file, "{}: member \"{}\" is no text", file.path(), printable(m.name));
  const ZipMember& member = *find(members, root + std::string(pickle_name));
  const std::string bytes = read_text(file, member, max_pickle);
  const Pickle pickle({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()}, file.path(), globals);
  TensorList list;
  list.tensors = Walker(file, members, root, pickle).run();
  if (list.tensors.empty()) fail(Kind::file, "{}: a PyTorch file without a tensor", file.path());
  list.members = std::move(members);
  return list;
}

void refuse_old_torch(const std::string& path, std::string_view begin) {
  // Before 1.6: five pickles, the first a magic number; before 0.1.10: a tar archive.
  const bool pickle = begin.size() > 2 && begin[0] == '\x80' && begin[1] >= 2 && begin[1] <= 5;
  const bool tar = begin.size() >= 262 && begin.substr(257, 5) == "ustar";
  if (pickle || tar)
    fail(Kind::file, "{}: {}; the format of PyTorch before 1.6 is not supported: re-save it with a current torch, torch.save(torch.load(...), ...)",
         path, tar ? "a tar archive" : "a bare pickle");
}

}  // namespace facet
