#!/usr/bin/env python3
"""Small files as NumPy and PyTorch write them; readers are tested on what is beside this script.

    python3 make.py numpy      # numpy 2.5, ml_dtypes
    python3 make.py torch      # torch 2.15
"""
import collections
import sys


def with_numpy():
    import ml_dtypes
    import numpy as np

    a = np.arange(6, dtype=np.float32).reshape(2, 3)
    arrays = {"a": a, "tree/half": np.array([1, -2, 65504], np.float16), "tree/long": np.arange(4), "bf16": np.ones(3, ml_dtypes.bfloat16),
              "scalar": np.float64(0.5), "empty": np.zeros((0, 3), np.float32), "columns": np.asfortranarray(a)}
    np.savez("arrays.npz", **arrays)
    np.savez_compressed("packed.npz", **arrays)
    np.save("columns.npy", arrays["columns"])


def with_torch():
    import torch

    weight = torch.arange(6.0).reshape(2, 3)
    state = collections.OrderedDict(
        weight=weight, tied=weight, rows=weight[1:], turned=weight.T, scalar=torch.tensor(0.5), bf16=torch.ones(3, dtype=torch.bfloat16),
        half=torch.tensor([1, -2, 65504]).half(), long=torch.arange(4), parameter=torch.nn.Parameter(torch.ones(2)),
        freqs=torch.ones(2, dtype=torch.complex64))
    state._metadata = {"": {"version": 1}}
    torch.save({"model_state_dict": state, "step": 3, "big": 2**40, "lr": 1e-3, "list": [torch.zeros(1), None, True, torch.Size([2])],
                "dtype": torch.bfloat16, "device": torch.device("cpu")}, "torch.pt")
    torch.save(weight, "old.pt", _use_new_zipfile_serialization=False)


{"numpy": with_numpy, "torch": with_torch}[sys.argv[1]]()
