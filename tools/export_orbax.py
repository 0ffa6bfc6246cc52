#!/usr/bin/env python3
"""An Orbax checkpoint of a Gemma (DeepMind's library, Kauldron, Tunix) as one file that `facet` reads.

    python3 tools/export_orbax.py CHECKPOINT weights.safetensors
    facet convert weights.safetensors folder          # with config.json beside it, unless it is a released size
    facet check logits --model folder --ref ref.safetensors

Names keep the checkpoint's spelling, joined by slashes: flat ("transformer/layer_0/attn/q_einsum/w"), nested, stacked, or a trainer's
state, of which only "params" is written. Values keep their dtype; .npz instead of .safetensors is written when OUT ends so.
Needs orbax-checkpoint, jax, numpy, safetensors. Reads everything into memory.
"""
import argparse
import os

import jax
import numpy as np
import orbax.checkpoint as ocp
from safetensors.numpy import save_file


def leaves(tree, path=()):
    """Depth first; dict keys may themselves hold slashes."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from leaves(value, path + (str(key),))
    elif isinstance(tree, (list, tuple)):
        for i, value in enumerate(tree):
            yield from leaves(value, path + (str(i),))
    elif tree is not None and tree is not ocp.PLACEHOLDER:
        yield "/".join(path), np.asarray(tree)


def restore(path):
    """The tree as NumPy arrays, whatever devices wrote it."""
    handler = ocp.PyTreeCheckpointer()
    metadata = handler.metadata(path)
    tree = getattr(metadata, "item_metadata", metadata)
    tree = getattr(tree, "tree", tree)
    is_leaf = lambda x: not isinstance(x, (dict, list, tuple))
    arguments = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree, is_leaf=is_leaf)
    return handler.restore(path, restore_args=arguments)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("checkpoint", help="folder that holds _METADATA")
    parser.add_argument("out", help=".safetensors or .npz")
    args = parser.parse_args()

    tree = restore(os.path.abspath(args.checkpoint))
    if isinstance(tree, dict) and "params" in tree:
        tree = {"params": tree["params"]}
    tensors = {name: np.ascontiguousarray(x) for name, x in leaves(tree)}
    if args.out.endswith(".npz"):
        np.savez(args.out, **tensors)
    else:
        save_file(tensors, args.out, metadata={"source": "orbax"})
    print(f"{args.out}: {len(tensors)} tensors, {sum(x.nbytes for x in tensors.values()):,} bytes")


if __name__ == "__main__":
    main()
