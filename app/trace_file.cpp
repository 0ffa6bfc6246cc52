#include "app/trace_file.h"

#include <nlohmann/json.hpp>

#include <unistd.h>

#include <algorithm>
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

const char* category_of(TraceEvent::Kind kind) {
  switch (kind) {
    case TraceEvent::Kind::step: return "step";
    case TraceEvent::Kind::phase: return "phase";
    case TraceEvent::Kind::module: return "module";
    case TraceEvent::Kind::operation: return "operation";
    case TraceEvent::Kind::backward: return "backward";
    case TraceEvent::Kind::kernel: return "kernel";
    case TraceEvent::Kind::memory: break;
  }
  return "memory";
}

// Source: "Trace Event Format", Google. X: an event with a duration; C: a counter; tid: the row it is drawn in. Times in microseconds, kept to
// nanoseconds. Names are those of the source and need no escapes.
std::string line_of(const TraceEvent& e) {
  const double begin = 1e6 * e.begin, duration = 1e6 * (e.end - e.begin);
  if (e.kind == TraceEvent::Kind::memory) return fmt::format(R"({{"name":"memory","ph":"C","pid":1,"ts":{:.3f},"args":{{"bytes":{}}}}})", begin, e.value);
  std::string args;
  if (e.kind == TraceEvent::Kind::step) args = fmt::format(R"(,"args":{{"step":{}}})", e.value);
  else if (*e.where) args = fmt::format(R"(,"args":{{"module":"{}"}})", e.where);
  return fmt::format(R"({{"name":"{}{}","cat":"{}","ph":"X","pid":1,"tid":{},"ts":{:.3f},"dur":{:.3f}{}}})", e.name,
                     e.kind == TraceEvent::Kind::backward ? " backward" : "", category_of(e.kind), e.on_device ? 2 : 1, begin, duration, args);
}

void write_trace(const std::string& path, std::span<const TraceEvent> events) {
  DurableFile file(path);
  file.write(fmt::format(R"({{"displayTimeUnit":"ms","otherData":{{"facet":{}}},"traceEvents":[)", nlohmann::json(version()).dump()));
  file.write("\n" R"({"name":"process_name","ph":"M","pid":1,"args":{"name":"facet"}})");
  const auto name_row = [&](int tid, const char* name) {
    file.write(fmt::format(",\n" R"({{"name":"thread_name","ph":"M","pid":1,"tid":{},"args":{{"name":"{}"}}}})", tid, name));
  };
  name_row(1, "host");
  if (std::any_of(events.begin(), events.end(), [](const TraceEvent& e) { return e.on_device; })) name_row(2, "GPU");
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
  o.add("profile", path, "write what happened when (phases, modules, operations and their backward, kernels, memory) as a trace for chrome://tracing or ui.perfetto.dev").metavar("FILE").transient();
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
