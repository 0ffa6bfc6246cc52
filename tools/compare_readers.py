#!/usr/bin/env python3
"""Damaged files before our readers and before the libraries that own the formats: we may refuse more, never less.

    python3 tools/compare_readers.py build/facet [--count 500] [--seed 1] [safetensors] [npy] [npz] [torch] [config] [tokenizer]

Makes COUNT damaged copies of a small good file of each format and lists those that facet reads and the library refuses. The libraries:
safetensors, numpy, torch, sentencepiece, and for config.json Python's own json, as transformers reads it (a format whose library is
missing is skipped, by name). Exit code 1 when we are laxer.
"""
import argparse
import json
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


def npy(path):
    import numpy

    return numpy.load(path, allow_pickle=False)


def npz(path):
    import numpy

    with numpy.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def torch(path):
    import torch

    return torch.load(path, weights_only=True)


def config(path):
    return json.loads(path.read_text(encoding="utf-8"))


def tokenizer(path):
    import sentencepiece

    return sentencepiece.SentencePieceProcessor(model_file=str(path))


def convert(facet, path, out):
    return [facet, "convert", "-q", path, out, "--to", "npz"]


# File name, and the command that reads it here.
KINDS = {
    "safetensors": ("file.safetensors", convert),
    "npy": ("file.npy", convert),
    "npz": ("file.npz", convert),
    "torch": ("file.pt", convert),
    "config": ("config.json", lambda facet, path, out: [facet, "inspect", "config", path.parent]),
    "tokenizer": ("tokenizer.model", lambda facet, path, out: [facet, "init", "-q", out, "--tokenizer", path]),
}


def make(facet, kind, path):
    if kind in ("config", "tokenizer"):
        if kind == "tokenizer":
            import sentencepiece  # so that one without it is told before, not at the first file

            assert sentencepiece
        model = path.parent / "model"
        subprocess.run([facet, "init", "-q", model, "--tokenizer", "char:0123456789()=."], check=True, capture_output=True)
        shutil.copy(model / path.name, path)
        shutil.rmtree(model)
        return
    values = {"a.b": [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]], "c": [1.0, 2.0, 3.0]}
    if kind == "torch":
        import torch

        torch.save({"state_dict": {name: torch.tensor(v) for name, v in values.items()}, "step": 3}, path)
        return
    import numpy

    arrays = {name: numpy.array(v, numpy.float32) for name, v in values.items()}
    if kind == "npy":
        numpy.save(path, arrays["a.b"])
    elif kind == "npz":
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
    parser.add_argument("kinds", nargs="*", choices=[*KINDS, []], default=[])
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    laxer = 0
    scratch = pathlib.Path(tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
    for kind in args.kinds or KINDS:
        name, command = KINDS[kind]
        path = scratch / name
        try:
            make(args.facet, kind, path)
        except ImportError as e:
            print(f"{kind}: skipped, {e}")
            continue
        good = path.read_bytes()
        rng = random.Random(args.seed)
        both = stricter = only_here = 0
        for i in range(-1, args.count):
            path.write_bytes(good if i < 0 else damaged(good, rng))
            try:
                globals()[kind](path)
                theirs = ""
            except Exception as e:
                theirs = f"{type(e).__name__}: {e}".splitlines()[0][:120]
            out = scratch / "out"
            shutil.rmtree(out, ignore_errors=True)
            ours = subprocess.run(command(args.facet, path, out), capture_output=True, text=True, errors="replace")
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
