#!/usr/bin/env python3
"""What Hugging Face transformers computes with a Gemma folder, as a reference file for `facet check`.

    python3 tools/dump_hf.py --model DIR --out ref.safetensors [--text "..." ...] [--grads] [--generate 24]
    facet check blocks --model DIR --ref ref.safetensors
    python3 tools/dump_hf.py --model DIR --adapter ADAPTER --grads --out ref.safetensors      # with PEFT
    facet check grads --model DIR --adapter ADAPTER --ref ref.safetensors

Needs torch, transformers, safetensors (sentencepiece for --text, peft for --adapter). Runs in f32 on the CPU with eager attention. Without
--text the input is a fixed pseudo-random row of token ids, three windows long if the model has one.
"""
import argparse

import torch
import transformers
from safetensors.torch import save_file


def batch_of(model, args):
    config = model.config.get_text_config()
    if args.text:
        tokenizer = transformers.AutoTokenizer.from_pretrained(args.model)
        rows = [tokenizer(t)["input_ids"] for t in args.text]
    else:
        length = min(args.length or 3 * (getattr(config, "sliding_window", None) or 16), config.max_position_embeddings)
        generator = torch.Generator().manual_seed(0)
        rows = [[config.bos_token_id or 2] + torch.randint(3, config.vocab_size, (length - 1,), generator=generator).tolist()]
    longest = max(map(len, rows))
    ids = torch.tensor([r + [0] * (longest - len(r)) for r in rows])
    mask = torch.tensor([[1] * len(r) + [0] * (longest - len(r)) for r in rows])
    return ids, mask


def tap(model, store):
    """Hooks on the real modules; heads are stored as [B, T, heads, head_dim]."""
    inner = model.model.language_model if hasattr(model.model, "language_model") else model.model
    size = model.config.get_text_config().head_dim

    def heads(t):
        return t.unflatten(-1, (-1, size))

    def after(module, name, shape=lambda t: t):
        module.register_forward_hook(lambda m, a, r: store.__setitem__(name, shape(r[0] if isinstance(r, tuple) else r).detach()))

    def before(module, name, shape=lambda t: t):
        module.register_forward_pre_hook(lambda m, a: store.__setitem__(name, shape(a[0]).detach()))

    inner.layers[0].register_forward_pre_hook(
        lambda m, a, k: store.__setitem__("embed", (a[0] if a else k["hidden_states"]).detach()), with_kwargs=True)
    for i, layer in enumerate(inner.layers):
        n, attention = f"layers.{i}.", layer.self_attn
        four_norms = hasattr(layer, "pre_feedforward_layernorm")
        after(layer, n + "out")
        after(layer.input_layernorm, n + "input_norm")
        for part in "qkv":
            after(getattr(attention, part + "_proj"), n + part, heads)
        if hasattr(attention, "q_norm"):
            after(attention.q_norm, n + "q_normed", lambda t: t.transpose(1, 2))
            after(attention.k_norm, n + "k_normed", lambda t: t.transpose(1, 2))
        before(attention.o_proj, n + "attn", heads)
        after(attention.o_proj, n + "attn_out")
        after(layer.post_attention_layernorm, n + ("post_attn_norm" if four_norms else "pre_ffw_norm"))
        if four_norms:
            after(layer.pre_feedforward_layernorm, n + "pre_ffw_norm")
            after(layer.post_feedforward_layernorm, n + "post_ffw_norm")
        after(layer.mlp, n + "mlp")
    after(inner.norm, "final_norm")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", required=True)
    p.add_argument("--out", required=True)
    p.add_argument("--text", action="append", help="input text; may be repeated")
    p.add_argument("--length", type=int, help="tokens of the pseudo-random row")
    p.add_argument("--adapter", help="folder of a LoRA or DoRA adapter, put over the model by PEFT")
    p.add_argument("--grads", action="store_true", help="also loss gradients of every parameter")
    p.add_argument("--generate", type=int, default=0, metavar="N", help="also N greedy tokens with the cache, in FILE.generate")
    args = p.parse_args()

    model = transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32, attn_implementation="eager").eval()
    if args.adapter:
        import peft
        peft.PeftModel.from_pretrained(model, args.adapter, is_trainable=True).eval()  # changes the layers of `model` in place
    ids, mask = batch_of(model, args)
    values = {"input_ids": ids.int(), "attention_mask": mask.int()}
    taps = {}
    tap(model, taps)
    labels = torch.where(mask == 1, ids, -100)
    with torch.set_grad_enabled(args.grads):
        result = model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False)
        if args.grads:
            result.loss.backward()
    values.update(taps)
    values["logits"], values["loss"] = result.logits.detach(), result.loss.detach()
    if args.grads:
        for n, w in model.named_parameters():
            if w.grad is None:
                continue
            n = n.replace(".default", "").replace("lora_magnitude_vector.weight", "lora_magnitude_vector")
            values["grad." + n] = w.grad.T if n.endswith("lora_embedding_A") else w.grad  # Facet keeps rows of the vocabulary
    save_file({k: v.contiguous().clone() for k, v in values.items()}, args.out)
    print(f"{args.out}: {len(values)} tensors, loss {result.loss.item():.6f}")

    if args.generate:
        with torch.no_grad():
            g = model.generate(input_ids=ids[:1], attention_mask=mask[:1], max_new_tokens=args.generate, do_sample=False, eos_token_id=None,
                               output_logits=True, return_dict_in_generate=True)
        new = g.sequences[:, ids.shape[1]:]
        save_file({"prompt": ids[:1].int(), "mask": mask[:1].int(), "generated": new.int().contiguous(),
                   "logits": torch.stack(g.logits, 1).float().contiguous()}, args.out + ".generate")
        print(f"{args.out}.generate: {new.shape[1]} tokens")


if __name__ == "__main__":
    main()
