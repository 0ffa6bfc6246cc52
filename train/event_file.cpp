#include "train/event_file.h"

#include <bit>
#include <charconv>
#include <chrono>
#include <cstring>
#include <filesystem>

#include "tensor/error.h"
#include "tensor/io/crc32c.h"

namespace facet {
namespace fs = std::filesystem;
namespace {

constexpr std::string_view file_prefix = "events.out.tfevents.";

static_assert(std::endian::native == std::endian::little, "records are little-endian");
template <class T>
std::string bytes_of(T value) {
  std::string out(sizeof value, '\0');
  std::memcpy(out.data(), &value, sizeof value);
  return out;
}

std::string masked_crc(std::string_view bytes) {
  const uint32_t crc = crc32c(bytes.data(), bytes.size());
  return bytes_of(std::rotr(crc, 15) + 0xa282ead8u);
}

// Protobuf: fields in any order, each a key (number and how its value is laid out) and the value.
enum Layout : uint64_t { varint = 0, eight_bytes = 1, counted = 2, four_bytes = 5 };

std::string as_varint(uint64_t v) {
  std::string out;
  for (; v >= 0x80; v >>= 7) out += static_cast<char>(v | 0x80);
  return out + static_cast<char>(v);
}
std::string field(uint64_t number, Layout layout) { return as_varint(number << 3 | layout); }
std::string integer(uint64_t number, int64_t v) { return field(number, varint) + as_varint(static_cast<uint64_t>(v)); }
std::string real64(uint64_t number, double v) { return field(number, eight_bytes) + bytes_of(v); }
std::string real32(uint64_t number, double v) { return field(number, four_bytes) + bytes_of(static_cast<float>(v)); }
std::string bytes(uint64_t number, std::string_view v) { return field(number, counted) + as_varint(v.size()) + std::string(v); }  // texts and messages, too

// message Event { double wall_time = 1; int64 step = 2; string file_version = 3; Summary summary = 5; SessionLog session_log = 7; }
std::string event(double wall, int64_t step, uint64_t what, std::string_view content) {
  return real64(1, wall) + integer(2, step) + bytes(what, content);
}

double wall_now() { return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count(); }

}  // namespace

std::string tf_record(std::string_view payload) {
  const std::string length = bytes_of(static_cast<uint64_t>(payload.size()));
  return length + masked_crc(length) + std::string(payload) + masked_crc(payload);
}

std::string version_event(double wall) { return real64(1, wall) + bytes(3, "brain.Event:2"); }

// message SessionLog { enum { START = 1; } status = 1; }
std::string restart_event(double wall, int64_t step) { return event(wall, step, 7, integer(1, 1)); }

// message Summary { repeated Value value = 1; }   message Value { string tag = 1; float simple_value = 2; TensorProto tensor = 8; SummaryMetadata metadata = 9; }
std::string scalars_event(double wall, int64_t step, const std::string& prefix, const std::map<std::string, double>& values) {
  std::string summary;
  for (const auto& [name, v] : values) summary += bytes(1, bytes(1, prefix + name) + real32(2, v));
  return event(wall, step, 5, summary);
}

// message TensorProto { DataType dtype = 1 (DT_STRING 7); TensorShapeProto tensor_shape = 2; bytes string_val = 8; }
// message SummaryMetadata { PluginData plugin_data = 1 { string plugin_name = 1; } }
std::string text_event(double wall, int64_t step, const std::string& tag, std::string_view text) {
  const std::string tensor = integer(1, 7) + bytes(2, "") + bytes(8, text);
  return event(wall, step, 5, bytes(1, bytes(1, tag) + bytes(8, tensor) + bytes(9, bytes(1, bytes(1, "text")))));
}

void EventFile::restart(int64_t step) {
  file_.reset();
  restart_ = step;
}

void EventFile::add(const std::string& payload) {
  if (!file_) {
    make_folders(folder_);
    auto name = static_cast<int64_t>(wall_now());
    std::error_code none;
    for (fs::directory_iterator i(folder_, none), end; !none && i != end; i.increment(none)) {
      const std::string other = i->path().filename().string();
      int64_t number = 0;
      if (!other.starts_with(file_prefix)) continue;
      std::from_chars(other.data() + file_prefix.size(), other.data() + other.size(), number);
      name = std::max(name, number + 1);  // two starts within a second, or a clock that was set back
    }
    const std::string path = fmt::format("{}/{}{:010}.facet", folder_, file_prefix, name);
    std::string first = tf_record(version_event(wall_now()));
    if (restart_) first += tf_record(restart_event(wall_now(), *restart_));
    try {
      file_.emplace(path);
      file_->append(first);
    } catch (...) {  // not an empty file for every step that a full disk lasts
      file_.reset();
      fs::remove(path, none);
      throw;
    }
  }
  file_->append(tf_record(payload));
}

void EventFile::scalars(int64_t step, const std::string& prefix, const std::map<std::string, double>& values) {
  add(scalars_event(wall_now(), step, prefix, values));
}

void EventFile::text(int64_t step, const std::string& tag, std::string_view text) { add(text_event(wall_now(), step, tag, text)); }

}  // namespace facet
