#!/usr/bin/env python3
"""Compares Shoal's predictions with llama.cpp's: mean and largest KL divergence, agreement of the best token.

    compare.py DUMP.golden MODEL.gguf [--threads N] [--repack]
    compare.py DUMP.golden REFERENCE.golden

DUMP is a golden file (README.md, "Format") that Shoal wrote. Against a GGUF, llama.cpp evaluates the dump's own
tokens in the dump's context length; this is the way for models too big for recorded values. The exit status is 1
where the mean KL divergence is not below `--limit`.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

import golden_file


def reference_of(args, dump):
    """Returns the reference's `Golden` for the dump's tokens."""
    if args.reference.suffix == ".golden":
        reference = golden_file.read(args.reference)
        if not np.array_equal(reference.tokens, dump.tokens) or reference.n_vocab != dump.n_vocab:
            raise ValueError(f"{args.reference}: holds other tokens than {args.dump}")
        if reference.model_hash != dump.model_hash:
            raise ValueError(f"{args.reference}: was made from another file than {args.dump}")
        return reference
    # Only this way needs the library.
    from golden import hash_file
    from llama_cpp_model import Model, Settings

    model_hash = hash_file(args.reference)
    if any(dump.model_hash) and model_hash != dump.model_hash:
        raise ValueError(f"{args.reference}: {args.dump} was made from another file")
    model = Model(args.reference, Settings(n_ctx=dump.n_ctx, n_threads=args.threads, repack=args.repack))
    if model.n_vocab != dump.n_vocab:
        raise ValueError(f"{args.dump}: expected {model.n_vocab} tokens in the vocabulary, got {dump.n_vocab}")
    return golden_file.from_logits(model.logits(dump.tokens), dump.tokens, model_hash, model.n_ctx)


def main():
    """Prints the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dump", type=Path)
    parser.add_argument("reference", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repack", action="store_true", help="let llama.cpp repack the weights")
    parser.add_argument("--limit", type=float, default=1e-3, help="on the mean KL divergence, in nats")
    args = parser.parse_args()
    dump = golden_file.read(args.dump)
    reference = reference_of(args, dump)
    if dump.ids is not None:
        if reference.ids is not None:
            raise ValueError("one of the two files must hold the full distribution")
        q, p = golden_file.with_rest(dump, reference.logprobs)
        best_q, best_p = dump.ids[:, 0], reference.logprobs.argmax(-1)
    else:
        p, q = golden_file.with_rest(reference, dump.logprobs)
        best_q = dump.logprobs.argmax(-1)
        best_p = reference.logprobs.argmax(-1) if reference.ids is None else reference.ids[:, 0]
    kl = golden_file.kl_divergence(p, q)
    print(
        f"{len(kl)} positions: KL(llama.cpp ‖ shoal) mean {kl.mean():.3e}, median {np.median(kl):.3e}, "
        f"max {kl.max():.3e} at {kl.argmax()}; top 1 the same {100 * (best_p == best_q).mean():.1f} %"
    )
    sys.exit(0 if kl.mean() < args.limit else 1)


if __name__ == "__main__":
    main()
