#!/usr/bin/env python3
"""Records what llama.cpp predicts for a GGUF: golden files for the engine's tests.

    golden.py MODEL.gguf -o FILE.golden [--text FILE | --seed N] [--positions N] [--context N] [--top-k K] [--noise]
    golden.py MODEL.gguf --greedy N "PROMPT" ... [--prompts FILE] [--chat] [-o FILE.tsv]

Formats, and the commands that made the committed files, are in README.md.
"""

import argparse
import json
import sys
from pathlib import Path

import blake3
import numpy as np
from jinja2.sandbox import ImmutableSandboxedEnvironment

import golden_file
import llama_cpp
from llama_cpp_model import Model, Settings

# More than the 256 positions that the agreement is defined over, and past the engine's attention chunk of 256.
POSITIONS = 288


def random_tokens(seed, n_tokens, n_vocab):
    """Returns `n_tokens` ids in `0..n_vocab`: SplitMix64 from `seed`, modulo `n_vocab`."""
    mask = (1 << 64) - 1
    state, tokens = seed & mask, []
    for _ in range(n_tokens):
        state = (state + 0x9E3779B97F4A7C15) & mask
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        tokens.append((z ^ (z >> 31)) % n_vocab)
    return tokens


def hash_file(path):
    """Returns the BLAKE3 hash of the file, 32 bytes."""
    return blake3.blake3().update_mmap(path).digest()


def render_chat(model, question):
    """Returns `question` as a conversation of one message, in the model's own chat template."""
    template = llama_cpp.llama_model_chat_template(model.model, None)
    if template is None:
        raise ValueError("the model has no chat template")
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    messages = [{"role": "user", "content": question}]
    return environment.from_string(template.decode()).render(
        messages=messages, add_generation_prompt=True, bos_token="", eos_token=""
    )


def record_logits(args):
    """Writes the golden file of one sequence, and reports llama.cpp's own noise if asked."""
    settings = Settings(n_ctx=args.context, n_threads=args.threads)
    model = Model(args.model, settings)
    if args.text:
        tokens = model.tokenize(args.text.read_text())
        if len(tokens) < args.positions:
            raise ValueError(f"{args.text}: expected at least {args.positions} tokens, got {len(tokens)}")
        tokens = tokens[: args.positions]
    else:
        tokens = random_tokens(args.seed, args.positions, model.n_vocab)
    logits = model.logits(tokens)
    golden = golden_file.from_logits(logits, tokens, hash_file(args.model), model.n_ctx, args.top_k)
    golden_file.write(args.output, golden)
    back = golden_file.read(args.output)
    entropy = -(np.exp(golden_file.log_softmax(logits)) * golden_file.log_softmax(logits)).sum(-1)
    rounding = golden_file.kl_divergence(*golden_file.with_rest(back, golden_file.log_softmax(logits)))
    print(
        f"{args.output}: {len(tokens)} positions, {model.n_vocab} tokens, context {model.n_ctx}, "
        f"{args.output.stat().st_size} bytes, entropy {entropy.mean():.3f} nat, "
        f"logits' deviation {logits.std(axis=-1).mean():.3f}, KL by rounding {rounding.mean():.1e}"
    )
    if args.noise:
        report_noise(args, logits, tokens)


def report_noise(args, logits, tokens):
    """Prints how far llama.cpp is from itself when only the order of its arithmetic changes."""
    base = golden_file.log_softmax(logits)
    variants = [
        ("one by one", Settings(args.context, args.threads), True),
        ("flash attention", Settings(args.context, args.threads, flash_attention=True), False),
        ("repacked", Settings(args.context, args.threads, repack=True), False),
    ]
    for name, settings, one_by_one in variants:
        other = golden_file.log_softmax(Model(args.model, settings).logits(tokens, one_by_one))
        kl = golden_file.kl_divergence(base, other)
        same = (base.argmax(-1) == other.argmax(-1)).mean()
        print(f"  {name}: KL mean {kl.mean():.2e} max {kl.max():.2e}, top 1 the same {100 * same:.1f} %")


def record_greedy(args):
    """Writes one line for each prompt: ids, continuation's ids, margin, prompt and continuation as JSON strings."""
    n_tokens, prompts = int(args.greedy[0]), args.greedy[1:]
    if args.prompts:
        prompts += [line for line in args.prompts.read_text().splitlines() if line]
    if not prompts:
        raise ValueError("--greedy: expected a prompt after the number of tokens, or --prompts")
    model = Model(args.model, Settings(n_ctx=args.context, n_threads=args.threads))
    lines = [f"# blake3 {hash_file(args.model).hex()}"]
    for prompt in prompts:
        text = render_chat(model, prompt) if args.chat else prompt
        ids = model.tokenize(text)
        made = model.greedy(ids, n_tokens)
        columns = [
            " ".join(map(str, ids)),
            " ".join(map(str, made.ids)),
            f"{made.margin:.4f}",
            json.dumps(prompt, ensure_ascii=False),
            json.dumps(made.text, ensure_ascii=False),
        ]
        lines.append("\t".join(columns))
        print(f"{prompt!r} -> {made.text!r} ({len(made.ids)} tokens, margin {made.margin:.3f})", file=sys.stderr)
    text = "\n".join(lines) + "\n"
    if args.output:
        args.output.write_text(text)
    else:
        print(text, end="")


def main():
    """Parses the arguments and records what they ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--seed", type=int, default=1, help="of the token sequence")
    parser.add_argument("--text", type=Path, help="take the sequence from this text instead")
    parser.add_argument("--positions", type=int, default=POSITIONS)
    parser.add_argument("--context", type=int, default=512, help="positions that llama.cpp prepares for")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--top-k", type=int, default=0, help="keep only the best K (0: the full distribution)")
    parser.add_argument("--noise", action="store_true", help="also compare llama.cpp with itself")
    parser.add_argument("--greedy", nargs="+", metavar=("N", "PROMPT"), help="continue each PROMPT by N tokens")
    parser.add_argument("--prompts", type=Path, help="more prompts, one a line")
    parser.add_argument("--chat", action="store_true", help="put each prompt into the model's chat template")
    args = parser.parse_args()
    if args.greedy:
        record_greedy(args)
    elif args.output is None:
        parser.error("expected -o FILE.golden")
    else:
        record_logits(args)


if __name__ == "__main__":
    main()
