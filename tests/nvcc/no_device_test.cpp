// What the program says where --device cuda cannot work, with a driver that plays each part.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cstdlib>

#include "tests/app/process.h"
#include "tests/support/temp_folder.h"

namespace facet::test {

TEST_CASE("no device: one message each, with the cause and what to do, and the exit code of the environment", "[nvcc]") {
  const TempFolder folder;
  struct Driver {
    const char *plays, *cause, *advice;
  };
  for (const Driver& d : {Driver{"none", "the NVIDIA driver is missing", "install one for CUDA"},
                          {"old", "the NVIDIA driver is too old, it serves CUDA 11.4", "install one for CUDA"},
                          {"no device", "the driver sees no GPU (cudaErrorNoDevice)", "check nvidia-smi and CUDA_VISIBLE_DEVICES"},
                          {"broken", "the driver does not start", "use --device cpu"}}) {
    INFO(d.plays);
    const std::string log = folder / "log";
    const int code = run_process({"bench", "op", "--device", "cuda"}, log, [&] {
      ::setenv("LD_LIBRARY_PATH", std::string(FACET_FAKE_DRIVER).substr(0, std::string(FACET_FAKE_DRIVER).rfind('/')).c_str(), 1);
      ::setenv("FAKE_DRIVER", d.plays, 1);
      ::unsetenv("FACET_GPU");
    });
    const std::string said = content_of(log);
    CHECK(code == static_cast<int>(Kind::environment));
    CHECK_THAT(said, Catch::Contains("facet: --device cuda: ") && Catch::Contains(d.cause) && Catch::Contains(d.advice) && Catch::Contains("--device cpu"));
    CHECK(std::count(said.begin(), said.end(), '\n') == 1);
  }
}

}  // namespace facet::test
