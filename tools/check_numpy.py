#!/usr/bin/env python3
"""Whether NumPy reads an .npz of ours as the safetensors it was made of.

    facet convert model folder --to npz
    python3 tools/check_numpy.py folder/model.npz model/model.safetensors

NumPy has no bf16; such arrays are two raw bytes, which ml_dtypes names. Needs numpy, safetensors, ml_dtypes.
"""
import sys

import ml_dtypes  # gives NumPy the name "bfloat16"
import numpy as np
from safetensors.numpy import load_file

arrays, tensors = np.load(sys.argv[1]), load_file(sys.argv[2])
assert set(arrays.files) == set(tensors), sorted(set(arrays.files) ^ set(tensors))[:5]
for name, want in tensors.items():
    got = arrays[name]
    if got.dtype.kind == "V":
        got = got.view(ml_dtypes.bfloat16)
    assert got.dtype == want.dtype and got.shape == want.shape, (name, got.dtype, got.shape, want.dtype, want.shape)
    assert got.tobytes() == want.tobytes(), name
print(f"{sys.argv[1]}: NumPy {np.__version__} reads {len(tensors)} arrays, all equal")
