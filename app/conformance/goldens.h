// The smallest Gemma 3 and what the reference libraries compute with it: carried inside the program, so that a machine with a GPU
// needs nothing else.
#pragma once
#include <span>
#include <string>

namespace facet::app {

/// A file in the program's own data; app/CMakeLists.txt writes the list.
struct EmbeddedFile {
  const char *path, *begin, *end;
};
std::span<const EmbeddedFile> embedded_goldens();

/// Unpacked into a folder of their own, which goes when the object goes. Throws Error(Kind::environment) when it cannot be written.
class Goldens {
 public:
  Goldens();
  ~Goldens();
  Goldens(const Goldens&) = delete;

  std::string model() const { return folder_ + "/gemma3-tiny"; }
  /// "taps", "truth", "bf16" or "generate".
  std::string reference(const std::string& name) const { return folder_ + "/gemma3-tiny-ref/" + name + ".safetensors"; }

 private:
  void remove() noexcept;
  std::string folder_;
};

}  // namespace facet::app
