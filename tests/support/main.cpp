#define CATCH_CONFIG_RUNNER
#include <catch2/catch.hpp>

#include "tensor/parallel.h"

int main(int argc, char** argv) {
  facet::spin_briefly(argv);
  return Catch::Session().run(argc, argv);
}
