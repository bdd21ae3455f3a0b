"""GGUF files: a model with its tokenizer in one file, for llama.cpp, Ollama and transformers.

Names and keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, and llama.cpp's convert_hf_to_gguf.py.
"""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import gguf
import numpy as np
from torch import nn

from nanogpt.data.tokens.chat import ANSWER, NAMES, TEMPLATE
from nanogpt.data.tokens.tokenizer import EOT, BytePairs, Tokenizer
from nanogpt.model.config import ModelConfig
from nanogpt.model.llama import mlp_width
from nanogpt.runtime import atomic
from nanogpt.runtime.errors import UserError

GgufDtype = Literal["float32", "float16", "q8_0"]
Q8_BLOCK = 32  # numbers that share a scale in q8_0
# Ours by GGUF's names; in a block, after "blk.N."
_GPT2 = {
    "transformer.wte": "token_embd", "transformer.wpe": "position_embd", "transformer.ln_f": "output_norm",
    "lm_head": "output",
    "ln_1": "attn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm", "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down",
}  # fmt: skip
_LLAMA = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip


class _Writer(gguf.GGUFWriter):
    """Writes empty lists too: llama.cpp needs the one of merges, also of a tokenizer that merges nothing."""

    def _pack_val(self, val, vtype, add_vtype, sub_type=None):
        if vtype == gguf.GGUFValueType.ARRAY and not val:
            return self._pack("I", vtype) + self._pack("I", gguf.GGUFValueType.STRING) + self._pack("Q", 0)
        return super()._pack_val(val, vtype, add_vtype, sub_type)


def save_gguf(path: Path | str, model: nn.Module, tok: Tokenizer, dtype: GgufDtype) -> None:
    """Write a model (fp32) with its tokenizer to a file, all of it or nothing, and a Modelfile for Ollama beside it.

    Matrices are stored in `dtype`, vectors and learned positions in fp32; rows that only pad the vocabulary are left
    out. Equal arguments give equal bytes. Raises UserError for what llama.cpp cannot compute: a tokenizer of
    characters, GPT-2 with the exact GELU, and in q8_0 widths that are no multiples of 32.
    """
    path, config = Path(path), model.config
    _check(config, tok, dtype)
    kind, file_type = {
        "float32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
        "float16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
        "q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
    }[dtype]
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic.replace_file(path) as file, contextlib.closing(_Writer(file.name, model.hf.model_type)) as writer:
        writer.add_type(gguf.GGUFType.MODEL)
        writer.add_name(path.stem)
        writer.add_file_type(file_type)
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        _add_shape(writer, config)
        _add_tokenizer(writer, tok)
        for name, tensor in _tensors(model, tok.n_tokens):
            keep = tensor.ndim == 1 or name.startswith("position_embd")
            stored = gguf.GGMLQuantizationType.F32 if keep else kind
            writer.add_tensor(name, gguf.quants.quantize(tensor, stored), raw_dtype=stored)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        try:
            writer.write_tensors_to_file()
        except OSError as error:
            number = error.errno or errno.ENOSPC  # numpy says only how much it wrote; the usual reason is a full disk
            raise OSError(number, os.strerror(number), str(path)) from None
    atomic.write_text(path.with_suffix(".Modelfile"), modelfile(path.name, config.block_size, tok.chat))


def modelfile(name: str, context: int, chat: bool) -> str:
    """Return what `ollama create` reads, https://docs.ollama.com/modelfile, for a GGUF file of that name beside it.

    context: the longest text in tokens. With `chat`, messages are put together as in `chat.py`, but white space after
    a message stays: Go's templates have nothing that strips it.
    """
    template = "{{ .Prompt }}"
    if chat:
        template = "{{ range $i, $_ := .Messages }}{{ if $i }}\n\n{{ end }}"
        for role, name_of in NAMES.items():
            template += f'{{{{ if eq .Role "{role}" }}}}{name_of}:{{{{ end }}}}'
        # what the model answers begins with the space after its name, and comes back so as an earlier message
        template += '{{ if ne (slice (print .Content ".") 0 1) " " }} {{ end }}{{ .Content }}{{ end }}\n\n' + ANSWER
    return f'FROM ./{name}\nTEMPLATE """{template}"""\nPARAMETER num_ctx {context}\nPARAMETER stop "{EOT}"\n'


def _check(config: ModelConfig, tok: Tokenizer, dtype: GgufDtype) -> None:
    if not isinstance(tok, BytePairs):
        remedy = "choose a model with one of kind byte, bpe or gpt2"
        raise UserError(f"llama.cpp has no tokenizer of kind {tok.kind}, as this model needs; {remedy}")
    if config.arch == "base" and config.activation != "gelu_new":
        reason = "this model was trained with the exact GELU, and llama.cpp computes GPT-2 with its tanh form"
        raise UserError(f"{reason}; write a model folder, which transformers reads")
    wrong = [width for width in (config.n_embd, _mlp_width(config)) if width % Q8_BLOCK]
    if dtype == "q8_0" and wrong:
        raise UserError(f"q8_0 needs widths that {Q8_BLOCK} divides, and this model has {wrong[0]}; choose float16")


def _mlp_width(config: ModelConfig) -> int:
    return mlp_width(config) if config.arch == "optimized" else config.mlp_hidden or 4 * config.n_embd


def _add_shape(writer: gguf.GGUFWriter, config: ModelConfig) -> None:
    writer.add_context_length(config.block_size)
    writer.add_embedding_length(config.n_embd)
    writer.add_block_count(config.n_layer)
    writer.add_head_count(config.n_head)
    writer.add_feed_forward_length(_mlp_width(config))
    if config.arch == "base":
        writer.add_layer_norm_eps(config.norm_eps)
        return
    writer.add_head_count_kv(config.n_kv_head)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)


def _add_tokenizer(writer: gguf.GGUFWriter, tok: BytePairs) -> None:
    vocabulary, merges = tok.letters()
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([*vocabulary, EOT])
    writer.add_token_types([gguf.TokenType.NORMAL] * len(vocabulary) + [gguf.TokenType.CONTROL])
    writer.add_key_value(gguf.Keys.Tokenizer.MERGES, [" ".join(pair) for pair in merges], gguf.GGUFValueType.ARRAY)
    writer.add_bos_token_id(tok.eot)
    writer.add_eos_token_id(tok.eot)
    writer.add_unk_token_id(tok.eot)
    writer.add_add_bos_token(True)  # documents begin after an end token
    if tok.chat:
        writer.add_chat_template(TEMPLATE)


def _tensors(model: nn.Module, n_tokens: int) -> Iterator[tuple[str, np.ndarray]]:
    names, layers = (_GPT2 if model.hf.model_type == "gpt2" else _LLAMA), f"{model.hf.layers}."
    for key, parameter in model.state_dict().items():
        module, _, leaf = key.rpartition(".")
        if module == "lm_head" and model.config.tie_embeddings:
            continue
        block = ""
        if module.startswith(layers):
            layer, _, module = module.removeprefix(layers).partition(".")
            block = f"blk.{layer}."
        name = names[module]
        if name in ("token_embd", "output"):
            parameter = parameter[:n_tokens]
        if model.hf.model_type == "llama" and name in ("attn_q", "attn_k"):
            # llama.cpp turns neighbours in "llama", and pairs half a head apart, as we do, in "qwen3"
            parameter = parameter.unflatten(0, (-1, 2, model.config.head_dim // 2)).transpose(1, 2).flatten(0, 2)
        yield f"{block}{name}.{leaf}", parameter.numpy()
