#include "tensor/io/json.h"

#include <vector>

#include "tensor/io/file.h"
#include "tensor/io/text.h"

namespace facet {

namespace {

// Builds the tree from parser events.
class Builder {
 public:
  Builder(std::string_view text, const std::string& where, Kind kind, const JsonLimits& limits)
      : text_(text), where_(where), kind_(kind), limits_(limits) {}

  Json run() {
    // The library takes a NUL for the end of the text and would pass over whatever is behind it.
    if (const size_t nul = text_.find('\0'); nul != text_.npos) error(nul, "a NUL byte");
    parse_json_events(text_, position_, *this);
    return std::move(root_);
  }

  bool null() { return add(nullptr); }
  bool boolean(bool v) { return add(v); }
  bool number_integer(int64_t v) { return add(v); }
  bool number_unsigned(uint64_t v) { return add(v); }
  bool number_float(double v, const std::string&) { return add(v); }
  bool string(std::string& v) { return add(std::move(v)); }
  bool binary(Json::binary_t&) { return false; }
  bool start_object(size_t) { return open(Json::object()); }
  bool start_array(size_t) { return open(Json::array()); }
  bool end_object() { return close(); }
  bool end_array() { return close(); }
  bool key(std::string& k) {
    const auto [at, fresh] = stack_.back()->get_ref<Json::object_t&>().emplace(std::move(k), nullptr);
    if (!fresh) error(position_, fmt::format("duplicate key \"{}\"", printable(at->first)));
    slot_ = &at->second;
    return true;
  }
  bool parse_error(size_t at, const std::string&, const nlohmann::detail::exception& e) {
    // "[json.exception.parse_error.101] parse error at line 1, column 5: what": only what.
    std::string_view what = e.what();
    const size_t colon = what.find(": ");
    if (colon != what.npos) what.remove_prefix(colon + 2);
    error(at, printable(what, 200));
  }

 private:
  [[noreturn]] void error(size_t at, const std::string& what) {
    fail(kind_, "{}: {} {}: {}", where_, limits_.place, at, what);
  }
  Json* place(Json&& v) {
    if (++values_ > limits_.values) error(position_, fmt::format("more than {} JSON values", limits_.values));
    if (stack_.empty()) return &(root_ = std::move(v));
    if (stack_.back()->is_object()) return &(*slot_ = std::move(v));
    auto& list = stack_.back()->get_ref<Json::array_t&>();
    list.push_back(std::move(v));
    return &list.back();
  }
  bool add(Json&& v) { return place(std::move(v)) != nullptr; }
  bool open(Json&& v) {
    if (stack_.size() >= limits_.depth) error(position_, fmt::format("nested deeper than {} levels", limits_.depth));
    stack_.push_back(place(std::move(v)));
    return true;
  }
  bool close() {
    stack_.pop_back();
    return true;
  }

  std::string_view text_;
  const std::string& where_;
  Kind kind_;
  JsonLimits limits_;
  size_t position_ = 0, values_ = 0;
  Json root_;
  std::vector<Json*> stack_;  // open containers; a parent's list does not grow while a child is open
  Json* slot_ = nullptr;      // where the value of the last key goes
};

}  // namespace

Json parse_json(std::string_view text, const std::string& where, Kind kind, const JsonLimits& limits) {
  return Builder(text, where, kind, limits).run();
}

Json read_json(const std::string& path, uint64_t limit_bytes, const JsonLimits& limits) {
  return parse_json(read_file(path, limit_bytes), path, Kind::file, limits);
}

const char* type_name(const Json& v) {
  switch (v.type()) {
    case Json::value_t::null: return "null";
    case Json::value_t::boolean: return "true or false";
    case Json::value_t::string: return "string";
    case Json::value_t::array: return "list";
    case Json::value_t::object: return "object";
    default: return "number";
  }
}

}  // namespace facet
