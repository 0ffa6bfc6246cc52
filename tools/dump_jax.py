#!/usr/bin/env python3
"""What DeepMind's `gemma` library (flax) computes with the weights of a Hugging Face Gemma 3 folder, as a reference for `facet check`.

    python3 tools/dump_jax.py --model DIR --out ref.safetensors [--ids 2,105,2364] [--grads]
    facet check blocks --model DIR --ref ref.safetensors

Needs gemma (with jax, flax), numpy, safetensors. Runs in f32 on the CPU. Module outputs are stored under their flax paths.
"""
import argparse
import glob
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
from gemma.gm.nn import _config, _gemma, _modules, _transformer
from safetensors import safe_open
from safetensors.numpy import save_file


def weights(folder):
    out = {}
    for path in glob.glob(os.path.join(folder, "*.safetensors")):
        with safe_open(path, "flax") as f:  # flax reads bf16 where numpy cannot
            for name in f.keys():
                out[name.removeprefix("language_model.").removeprefix("model.")] = np.asarray(f.get_tensor(name), dtype=np.float32)
    return out


def parameters(c, w):
    """The tree that the library's Transformer takes."""
    H, d, h = c["num_attention_heads"], c["hidden_size"], c["head_dim"]

    def heads(x):
        return x.reshape(-1, h, d).transpose(0, 2, 1)  # [n*h, d] -> [n, d, h]

    tree = {"embedder": {"input_embedding": w["embed_tokens.weight"]}, "final_norm": {"scale": w["norm.weight"]}}
    for i in range(c["num_hidden_layers"]):
        def at(name):
            return w[f"layers.{i}.{name}.weight"]

        q, k, v = (heads(at(f"self_attn.{p}_proj")) for p in "qkv")
        attention = {"attn_vec_einsum": {"w": at("self_attn.o_proj").reshape(d, H, h).transpose(1, 2, 0)},
                     "_query_norm": {"scale": at("self_attn.q_norm")}, "_key_norm": {"scale": at("self_attn.k_norm")}}
        if q.shape[0] == k.shape[0]:
            attention["qkv_einsum"] = {"w": np.stack([q, k, v])}
        else:
            attention["q_einsum"], attention["kv_einsum"] = {"w": q}, {"w": np.stack([k, v])}
        tree[f"layer_{i}"] = {
            "attn": attention,
            "mlp": {"gating_einsum": np.stack([at("mlp.gate_proj"), at("mlp.up_proj")]), "linear": at("mlp.down_proj").T},
            "pre_attention_norm": {"scale": at("input_layernorm")}, "post_attention_norm": {"scale": at("post_attention_layernorm")},
            "pre_ffw_norm": {"scale": at("pre_feedforward_layernorm")}, "post_ffw_norm": {"scale": at("post_feedforward_layernorm")}}
    return tree


def transformer(c):
    rope = c.get("rope_parameters") or {}
    linear = (c.get("rope_scaling") or {}).get("factor") or rope.get("full_attention", {}).get("factor", 1.0)
    scalar = c.get("query_pre_attn_scalar", c["head_dim"])
    how = _config.QueryPreAttentionNormalisation
    return _transformer.Transformer(dtype=jnp.float32, config=_config.TransformerConfig(
        num_embed=c["vocab_size"], embed_dim=c["hidden_size"], hidden_dim=c["intermediate_size"], num_heads=c["num_attention_heads"],
        head_dim=c["head_dim"], num_kv_heads=c["num_key_value_heads"], final_logit_softcap=None, attn_logits_soft_cap=None,
        use_post_attn_norm=True, use_post_ffw_norm=True, use_qk_norm=True, transpose_gating_einsum=True,
        attention_types=_config.make_attention_layers_types(_gemma.GEMMA3_ATTENTION_PATTERN, num_layers=c["num_hidden_layers"]),
        query_pre_attn_norm=how.BY_ONE_OVER_SQRT_HEAD_DIM if scalar == c["head_dim"] else how.BY_ONE_OVER_SQRT_EMBED_DIM_DIV_NUM_HEADS,
        sliding_window_size=c["sliding_window"], local_base_frequency=10_000, global_base_frequency=1_000_000, global_scale_factor=float(linear)))


def module_outputs(tree, prefix=""):
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from module_outputs(value, prefix + name + "/")
        elif name == "__call__":
            last = value[-1]
            last = last[1] if isinstance(last, tuple) and len(last) == 2 else last
            if prefix and hasattr(last, "shape"):
                yield prefix.rstrip("/"), np.asarray(last)
            if prefix.endswith("mlp/") and len(value) > 1:  # the gating product shares the module's scope
                yield prefix + "gating_einsum_out", np.asarray(value[0])


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", required=True)
    p.add_argument("--out", required=True)
    p.add_argument("--ids", help="comma-separated token ids; default: a fixed pseudo-random row")
    p.add_argument("--grads", action="store_true", help="also the loss and its gradients, under flax names")
    args = p.parse_args()
    with open(os.path.join(args.model, "config.json")) as f:
        c = json.load(f)
    c = c.get("text_config", c)
    ids = ([int(i) for i in args.ids.split(",")] if args.ids
           else [2] + np.random.default_rng(0).integers(3, c["vocab_size"], 3 * c["sliding_window"] - 1).tolist())
    tokens = jnp.asarray([ids], jnp.int32)
    tree = jax.tree.map(jnp.asarray, parameters(c, weights(args.model)))
    model = transformer(c)
    result, extra = model.apply({"params": tree}, tokens, capture_intermediates=True, mutable=["intermediates"])
    values = {"input_ids": np.asarray(tokens, np.int32), "attention_mask": np.ones_like(np.asarray(tokens), np.int32),
              "logits": np.asarray(result.logits, np.float32)}
    values.update(module_outputs(extra["intermediates"]))

    def loss(parameters):
        z = model.apply({"params": parameters}, tokens).logits[:, :-1].astype(jnp.float32)
        return -jnp.take_along_axis(jax.nn.log_softmax(z), tokens[:, 1:, None], -1).mean()

    if args.grads:
        value, gradient = jax.value_and_grad(loss)(tree)
        values["loss"] = np.asarray(value, np.float32)
        for path, x in jax.tree_util.tree_leaves_with_path(gradient):
            keys = [str(k.key) for k in path]
            leaf = [] if keys[-1] in ("w", "scale", "input_embedding") else ["w"]
            values["grad.transformer/" + "/".join(keys + leaf)] = np.asarray(x, np.float32)
    save_file({k: np.ascontiguousarray(v, np.float32 if v.dtype != np.int32 else np.int32) for k, v in values.items()}, args.out)
    print(f"{args.out}: {len(values)} tensors")


if __name__ == "__main__":
    main()
