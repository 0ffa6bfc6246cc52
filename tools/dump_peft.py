#!/usr/bin/env python3
"""Adapters as PEFT writes them, with PEFT's numbers, for `facet check logits|grads --adapter`: what tests/goldens/peft holds.

    python3 tools/dump_peft.py --model tests/goldens/gemma3-tiny --out tests/goldens/peft

Makes OUT/KIND (adapter_config.json, adapter_model.safetensors) and OUT/KIND.safetensors (tokens, logits, loss, gradients) for every
kind below. Factors are random, B and A both away from zero. Needs what tools/dump_hf.py needs.
"""
import argparse
import os
import subprocess
import sys
import tempfile

import peft
import torch
import transformers
from safetensors.torch import load_file, save_file

KINDS = {
    "dora": dict(target_modules=["q_proj", "o_proj", "gate_proj", "down_proj"], layers_to_transform=[0, 5], r=2, lora_alpha=3, use_dora=True, use_rslora=True),
    "embedding": dict(target_modules=["embed_tokens", "o_proj"], r=2, lora_alpha=5),
    "ranks": dict(target_modules=["q_proj", "v_proj", "down_proj"], r=2, use_rslora=True, rank_pattern={"v_proj": 3},
                  alpha_pattern={"model.layers.1.mlp.down_proj": 20}),
}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", required=True, help="model folder")
    p.add_argument("--out", required=True)
    args = p.parse_args()
    dump = os.path.join(os.path.dirname(os.path.abspath(__file__)), "dump_hf.py")
    for kind, settings in KINDS.items():
        torch.manual_seed(7)
        base = transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
        model = peft.get_peft_model(base, peft.LoraConfig(task_type="CAUSAL_LM", **settings))
        with torch.no_grad():
            for w in model.parameters():
                if w.requires_grad:
                    w.add_(0.05 * torch.randn_like(w))
        folder = os.path.join(args.out, kind)
        model.save_pretrained(folder, save_embedding_layers=False)
        with tempfile.TemporaryDirectory() as scratch:
            numbers = os.path.join(scratch, "all.safetensors")
            subprocess.run([sys.executable, dump, "--model", args.model, "--adapter", folder, "--length", "20", "--grads", "--out", numbers], check=True)
            kept = {k: v for k, v in load_file(numbers).items() if k.startswith("grad.") or k in ("input_ids", "attention_mask", "logits", "loss")}
        save_file(kept, folder + ".safetensors")
        if os.path.exists(os.path.join(folder, "README.md")):
            os.remove(os.path.join(folder, "README.md"))  # a form to fill in


if __name__ == "__main__":
    main()
