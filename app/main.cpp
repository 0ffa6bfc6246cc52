#include "app/program.h"
#include "tensor/parallel.h"

int main(int argc, char** argv) {
  facet::spin_briefly(argv);
  return facet::app::run_program({argv + 1, argv + argc});
}
