// Libraries that are not there, are broken, or lack what is asked of them.
#include "tensor/gpu/cuda_library.h"

#include <catch2/catch.hpp>

#include "tests/support/temp_folder.h"

namespace facet::test {

TEST_CASE("cuda library: one that does not load, or has another version's functions, says so") {
  const TempFolder folder;
  const std::string junk = folder.write("libjunk.so", "no library");
  void (*f)() = nullptr;

  gpu::CudaLibrary absent({"libfacet-absent.so.1", "libfacet-absent.so"});
  CHECK_THAT(absent.why_not(), Catch::Contains("does not load (") && Catch::Contains("libfacet-absent.so"));
  absent.get(f, "anything");
  CHECK(!f);
  CHECK_THAT(absent.why_not(), Catch::Contains("does not load ("));  // the cause, not what followed from it

  CHECK_THAT(gpu::CudaLibrary({junk.c_str()}).why_not(), Catch::Contains("does not load (") && Catch::Contains("libjunk.so"));

  gpu::CudaLibrary other({junk.c_str(), "libm.so.6"});  // the next name serves
  CHECK(other.why_not().empty());
  other.get(f, "cos");
  CHECK(f);
  other.get(f, "facet_of_another_version");
  CHECK(other.why_not() == "has no function facet_of_another_version");
}

}  // namespace facet::test
