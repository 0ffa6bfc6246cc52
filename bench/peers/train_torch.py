#!/usr/bin/env python3
"""Training steps of PyTorch (eager) on a small Gemma 3: the peer of `facet bench step`.

    python3 bench/peers/train_torch.py --threads 1
    build/facet bench step --threads 1       # the same shape, in the same minutes

Shape: the preset `tiny`, 340,848 parameters, f32, 128 rows of 24 tokens, AdamW, norm clipped at 1; --vocab 16 is the model of
the demo, 293,232 parameters. Prints the best and the median of the timed steps. Needs torch.
"""
import argparse
import statistics
import time

import torch
import torch.nn.functional as F
from torch import nn


class Norm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))

    def forward(self, x):
        return F.rms_norm(x, x.shape[-1:], 1 + self.weight, 1e-6)


def rotate(x, angles):  # [B, H, T, Dh]
    a, b = x.chunk(2, -1)
    cos, sin = angles
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


class Block(nn.Module):
    def __init__(self, c, base):
        super().__init__()
        self.c = c
        size = c.heads * c.head_dim
        self.q, self.k, self.v = (nn.Linear(c.width, n * c.head_dim, bias=False) for n in (c.heads, 1, 1))
        self.o = nn.Linear(size, c.width, bias=False)
        self.gate, self.up = (nn.Linear(c.width, c.hidden, bias=False) for _ in range(2))
        self.down = nn.Linear(c.hidden, c.width, bias=False)
        self.norms = nn.ModuleList(Norm(c.width) for _ in range(4))
        self.q_norm, self.k_norm = Norm(c.head_dim), Norm(c.head_dim)
        turn = torch.arange(c.tokens)[:, None] / base ** (torch.arange(0, c.head_dim, 2) / c.head_dim)
        self.angles = turn.cos(), turn.sin()

    def forward(self, x):
        c, (B, T, _) = self.c, x.shape
        h = self.norms[0](x)
        q, k, v = (p(h).view(B, T, -1, c.head_dim).transpose(1, 2) for p in (self.q, self.k, self.v))
        q, k = rotate(self.q_norm(q), self.angles), rotate(self.k_norm(k), self.angles)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=c.head_dim ** -0.5, enable_gqa=True)  # window > T
        x = x + self.norms[1](self.o(y.transpose(1, 2).reshape(B, T, -1)))
        h = self.norms[2](x)
        return x + self.norms[3](self.down(F.gelu(self.gate(h), approximate="tanh") * self.up(h)))


class Model(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.table = nn.Embedding(c.vocab, c.width)
        nn.init.normal_(self.table.weight, std=0.02)
        self.blocks = nn.ModuleList(Block(c, base) for base in (1e4, 1e4, 1e6))
        self.norm = Norm(c.width)

    def forward(self, ids, labels):
        x = self.table(ids) * self.table.embedding_dim ** 0.5
        for block in self.blocks:
            x = block(x)
        return F.cross_entropy((self.norm(x) @ self.table.weight.T).flatten(0, 1), labels.flatten())


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in dict(threads=1, batch=128, tokens=24, vocab=512, width=96, heads=4, head_dim=24, hidden=256, steps=60).items():
        p.add_argument("--" + name.replace("_", "-"), type=int, default=value)
    c = p.parse_args()
    torch.set_num_threads(c.threads)
    torch.manual_seed(0)
    model = Model(c)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    ids = torch.randint(0, c.vocab, (c.batch, c.tokens + 1))
    seconds = []
    for step in range(c.steps + 5):
        start = time.perf_counter()
        loss = model(ids[:, :-1], ids[:, 1:])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        loss.item()
        if step >= 5:
            seconds.append(time.perf_counter() - start)
    n, count = c.batch * c.tokens, sum(w.numel() for w in model.parameters())
    print(f"torch {torch.__version__} eager, {count:,} parameters, {c.batch} x {c.tokens} tokens, {c.threads} thread(s): "
          f"best {n / min(seconds):,.0f} tok/s, median {n / statistics.median(seconds):,.0f} tok/s")


if __name__ == "__main__":
    main()
