"""Trains the demonstration model on the CPU.

    python train.py --out /tmp/shoal-demo [--steps 2200] [--threads 2]

Writes `checkpoint.pt` (weights, merges, hyper-parameters) to the output folder and the losses to
training-log.csv beside this file. Everything is seeded: the same versions of Python, NumPy and PyTorch on the
same kind of processor give the same model.

The loss counts the assistant's tokens only. Most of the single-turn answers are cut after their first tokens:
once an answer has begun there is little left to learn from its end, and the time is better spent on questions.
"""

import argparse
import csv
import dataclasses
import json
import random
import time
from collections import Counter
from pathlib import Path

import torch
from torch.nn import functional as F

from bpe import Tokenizer, train_merges
from corpus import Corpus
from model import Hparams, Model

HERE = Path(__file__).parent
SEED = 20
TOKENS_PER_BATCH = 2048
POOL = 768
LEARNING_RATE = 1.5e-3
WEIGHT_DECAY = 0.1
DROPOUT = 0.1
CUT_SHARE = 0.8
CUT_TOKENS = 12
BPE_DROPOUT_SHARE = 0.25
BPE_DROPOUT = 0.1
IGNORE = -100


def build_tokenizer(corpus: Corpus, n_vocab: int) -> Tokenizer:
    """Trains the vocabulary on a fixed draw of questions, on every answer and on the template's words."""
    rng = random.Random(SEED)
    texts = Counter()
    for _ in range(60_000):
        texts[corpus.turn(rng).question] += 1
    for topic in corpus.topics.values():
        texts[topic.answer] += 400
    for system in corpus.systems:
        texts[system] += 50
    for role in ("system\n", "user\n", "assistant\n"):
        texts[role] += 10_000
    return Tokenizer(train_merges(texts, n_vocab - 256 - 3))


class Sampler:
    """Turns conversations into ids and targets."""

    def __init__(self, corpus: Corpus, tokenizer: Tokenizer, seed: int):
        self.corpus = corpus
        self.tokenizer = tokenizer
        self.rng = random.Random(seed)
        self.newline = tokenizer.encode("\n")

    def question_ids(self, text: str) -> list[int]:
        dropout = BPE_DROPOUT if self.rng.random() < BPE_DROPOUT_SHARE else 0.0
        return self.tokenizer.encode("user\n" + text, dropout, self.rng)

    def sample(self) -> tuple[list[int], list[int]]:
        """Returns the ids of one conversation and, shifted by one, what each position has to predict."""
        tok = self.tokenizer
        system, turns = self.corpus.conversation(self.rng)
        ids: list[int] = []
        is_target: list[bool] = []

        def add(part, counts):
            ids.extend(part)
            is_target.extend([counts] * len(part))

        if system is not None:
            add([tok.im_start, *tok.encode("system\n" + system), tok.im_end, *self.newline], False)
        for turn in turns:
            add([tok.im_start, *self.question_ids(turn.question), tok.im_end, *self.newline], False)
            add([tok.im_start, *tok.encode("assistant\n")], False)
            answer = [*tok.encode(turn.answer), tok.im_end]
            if len(turns) == 1 and self.rng.random() < CUT_SHARE:
                answer = answer[:CUT_TOKENS]
            add(answer, True)
            add(self.newline, False)
        targets = [token if counts else IGNORE for token, counts in zip(ids, is_target)]
        return ids[:-1], targets[1:]

    def batches(self):
        """Yields batches of similar length, right-padded, of about TOKENS_PER_BATCH tokens each, for ever."""
        limit = Hparams.n_ctx_train
        while True:
            pool = [(ids[:limit], targets[:limit]) for ids, targets in (self.sample() for _ in range(POOL))]
            pool.sort(key=lambda pair: len(pair[0]))
            groups, group = [], []
            for pair in pool:
                if group and (len(group) + 1) * len(pair[0]) > TOKENS_PER_BATCH:
                    groups.append(group)
                    group = []
                group.append(pair)
            groups.append(group)
            self.rng.shuffle(groups)
            for group in groups:
                yield pad(group, self.tokenizer.end_of_text)


def pad(group, fill: int):
    """Stacks rows of ids and targets, `[n_rows, n_tokens]` each."""
    width = max(len(ids) for ids, _ in group)
    ids = torch.full((len(group), width), fill, dtype=torch.long)
    targets = torch.full((len(group), width), IGNORE, dtype=torch.long)
    for row, (row_ids, row_targets) in enumerate(group):
        ids[row, : len(row_ids)] = torch.tensor(row_ids)
        targets[row, : len(row_targets)] = torch.tensor(row_targets)
    return ids, targets


