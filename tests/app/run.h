// Runs the built program.
#pragma once
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

struct Result {
  int code;
  std::string out, err;
};

/// `facet ARGS` through the shell, with variables like "A=1 B=2" in front; `input` is the file it reads.
inline Result run_facet(const std::string& args, const std::string& variables = "", const std::string& input = "/dev/null") {
  const std::string base = (std::filesystem::temp_directory_path() / ("facet-run-" + std::to_string(::getpid()))).string();
  const std::string command = variables + " " FACET_PROGRAM " " + args + " >" + base + ".out 2>" + base + ".err <" + input;
  const int status = std::system(command.c_str());
  const auto slurp = [](const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    std::string text{std::istreambuf_iterator<char>(file), {}};
    std::filesystem::remove(path);
    return text;
  };
  return {WIFEXITED(status) ? WEXITSTATUS(status) : 128, slurp(base + ".out"), slurp(base + ".err")};
}

/// A file of this name in a folder of its own, both gone at the end of the scope.
struct TempFile {
  TempFile(const std::string& name, const std::string& text) {
    static int count = 0;
    folder = (std::filesystem::temp_directory_path() / ("facet-test-" + std::to_string(::getpid()) + "-" + std::to_string(count++))).string();
    std::filesystem::create_directories(folder);
    path = folder + "/" + name;
    std::ofstream(path, std::ios::binary) << text;
  }
  ~TempFile() { std::filesystem::remove_all(folder); }
  TempFile(const TempFile&) = delete;
  std::string folder, path;
};
