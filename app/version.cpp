#include "app/version.h"

#include <fmt/core.h>
#include <sys/utsname.h>

#include <fstream>

#include "git_hash.h"  // written by cmake/git_hash.cmake at every build

namespace facet::app {

std::string version() {
  const std::string hash = FACET_GIT_HASH;
  return std::string(FACET_VERSION) + (hash.empty() ? "" : " (" + hash + ")");
}

std::string build_notes() {
#if defined(__clang__)
  const std::string compiler = "clang " __clang_version__;
#else
  const std::string compiler = "gcc " __VERSION__;
#endif
  return compiler + ", " FACET_BUILD_TYPE ", CUDA " FACET_CUDA_AT_BUILD;
}

std::string library_versions() { return FACET_LIBRARIES; }

std::string system_name() {
  utsname u{};
  std::string out = uname(&u) == 0 ? fmt::format("{} {} {}", u.sysname, u.release, u.machine) : "unknown";
  std::ifstream release("/etc/os-release");
  for (std::string line; std::getline(release, line);)
    if (line.rfind("PRETTY_NAME=\"", 0) == 0) out += ", " + line.substr(13, line.size() - 14);
  return out;
}

}  // namespace facet::app
