"""More strings and more conversations for the tokenizer goldens, by the libraries that made the first ones.

Writes nasty.json (strings -> sentencepiece ids) and conversations.json (chat template renderings), with
sentencepiece and transformers, beside an existing tokenizer.model.

    python3 tools/dump_tokenizer.py tests/goldens/tokenizer
"""
import json
import random
import sys

import sentencepiece as spm
import transformers
from transformers import GemmaTokenizer


def nasty_strings(count, seed=2026):
    """Random strings over alphabets that tokenizers find hard: emoji with joiners, right-to-left text, digits, runs of spaces, specials."""
    r = random.Random(seed)
    pools = ["abcdefgh ", "  \n\n\t", "0123456789 .,", "thecatriver ", "éÉ́‍️ßİıſ", "中文सत्तกั้", "😀👨‍👩‍👧🇦🇹🏽❤️",
             "<>_/buo ", "\x01\x1f\x7f\r", "▁\u00a0\u3000\u2003 ", "אבגاب\u200f\u202e ", "ǅﬁﷺ①Ω", "​﻿\u2028", "𝔘𝟘𐍈"]
    markers = ["<start_of_turn>", "<end_of_turn>", "<bos>", "<eos>", "<pad>", "<unk>", "<0x41>", "<b>", "</b>", "\n\n\n", "    ", " " * 17, "\t\t",
               "<start_of_image>", "<mask>", "3.14159", "1,000,000", "don't", "C++", "https://x.y/?z=1&w=%20", "\"}", "\\n"]
    out = []
    while len(out) < count:
        parts = []
        for _ in range(r.randrange(1, 6)):
            if r.random() < 0.25:
                parts.append(r.choice(markers))
            else:
                pool = r.choice(pools)
                parts.append("".join(r.choice(pool) for _ in range(r.randrange(1, 9))))
        out.append("".join(parts))
    return out


def conversations():
    u, m, s = (lambda t: {"role": "user", "content": t}), (lambda t: {"role": "assistant", "content": t}), (lambda t: {"role": "system", "content": t})
    parts = lambda *p: {"role": "user", "content": [{"type": "image"} if x is None else {"type": "text", "text": x} for x in p]}
    talk = [u("What is 12 + 30?"), m("42."), u("And twice that?"), m("84, of course."), u("Thanks!")]
    return [
        ([u("Hi")], True), ([u("Hi")], False), ([u("")], True), ([u("   \n\t ")], True), (talk[:1], True), (talk[:2], False), (talk[:3], True), (talk[:4], False),
        (talk, True), ([s("Be brief.")] + talk, True), ([s("  Be brief.  ")] + talk[:1], True), ([s("")] + talk[:1], True), ([s("a\n\nb")] + talk[:4], False),
        ([u("  leading"), m("trailing  "), u("\n both \n")], True), ([u("\u00a0no-break\u3000"), m("\u2003em\u2028")], False),
        ([u("<start_of_turn>model\nno<end_of_turn>"), m("yes")], False), ([u("<bos><eos>"), m("<pad>")], False), ([u("emoji 👨‍👩‍👧 🇦🇹"), m("❤️")], False),
        ([u("שלום عليكم"), m("‏ok")], False), ([u("line\nline\n\nline"), m("```\ncode\n```")], False), ([u("1" * 40), m("2 " * 20)], False),
        ([parts("look: ", None, " what is it?")], True), ([parts(None)], True), ([parts(None, None), m("two")], False), ([parts("a ", " b")], True),
        ([s("S"), parts("x", None)], True), ([u("x" * 300), m("y")], False), ([m("I begin")], False), ([u("a"), u("b")], False),
        ([u("a"), m("b"), m("c")], False), ([u("a"), m("b"), s("late")], False), ([{"role": "tool", "content": "b"}], False),
        ([{"role": "user", "content": "model?"}, {"role": "model", "content": "b"}], False),
    ]


def main():
    folder = sys.argv[1]
    sp = spm.SentencePieceProcessor(model_file=folder + "/tokenizer.model")
    hf = GemmaTokenizer.from_pretrained(folder, local_files_only=True)
    hf.chat_template = open(folder + "/chat_template.jinja").read()
    strings = nasty_strings(2000)
    rows = [[s, sp.encode(s, out_type=int)] for s in strings]
    assert all(sp.decode(ids) == s for s, ids in rows if "\u2581" not in s)  # that sign is how pieces spell a space
    with open(folder + "/nasty.json", "w") as f:
        f.write("[\n" + ",\n".join(json.dumps(r, separators=(",", ":")) for r in rows) + "\n]\n")
    cases = []
    for messages, prompt in conversations():
        case = {"messages": messages, "add_generation_prompt": prompt}
        try:
            case["text"] = hf.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
            case["ids"] = [sp.bos_id()] + sp.encode(case["text"][len("<bos>"):], out_type=int)
        except Exception as e:  # whatever the template raises: such a conversation must be refused
            case["error"] = type(e).__name__
        cases.append(case)
    with open(folder + "/conversations.json", "w") as f:
        f.write("[\n" + ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases) + "\n]\n")
    print(len(rows), "strings,", len(cases), "conversations,", sum("error" in c for c in cases), "refused; sentencepiece", spm.__version__, "transformers",
          transformers.__version__)


main()
