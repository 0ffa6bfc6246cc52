#!/usr/bin/env python3
"""Damaged files before our readers and before the libraries that own the formats: we may refuse more, never less.

    python3 tools/compare_readers.py build/facet [--count 500] [--seed 1] [safetensors] [npz] [torch]

Makes COUNT damaged copies of a small good file of each format and lists those that `facet convert` reads and the library refuses.
Needs numpy and safetensors; torch for torch (a format whose library is missing is skipped, by name). Exit code 1 when we are laxer.
"""
import argparse
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile


def safetensors(path):
    from safetensors.numpy import load_file

    return load_file(path)


def npz(path):
    import numpy

    with numpy.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def torch(path):
    import torch

    return torch.load(path, weights_only=True)


def make(kind, path):
    values = {"a.b": [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]], "c": [1.0, 2.0, 3.0]}
    if kind == "torch":
        import torch

        torch.save({"state_dict": {name: torch.tensor(v) for name, v in values.items()}, "step": 3}, path)
        return
    import numpy

    arrays = {name: numpy.array(v, numpy.float32) for name, v in values.items()}
    if kind == "npz":
        numpy.savez(path, **arrays)
    else:
        from safetensors.numpy import save_file

        save_file(arrays, path, metadata={"format": "np"})


def damaged(good, rng):
    data = bytearray(good)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        at = rng.randrange(len(data))
        what = rng.randrange(6)
        if what == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif what == 1:
            data[at] = rng.choice([0, 1, 127, 128, 255, ord("0"), ord("9"), ord("-")])
        elif what == 2:
            del data[at : at + rng.randrange(1, 9)]
        elif what == 3:
            data[at:at] = rng.randbytes(rng.randrange(1, 9))
        elif what == 4:
            data[at : at + 4] = rng.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f"])
        else:
            del data[at:]
        if not data:
            break
    return bytes(data)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("facet")
    parser.add_argument("kinds", nargs="*", default=["safetensors", "npz", "torch"])
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    laxer = 0
    scratch = pathlib.Path(tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
    for kind in args.kinds:
        suffix = {"safetensors": ".safetensors", "npz": ".npz", "torch": ".pt"}[kind]
        try:
            make(kind, scratch / ("good" + suffix))
        except ImportError as e:
            print(f"{kind}: skipped, {e}")
            continue
        good = (scratch / ("good" + suffix)).read_bytes()
        rng = random.Random(args.seed)
        both = stricter = only_here = 0
        for i in range(-1, args.count):
            path = scratch / ("file" + suffix)
            path.write_bytes(good if i < 0 else damaged(good, rng))
            try:
                globals()[kind](path)
                theirs = ""
            except Exception as e:
                theirs = f"{type(e).__name__}: {e}".splitlines()[0][:120]
            out = scratch / "out"
            shutil.rmtree(out, ignore_errors=True)
            ours = subprocess.run([args.facet, "convert", "-q", path, out, "--to", "npz"], capture_output=True, text=True)
            if i < 0 and (theirs or ours.returncode != 0):
                sys.exit(f"{kind}: the good file is refused: {theirs or ours.stderr}")
            if ours.returncode not in (0, 3):
                sys.exit(f"{kind}: exit code {ours.returncode} for damaged file {i}: {ours.stderr}")
            both += ours.returncode == 0 and not theirs
            stricter += ours.returncode != 0 and not theirs
            if ours.returncode == 0 and theirs:
                only_here += 1
                print(f"{kind}: damaged file {i} (--seed {args.seed}) is read here; the library says {theirs}")
        print(f"{kind}: {args.count} damaged files, {both} read by both, {stricter} refused only here, {only_here} read only here")
        laxer += only_here
    shutil.rmtree(scratch)
    sys.exit(1 if laxer else 0)


main()
