"""Writes the trained model as GGUF, quantised as the files of phones are (Q4_K_M) or as F16.

    python export.py --checkpoint /tmp/shoal-demo/checkpoint.pt -o ../crates/hub/demo/shoal-demo.gguf
    python export.py --checkpoint /tmp/shoal-demo/checkpoint.pt -o /tmp/shoal-demo/f16.gguf --f16

Every packed tensor is unpacked again with the `gguf` package, which knows the layouts independently of
quantize.py; the relative error of each type is printed, and an error beyond what the type allows is fatal.
"""

import argparse
from collections import defaultdict
from pathlib import Path

import gguf
import numpy as np
import torch

import quantize
from bpe import SPECIAL, Tokenizer
from model import Hparams

QuantType = gguf.GGMLQuantizationType

NAME = "Shoal demonstration model"
LICENSE = "MIT OR Apache-2.0"
DESCRIPTION = "A very small model that answers questions about Shoal. Trained for this project on its own corpus."

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

PACK = {QuantType.Q4_K: quantize.q4_k, QuantType.Q6_K: quantize.q6_k, QuantType.Q8_0: quantize.q8_0}
# Relative root-mean-square error that a type may have on weights that are about normal.
ERROR_MAX = {QuantType.Q4_K: 0.09, QuantType.Q6_K: 0.025, QuantType.Q8_0: 0.008}


def tensor_type(name: str, n_layer: int) -> QuantType:
    """Chooses the type as Q4_K_M does; attn_k is Q8_0 so that the file exercises that type too."""
    if "norm" in name:
        return QuantType.F32
    if name == "token_embd.weight":
        return QuantType.Q6_K
    _, layer, kind, _ = name.split(".")
    layer = int(layer)
    if kind == "attn_k":
        return QuantType.Q8_0
    more_bits = layer < n_layer // 8 or layer >= 7 * n_layer // 8 or (layer - n_layer // 8) % 3 == 2
    if kind in ("attn_v", "ffn_down") and more_bits:
        return QuantType.Q6_K
    return QuantType.Q4_K


def write_metadata(writer: gguf.GGUFWriter, hparams: Hparams, tokenizer: Tokenizer, is_f16: bool):
    """Writes names, hyper-parameters, vocabulary and template."""
    writer.add_name(NAME)
    writer.add_description(DESCRIPTION)
    writer.add_license(LICENSE)
    writer.add_size_label("5M")
    writer.add_quantization_version(2)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16 if is_f16 else gguf.LlamaFileType.MOSTLY_Q4_K_M)
    writer.add_vocab_size(hparams.n_vocab)
    writer.add_context_length(hparams.n_ctx_train)
    writer.add_embedding_length(hparams.n_embd)
    writer.add_block_count(hparams.n_layer)
    writer.add_feed_forward_length(hparams.n_ff)
    writer.add_head_count(hparams.n_head)
    writer.add_head_count_kv(hparams.n_head_kv)
    writer.add_rope_dimension_count(hparams.head_dim)
    writer.add_rope_freq_base(hparams.rope_freq_base)
    writer.add_layer_norm_rms_eps(hparams.rms_eps)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokenizer.tokens)
    writer.add_token_types(
        [gguf.TokenType.CONTROL if token in SPECIAL else gguf.TokenType.NORMAL for token in tokenizer.tokens]
    )
    writer.add_token_merges([f"{left} {right}" for left, right in tokenizer.merges])
    writer.add_eos_token_id(tokenizer.im_end)
    writer.add_pad_token_id(tokenizer.end_of_text)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def export(checkpoint: Path, output: Path, is_f16: bool):
    state = torch.load(checkpoint, weights_only=True)
    hparams = Hparams(**state["hparams"])
    tokenizer = Tokenizer([tuple(pair) for pair in state["merges"]])
    output.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(output, "llama")
    write_metadata(writer, hparams, tokenizer, is_f16)
    errors = defaultdict(list)
    for name, weight in state["weights"].items():
        values = weight.numpy().astype(np.float32)
        kind = tensor_type(name, hparams.n_layer)
        if is_f16 and kind != QuantType.F32:
            writer.add_tensor(name, values.astype(np.float16))
        elif kind == QuantType.F32:
            writer.add_tensor(name, values)
        else:
            packed = PACK[kind](values)
            error = gguf.quants.dequantize(packed, kind) - values
            errors[kind].append(float(np.sqrt((error**2).mean() / (values**2).mean())))
            writer.add_tensor(name, packed, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    for kind, values in errors.items():
        print(f"{kind.name}: {len(values)} tensors, relative error {np.mean(values):.4f}, worst {max(values):.4f}")
        if max(values) > ERROR_MAX[kind]:
            raise SystemExit(f"{kind.name}: relative error {max(values):.4f}, expected at most {ERROR_MAX[kind]}")
    print(f"{output}: {output.stat().st_size} bytes")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="what train.py wrote")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the GGUF file to write")
    parser.add_argument("--f16", action="store_true", help="write F16 instead of quantising")
    args = parser.parse_args()
    export(args.checkpoint, args.output, args.f16)
