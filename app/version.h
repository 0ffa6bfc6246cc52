#pragma once
#include <string>

namespace facet::app {

std::string version();            ///< "0.1.0 (a1b2c3d4)", with "+" when built from changed files
std::string build_notes();        ///< compiler, build type, CUDA found or not
std::string library_versions();   ///< those of the build
std::string system_name();        ///< kernel and distribution, as running

}  // namespace facet::app
