#include "app/conformance/goldens.h"

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "tensor/error.h"

namespace facet::app {
namespace fs = std::filesystem;

Goldens::Goldens() {
  std::error_code none;
  const fs::path temporary = fs::temp_directory_path(none);
  std::string pattern = (temporary / "facet-goldens-XXXXXX").string();
  if (none || !mkdtemp(pattern.data()))
    fail(Kind::environment, "no folder for temporary files can be made in {}; set TMPDIR to one that is writable", temporary.string());
  folder_ = pattern;
  for (const EmbeddedFile& f : embedded_goldens()) {
    const fs::path path = fs::path(folder_) / f.path;
    fs::create_directories(path.parent_path(), none);
    std::ofstream file(path, std::ios::binary);
    file.write(f.begin, f.end - f.begin);
    file.close();
    if (file) continue;
    remove();
    fail(Kind::environment, "{}: cannot write {} bytes; set TMPDIR to a folder with room", path.string(), f.end - f.begin);
  }
}

Goldens::~Goldens() { remove(); }

void Goldens::remove() noexcept {
  std::error_code ignored;
  fs::remove_all(folder_, ignored);
}

}  // namespace facet::app
