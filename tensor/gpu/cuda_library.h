// A library of NVIDIA's that the running program opens when it first needs it: who has none runs without it, and learns why.
#pragma once
#include <initializer_list>
#include <string>

namespace facet::gpu {

class CudaLibrary {
 public:
  /// The first of these names that opens, as the system finds it or in the folder of the toolkit this was built with. It is never closed: its
  /// threads may outlive main.
  explicit CudaLibrary(std::initializer_list<const char*> names);
  /// to = the function of this name.
  template <class F>
  void get(F*& to, const char* name) {
    to = reinterpret_cast<F*>(find(name));
  }
  /// Empty when it is open and has had all that was asked for; else a predicate: "does not load (...)".
  const std::string& why_not() const { return why_not_; }

 private:
  void* find(const char* name);
  void* handle_ = nullptr;
  std::string why_not_;
};

/// 91900 as "9.19.0".
std::string version_text(size_t version);

}  // namespace facet::gpu
