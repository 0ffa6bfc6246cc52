// A folder for the files of one test, removed with it. In memory where there is a place for that: syncing a disk hundreds of
// times would take seconds.
#pragma once
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "tensor/error.h"

namespace facet::test {

struct TempFolder {
  std::filesystem::path path;
  TempFolder() {
    static int n = 0;
    std::error_code ignored;
    const std::filesystem::path memory = "/dev/shm";
    path = (::access(memory.c_str(), W_OK) == 0 ? memory : std::filesystem::temp_directory_path()) /
           fmt::format("facet-test-{}-{}", ::getpid(), n++);
    std::filesystem::remove_all(path, ignored);
    std::filesystem::create_directories(path);
  }
  ~TempFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;

  std::string operator/(const std::string& name) const { return (path / name).string(); }
  std::string write(const std::string& name, const std::string& bytes) const {
    std::ofstream(path / name, std::ios::binary) << bytes;
    return *this / name;
  }
  size_t entries() const {
    return static_cast<size_t>(std::distance(std::filesystem::directory_iterator(path), std::filesystem::directory_iterator()));
  }
};

}  // namespace facet::test
