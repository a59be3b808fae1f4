"""llama.cpp as the reference: deterministic logits, tokens and greedy continuations of one GGUF.

Uses the low-level interface of `llama-cpp-python`, since the high-level one hides the settings that matter here:
plain CPU buffers (no repacked weights), F16 KV cache, flash attention off, one sequence, a fixed number of threads.
"""

import ctypes
import sys
from dataclasses import dataclass

import llama_cpp
import numpy as np


@dataclass(frozen=True)
class Settings:
    """How llama.cpp runs. The defaults are the ones that golden files are made with."""

    n_ctx: int = 512
    n_threads: int = 1
    flash_attention: bool = False
    repack: bool = False


@dataclass
class Continuation:
    """A greedy continuation.

    - `ids`: generated tokens, the one that ended it included
    - `text`: their text, without the token that ended it
    - `margin`: smallest difference between the two best logits over all steps
    """

    ids: list
    text: str
    margin: float


@llama_cpp.llama_log_callback
def _log_errors_only(level, text, _user_data):
    if level == 4:
        print(text.decode(errors="replace"), end="", file=sys.stderr)


class Model:
    """One loaded GGUF and one context."""

    def __init__(self, path, settings=Settings()):
        llama_cpp.llama_log_set(_log_errors_only, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        params = llama_cpp.llama_model_default_params()
        params.use_mmap = True
        params.use_extra_bufts = settings.repack
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        if not self.model:
            raise ValueError(f"{path}: llama.cpp does not load it")
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)
        self.n_vocab = llama_cpp.llama_vocab_n_tokens(self.vocab)
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = settings.n_ctx
        params.n_threads = params.n_threads_batch = settings.n_threads
        params.flash_attn_type = 1 if settings.flash_attention else 0
        params.type_k = params.type_v = llama_cpp.GGML_TYPE_F16
        params.n_seq_max = 1
        self.ctx = llama_cpp.llama_init_from_model(self.model, params)
        if not self.ctx:
            raise ValueError(f"{path}: llama.cpp makes no context of {settings.n_ctx} positions")
        self.n_ctx = llama_cpp.llama_n_ctx(self.ctx)

    def forget(self):
        """Empties the KV cache."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.ctx), True)

    def decode(self, tokens, position, all_rows=True):
        """Evaluates `tokens` from `position`; returns logits `[n_tokens or 1, n_vocab]`."""
        n_tokens = len(tokens)
        batch = llama_cpp.llama_batch_init(n_tokens, 0, 1)
        batch.n_tokens = n_tokens
        for i, token in enumerate(tokens):
            batch.token[i] = int(token)
            batch.pos[i] = position + i
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = 0
            batch.logits[i] = all_rows or i == n_tokens - 1
        status = llama_cpp.llama_decode(self.ctx, batch)
        llama_cpp.llama_batch_free(batch)
        if status != 0:
            raise RuntimeError(f"llama_decode of {n_tokens} tokens at {position} returned {status}")
        n_rows = n_tokens if all_rows else 1
        logits = llama_cpp.llama_get_logits(self.ctx)
        return np.ctypeslib.as_array(logits, shape=(n_rows, self.n_vocab)).copy()

    def logits(self, tokens, one_by_one=False):
        """Returns the logits after each token of a new sequence, `[n_tokens, n_vocab]`."""
        self.forget()
        if not one_by_one:
            return self.decode(tokens, 0)
        return np.concatenate([self.decode([token], i) for i, token in enumerate(tokens)])

    def tokenize(self, text, add_special=True):
        """Returns the token ids of `text`; special tokens are recognised in it."""
        data = text.encode()
        n_max = len(data) + 16
        ids = (llama_cpp.llama_token * n_max)()
        n = llama_cpp.llama_tokenize(self.vocab, data, len(data), ids, n_max, add_special, True)
        if n < 0:
            raise RuntimeError(f"llama_tokenize wants room for {-n} tokens, got {n_max}")
        return list(ids[:n])

    def piece(self, token):
        """Returns the bytes of one token; special tokens are empty."""
        buffer = ctypes.create_string_buffer(256)
        n = llama_cpp.llama_token_to_piece(self.vocab, token, buffer, len(buffer), 0, False)
        return buffer.raw[:n]

    def greedy(self, prompt, n_tokens):
        """Continues `prompt` with the most probable tokens until the model ends or `n_tokens` are made."""
        self.forget()
        n_tokens = min(n_tokens, self.n_ctx - len(prompt))
        row = self.decode(prompt, 0, all_rows=False)[0]
        ids, text, margin = [], b"", float("inf")
        for _ in range(n_tokens):
            token = int(row.argmax())
            second, first = np.partition(row, -2)[-2:]
            margin = min(margin, float(first - second))
            ids.append(token)
            if llama_cpp.llama_vocab_is_eog(self.vocab, token):
                break
            text += self.piece(token)
            if len(ids) < n_tokens:
                row = self.decode([token], len(prompt) + len(ids) - 1)[0]
        return Continuation(ids, text.decode(errors="replace"), margin)
