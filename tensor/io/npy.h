// NumPy's files: .npy holds one array, .npz is a zip of them. An array is
//   "\x93NUMPY", version, header length, a Python dict {'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), } and the data.
// Types that execute code when NumPy reads them (objects), structures and big-endian data are refused. NumPy has no bf16: it
// writes the arrays of ml_dtypes, which JAX uses, as two-byte raw data ("V2"), and so do we; two raw bytes are read as BF16.
// Source: numpy/lib/format.py, versions 1.0 to 3.0.
#pragma once
#include <string>

#include "tensor/io/tensor_files.h"
#include "tensor/io/tensor_source.h"

namespace facet {

/// Whether a file begins as .npy does.
bool is_npy(std::span<const uint8_t> begin);
/// The one tensor of a .npy file, under the name "array".
TensorList list_npy(const InputFile&);
/// The tensors of a .npz file, whose directory was read already. Packed members may unpack to 16 MiB + twice the file.
TensorList list_npz(const InputFile&, std::vector<ZipMember>);

void save_npy(const std::string& path, const Tensor&);
/// Writes one .npz file, tensor by tensor, durably, not packed (floating-point weights do not shrink). np.load opens it.
void save_npz(const std::string& path, const std::vector<TensorSpec>&, const TensorSource&);
inline void save_npz(const std::string& path, NamedTensorSpan tensors) { save_npz(path, specs_of(tensors), source_of(tensors)); }

}  // namespace facet
