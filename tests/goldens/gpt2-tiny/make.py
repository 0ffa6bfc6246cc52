#!/usr/bin/env python3
"""A tiny GPT-2 with random weights, its logits, and gradients of its loss, by transformers in f64. Learned positions are tested on it.

    python3 make.py      # torch 2.15, transformers 5.23, safetensors: writes gpt2.safetensors beside it
"""
import torch
from safetensors.torch import save_file
from transformers import GPT2Config, GPT2LMHeadModel

torch.manual_seed(18)
config = GPT2Config(vocab_size=40, n_positions=12, n_embd=24, n_layer=2, n_head=3, attn_pdrop=0, embd_pdrop=0, resid_pdrop=0, initializer_range=0.3)
model = GPT2LMHeadModel(config).double()
with torch.no_grad():
    for name, p in model.named_parameters():
        if p.dim() == 1:  # biases and norms start at 0 and 1, which would hide a mistake
            p.add_(0.2 * torch.randn_like(p))
        p.copy_(p.float())  # what is stored is what was computed with
ids = torch.randint(0, config.vocab_size, (2, 9))
logits = model(ids).logits
loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())  # transformers' own goes through f32
loss.backward()
tensors = {"input_ids": ids.int(), "logits": logits.detach(), "loss": loss.detach()}
for name, p in model.named_parameters():
    tensors["weight." + name.removeprefix("transformer.")] = p.detach().float()
for name in ("wpe.weight", "wte.weight", "h.0.ln_1.bias"):
    tensors["grad." + name] = dict(model.transformer.named_parameters())[name].grad
save_file({k: v.contiguous() for k, v in tensors.items()}, "gpt2.safetensors")
