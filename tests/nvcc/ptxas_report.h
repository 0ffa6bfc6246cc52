// What ptxas says of every kernel (nvcc -Xptxas -v), and the budgets it is held to (tensor/gpu/budgets.txt).
#pragma once
#include <map>
#include <string>
#include <tuple>
#include <vector>

struct KernelUse {
  std::string file;      ///< rms_norm: of tensor/gpu/rms_norm.cu
  std::string arch;      ///< sm_90a
  std::string function;  ///< norm_rows<float, 4>; without namespaces and parameters
  bool kernel = true;    ///< false: a function that was not inlined
  int registers = 0, shared = 0, stack = 0, spill = 0;  ///< a thread's registers; bytes: static of a block, and of a thread
};
/// Functions in order of appearance. Throws std::runtime_error for text that does not read as a report.
std::vector<KernelUse> parse_ptxas(const std::string& file, const std::string& text);

struct Budget {
  int registers = 0, shared = 0, stack = 0;
};
using Budgets = std::map<std::pair<std::string, std::string>, Budget>;  ///< by file and function
Budgets parse_budgets(const std::string& text);
std::string print_budgets(const Budgets&);

/// The budgets of what was measured: registers rounded up to what the hardware hands out (8 a thread), shared memory as it is. Stack stays
/// what `before` grants: a person decides that.
Budgets budgets_of(const std::vector<KernelUse>&, const Budgets& before);

/// One sentence for each spill, each stack frame and each exceeded or missing budget on sm_90a, and each budget without a kernel.
std::vector<std::string> complaints(const std::vector<KernelUse>&, const Budgets&);

/// docs/kernels.md.
std::string kernels_page(const std::vector<KernelUse>&, const std::string& nvcc_version);
