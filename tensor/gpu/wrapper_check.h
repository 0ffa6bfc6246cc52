// The wrappers of tensor/gpu/device.h against their definitions, with random operands, on the device at hand: shuffles and votes as CUDA's guide
// has them, the rest as the PTX manual. On the emulator this tests the emulator. On a GPU it tells whether the instructions do what
// device_cuda.h and with it every kernel takes them to do, before a wrong sum somewhere has to be traced back to one of them.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace facet::gpu {

struct WrapperResult {
  std::string name;
  int64_t compared = 0, wrong = 0;
  std::string first;  ///< of those that are wrong
};
/// Every wrapper with so many cases, each a block of its own.
std::vector<WrapperResult> check_wrappers(uint64_t seed, int cases = 1000);

// ---- wrapper_check.cu: the kernels. A case reads and writes what is said in brackets; pointers are the device's.
namespace wrapper {

enum Shuffle : int32_t { index, up, down, exclusive_or };
struct ShuffleCase {
  int32_t kind, operand, width;
};
void shuffle(int cases, const ShuffleCase* how, const float* x, float* y);             ///< [32], [32]
void shuffle(int cases, const ShuffleCase* how, const int64_t* x, int64_t* y);
void votes(int cases, const uint32_t* lanes, uint32_t* y);                             ///< [1], [32][3]: ballot, any, all
void ldmatrix(int cases, const uint16_t* tiles, uint32_t* y);                          ///< [4][8][8], [32][8]: plain, then transposed
void mma(int cases, const uint16_t* a, const uint16_t* b, float* c);                   ///< bf16 [16][16], bf16 [16][8], [16][8]: c += a b
void copies(int cases, const int32_t* x, const uint32_t* valid, int32_t* y);           ///< [2][32][4], [2] a bit a lane, [2][32][4]
/// All cases together: values [64] a case. places [64] a case: each value once. totals [5] = sum, maximum, minimum, the value that came first plus 1,
/// the sum of what the last block (last_block.h) reads in places; they start as 0, -2^31, 2^31 - 1, 0, 0, and two counters of 0 follow them.
void atomics(int cases, const int32_t* values, int32_t* totals, int32_t* places);
void sums(int cases, const float* x, float* y);                                        ///< [64], [64][2]: block_sum, block_max
void numbers(int cases, const float* x, uint16_t* narrowed, float* y);                 ///< [32], [32], [32][3]: 2^x, 1 / |x|, 1 / sqrt|x|
/// `steps` overlapped kernels after one another, each of so many blocks of 64: y[i] = 3 x[n - 1 - i] + i, then x and y change places. hint_to_l2() is
/// for x. Each writes late, so that one that does not wait reads what has not been written. The result is in x for even numbers of steps.
void chain(int cases, int steps, int32_t* x, int32_t* y);

}  // namespace wrapper
}  // namespace facet::gpu
