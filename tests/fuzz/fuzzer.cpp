// A libFuzzer program for one target: FACET_FUZZ names it.
#include "tests/fuzz/target.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const facet::fuzz::Target& target = *facet::fuzz::find_target(FACET_FUZZ);
  facet::fuzz::run(target, std::string(reinterpret_cast<const char*>(data), size));
  return 0;
}
