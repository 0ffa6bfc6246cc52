#include "app/trace_file.h"

#include <nlohmann/json.hpp>

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "app/version.h"
#include "tensor/error.h"
#include "tensor/io/durable.h"
#include "tensor/io/text.h"
#include "tensor/trace.h"

namespace facet::app {
namespace {

// Source: "Trace Event Format", Google. X: an event with a duration; C: a counter. Times in microseconds, kept to nanoseconds.
std::string line_of(const TraceEvent& e) {
  const double begin = 1e6 * e.begin, duration = 1e6 * (e.end - e.begin);
  switch (e.kind) {
    case TraceEvent::Kind::memory: return fmt::format(R"({{"name":"memory","ph":"C","pid":1,"ts":{:.3f},"args":{{"bytes":{}}}}})", begin, e.value);
    case TraceEvent::Kind::step:
      return fmt::format(R"({{"name":"step","cat":"step","ph":"X","pid":1,"tid":1,"ts":{:.3f},"dur":{:.3f},"args":{{"step":{}}}}})", begin, duration, e.value);
    default:
      return fmt::format(R"({{"name":"{}","cat":"{}","ph":"X","pid":1,"tid":1,"ts":{:.3f},"dur":{:.3f}}})", e.name,
                         e.kind == TraceEvent::Kind::phase ? "phase" : "kernel", begin, duration);
  }
}

void write_trace(const std::string& path, std::span<const TraceEvent> events) {
  DurableFile file(path);
  file.write(fmt::format(R"({{"displayTimeUnit":"ms","otherData":{{"facet":{}}},"traceEvents":[)", nlohmann::json(version()).dump()));
  file.write("\n" R"({"name":"process_name","ph":"M","pid":1,"args":{"name":"facet"}})");
  std::string piece;
  for (const TraceEvent& e : events) {
    piece += ",\n" + line_of(e);
    if (piece.size() < 1 << 20) continue;
    file.write(piece);
    piece.clear();
  }
  file.write(piece + "\n]}\n");
  file.commit();
}

}  // namespace

void declare_profile(Options& o, std::string* path) {
  o.add("profile", path, "write what happened when, phases and kernels and memory, as a trace for chrome://tracing or ui.perfetto.dev").metavar("FILE").transient();
}

TraceFile::TraceFile(std::string path, Device device, Console& console) : path_(std::move(path)), console_(console) {
  if (path_.empty()) return;
  const std::string folder = std::filesystem::absolute(path_).parent_path().string();
  if (std::filesystem::is_directory(path_)) fail(Kind::usage, "--profile {}: is a folder, name a file", path_);
  if (access(folder.c_str(), W_OK) != 0) fail(Kind::environment, "--profile {}: cannot write: {}", path_, std::strerror(errno));
  trace_start(device);
}

TraceFile::~TraceFile() {
  if (path_.empty()) return;
  try {
    const auto events = trace_stop();
    write_trace(path_, events);
    console_.note("wrote {} events to {}{}", grouped(events.size()), path_, trace_full() ? "; later steps did not fit" : "");
  } catch (const std::exception& e) {
    console_.warn("{}", e.what());
  }
}

}  // namespace facet::app
