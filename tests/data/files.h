// A folder of its own for a test case; gone when the case ends.
#pragma once
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

class Files {
 public:
  Files() : folder_(std::filesystem::temp_directory_path() / ("facet_test_" + std::to_string(getpid()))) {
    std::filesystem::create_directories(folder_);
  }
  ~Files() { std::filesystem::remove_all(folder_); }
  Files(const Files&) = delete;
  Files& operator=(const Files&) = delete;

  std::string path(const std::string& name) const { return folder_ / name; }
  std::string write(const std::string& name, const std::string& bytes) const {
    std::filesystem::create_directories((folder_ / name).parent_path());
    std::ofstream(folder_ / name, std::ios::binary) << bytes;
    return folder_ / name;
  }

 private:
  std::filesystem::path folder_;
};
