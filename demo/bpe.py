"""Byte-level BPE: training, encoding with optional dropout, and the GPT-2 byte alphabet.

Written for the demonstration model so that its vocabulary is reproducible from the corpus alone: the
trainer breaks ties by the order of the pair, never by hash order. The pre-tokenizer is the one that GGUF
files name `qwen2`; a reader that implements it splits text exactly as this file did in training.
"""

import random
from collections import Counter

import regex

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]

# The `qwen2` pre-tokenizer: contractions, words with one leading non-letter, single digits, punctuation, spaces.
PRETOKEN = regex.compile(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def byte_alphabet() -> list[str]:
    """Maps each byte to the printable character that stands for it in the vocabulary (GPT-2's table)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {byte: chr(byte) for byte in printable}
    fresh = 256
    for byte in range(256):
        if byte not in table:
            table[byte] = chr(fresh)
            fresh += 1
    return [table[byte] for byte in range(256)]


ALPHABET = byte_alphabet()


def to_symbols(text: str) -> list[str]:
    """Spells `text` in the byte alphabet, one symbol per UTF-8 byte."""
    return [ALPHABET[byte] for byte in text.encode("utf-8")]


def train_merges(texts: Counter, n_merges: int) -> list[tuple[str, str]]:
    """Learns `n_merges` merges from texts weighted by their counts."""
    words = Counter()
    for text, count in texts.items():
        for piece in PRETOKEN.findall(text):
            words[tuple(to_symbols(piece))] += count
    spellings = sorted(words)
    counts = [words[word] for word in spellings]
    spellings = [list(word) for word in spellings]

    pairs = Counter()
    where: dict[tuple[str, str], set[int]] = {}
    for idx, word in enumerate(spellings):
        for pair in zip(word, word[1:]):
            pairs[pair] += counts[idx]
            where.setdefault(pair, set()).add(idx)

    merges = []
    while len(merges) < n_merges:
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        if pairs[best] < 1:
            raise ValueError(f"corpus too small: {len(merges)} merges learnt, expected {n_merges}")
        merges.append(best)
        for idx in sorted(where[best]):
            word = spellings[idx]
            for pair in zip(word, word[1:]):
                pairs[pair] -= counts[idx]
                where[pair].discard(idx)
            word = merge_pair(word, best)
            spellings[idx] = word
            for pair in zip(word, word[1:]):
                pairs[pair] += counts[idx]
                where.setdefault(pair, set()).add(idx)
        del pairs[best]
    return merges


def merge_pair(word: list[str], pair: tuple[str, str]) -> list[str]:
    """Joins every occurrence of `pair` in `word`, left to right."""
    merged, idx = [], 0
    while idx < len(word):
        if idx + 1 < len(word) and (word[idx], word[idx + 1]) == pair:
            merged.append(word[idx] + word[idx + 1])
            idx += 2
        else:
            merged.append(word[idx])
            idx += 1
    return merged


class Tokenizer:
    """A vocabulary: 256 byte tokens, then one token per merge, then the special tokens."""

    def __init__(self, merges: list[tuple[str, str]]):
        self.merges = merges
        self.rank = {pair: idx for idx, pair in enumerate(merges)}
        self.tokens = ALPHABET + [left + right for left, right in merges] + SPECIAL
        self.ids = {token: idx for idx, token in enumerate(self.tokens)}
        if len(self.ids) != len(self.tokens):
            raise ValueError("two merges spell the same token")
        self.end_of_text, self.im_start, self.im_end = (self.ids[name] for name in SPECIAL)
        self.cache: dict[str, list[int]] = {}

    def encode_word(self, piece: str, dropout: float, rng: random.Random | None) -> list[int]:
        """Applies the merges to one pre-token; each candidate merge is skipped with chance `dropout`."""
        word = to_symbols(piece)
        while len(word) > 1:
            candidates = [
                pair
                for pair in zip(word, word[1:])
                if pair in self.rank and not (dropout and rng.random() < dropout)
            ]
            if not candidates:
                break
            word = merge_pair(word, min(candidates, key=self.rank.__getitem__))
        return [self.ids[symbol] for symbol in word]

    def encode(self, text: str, dropout: float = 0.0, rng: random.Random | None = None) -> list[int]:
        """Encodes text that holds no special tokens."""
        out = []
        for piece in PRETOKEN.findall(text):
            if dropout:
                out += self.encode_word(piece, dropout, rng)
                continue
            if piece not in self.cache:
                self.cache[piece] = self.encode_word(piece, 0.0, None)
            out += self.cache[piece]
        return out

    def decode(self, ids: list[int]) -> str:
        """Turns ids back into text; special tokens are left out."""
        byte = {symbol: value for value, symbol in enumerate(ALPHABET)}
        special = {self.end_of_text, self.im_start, self.im_end}
        data = bytes(byte[symbol] for idx in ids if idx not in special for symbol in self.tokens[idx])
        return data.decode("utf-8", errors="replace")
