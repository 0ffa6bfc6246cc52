// JSON under limits, for .cpp files only (nlohmann/json.hpp is heavy; no header of ours may include this one).
// nlohmann's own parse keeps the last of two equal keys and knows no limits; here both are errors.
#pragma once
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "tensor/error.h"

namespace facet {

using Json = nlohmann::json;

struct JsonLimits {
  size_t depth = 64;
  size_t values = size_t{1} << 17;  ///< bounds the memory: a value of two bytes costs sixteen and more once parsed
  const char* place = "byte";       ///< what messages call a place in the text: "column" when it is one line
};

/// Strict JSON: well-formed UTF-8, no duplicate keys, nothing after the value. Throws Error(kind) with `where` (a file, or
/// file and line) and the byte offset in `text`.
Json parse_json(std::string_view text, const std::string& where, Kind kind = Kind::file, const JsonLimits& = {});
Json read_json(const std::string& path, uint64_t limit_bytes = uint64_t{16} << 20, const JsonLimits& = {});

/// "string", "number", "list", "object", "true or false", "null": for messages.
const char* type_name(const Json&);

/// Calls the events of `sax` (the interface of nlohmann::json_sax) for one JSON text. `position` follows the bytes consumed,
/// so that an event knows where it is; it must live as long as the call.
template <class Sax>
void parse_json_events(std::string_view text, size_t& position, Sax& sax);

// ---- implementation

namespace detail {

/// Reads characters and counts them.
struct CountingChars {
  using difference_type = std::ptrdiff_t;
  using value_type = char;
  using pointer = const char*;
  using reference = const char&;
  using iterator_category = std::input_iterator_tag;
  const char* at;
  size_t* count;
  reference operator*() const { return *at; }
  CountingChars& operator++() {
    ++at;
    ++*count;
    return *this;
  }
  CountingChars operator++(int) {
    CountingChars old = *this;
    ++*this;
    return old;
  }
  bool operator==(const CountingChars& o) const { return at == o.at; }
  bool operator!=(const CountingChars& o) const { return at != o.at; }
};

}  // namespace detail

template <class Sax>
void parse_json_events(std::string_view text, size_t& position, Sax& sax) {
  position = 0;
  size_t ignored = 0;
  Json::sax_parse(detail::CountingChars{text.data(), &position}, detail::CountingChars{text.data() + text.size(), &ignored}, &sax);
}

}  // namespace facet