def loss_of(model: Model, ids, targets):
    """Mean cross entropy over the positions that have a target."""
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model(ids)
        wanted = targets != IGNORE
        logits = model.logits(hidden[wanted])
    return F.cross_entropy(logits.float(), targets[wanted])


def validation_batches(corpus: Corpus, tokenizer: Tokenizer):
    """Encodes the development questions, which are not in the corpus, with the answers of their topics."""
    newline = tokenizer.encode("\n")
    rows = []
    for item in json.loads((HERE / "dev-questions.json").read_text(encoding="utf-8")):
        head = [tokenizer.im_start, *tokenizer.encode("user\n" + item["question"]), tokenizer.im_end, *newline]
        head += [tokenizer.im_start, *tokenizer.encode("assistant\n")]
        answer = [*tokenizer.encode(corpus.topics[item["topic"]].answer), tokenizer.im_end]
        ids = head + answer
        targets = [IGNORE] * len(head) + answer
        rows.append((ids[:-1], targets[1:]))
    return [pad(rows[start : start + 32], tokenizer.end_of_text) for start in range(0, len(rows), 32)]


@torch.no_grad()
def validation_loss(model: Model, batches) -> float:
    """Mean loss per batch of the development questions."""
    model.eval()
    losses = [loss_of(model, ids, targets).item() for ids, targets in batches]
    model.train()
    return sum(losses) / len(losses)


def learning_rate(step: int, n_steps: int) -> float:
    """Rises over the first 100 steps, stays, and falls to zero over the last 60 % (a trapezoid)."""
    rise = min(1.0, (step + 1) / 100)
    fall = min(1.0, (n_steps - step) / (0.6 * n_steps))
    return LEARNING_RATE * rise * fall


def train(args):
    torch.manual_seed(SEED)
    torch.set_num_threads(args.threads)
    corpus = Corpus()
    hparams = Hparams()
    start = time.monotonic()
    tokenizer = build_tokenizer(corpus, hparams.n_vocab)
    print(f"vocabulary: {len(tokenizer.tokens)} tokens, {time.monotonic() - start:.0f} s", flush=True)
    model = Model(hparams, DROPOUT)
    print(f"parameters: {sum(weight.numel() for weight in model.parameters())}", flush=True)
    matrices = [weight for weight in model.parameters() if weight.dim() == 2]
    vectors = [weight for weight in model.parameters() if weight.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}],
        lr=LEARNING_RATE,
        betas=(0.9, 0.98),
        fused=True,
    )
    held_out = validation_batches(corpus, tokenizer)
    batches = Sampler(corpus, tokenizer, SEED + 1).batches()
    args.out.mkdir(parents=True, exist_ok=True)
    with open(args.log, "w", newline="", encoding="utf-8") as log:
        writer = csv.writer(log, lineterminator="\n")
        writer.writerow(["step", "tokens", "train_loss", "validation_loss"])
        n_tokens, recent = 0, []
        for step in range(args.steps):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, args.steps)
            ids, targets = next(batches)
            loss = loss_of(model, ids, targets)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            n_tokens += ids.numel()
            recent.append(loss.item())
            if (step + 1) % args.every == 0 or step + 1 == args.steps:
                held = validation_loss(model, held_out)
                mean = sum(recent) / len(recent)
                recent.clear()
                writer.writerow([step + 1, n_tokens, f"{mean:.4f}", f"{held:.4f}"])
                log.flush()
                seconds = time.monotonic() - start
                print(f"{step + 1} {n_tokens} train {mean:.4f} validation {held:.4f} {seconds:.0f} s", flush=True)
                save(args.out / "checkpoint.pt", model, tokenizer)


def save(path: Path, model: Model, tokenizer: Tokenizer):
    """Writes everything that the export needs."""
    torch.save(
        {
            "hparams": dataclasses.asdict(model.hparams),
            "merges": tokenizer.merges,
            "weights": {name: weight.detach().clone() for name, weight in model.named_parameters()},
        },
        path,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint")
    parser.add_argument("--log", type=Path, default=HERE / "training-log.csv", help="file for the losses")
    parser.add_argument("--steps", type=int, default=2200, help="optimiser steps")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--every", type=int, default=100, help="steps between two lines of the log")
    train(parser.parse_args())
