"""GGUF files, read by gguf's reader, by transformers, and by llama.cpp where it is installed."""

import re
import resource
from dataclasses import replace

import gguf
import jinja2
import numpy as np
import pytest
import torch
from model_folders import content
from small_models import SHAPES, lively

from nanogpt.checkpoint.gguf_file import modelfile, save_gguf
from nanogpt.data.prepare.train_tokenizer import train_tokenizer
from nanogpt.data.tokens.chat import TEMPLATE
from nanogpt.data.tokens.settings import TokenizerSettings
from nanogpt.inference.settings import Sampling
from nanogpt.inference.writer import Writer
from nanogpt.runtime.errors import UserError

SAMPLES = ["", "The cat's tea, 3 o'clock: once more!\n\n  two  spaces\t", "Été 日本語 🙂"]
MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "A cat?"},
    {"role": "assistant", "content": "Once more."},
    {"role": "user", "content": ""},
]
# Not the defaults of any reader. For want of keys, transformers takes GPT-2 to have 1024 positions, and Qwen3 heads
# of width 128: only such models does it read.
OTHER = {"block_size": 128, "norm_eps": 1e-2, "rope_theta": 100.0}
MODELS = {
    "gpt2": replace(SHAPES["base"], **OTHER | {"block_size": 1024}),
    "gpt2-tied": replace(SHAPES["base-tied"], **OTHER | {"block_size": 1024}),
    "llama": replace(SHAPES["gqa"], mlp_hidden=96, **OTHER),
    "qwen3-tied": replace(SHAPES["qk-norm"], n_embd=256, n_head=2, n_kv_head=1, tie_embeddings=True, **OTHER),
}
each_model = pytest.mark.parametrize("name", MODELS)


@pytest.fixture(scope="module")
def bpe(texts):
    """Byte pairs and a chat template; 30 rows of the embedding only pad it."""
    tok = train_tokenizer(TokenizerSettings("bpe", 290, "error"), texts)
    tok.chat = True
    assert (tok.n_tokens, tok.vocab_size) == (290, 320)
    return tok


def model_of(name: str, tok) -> torch.nn.Module:
    return lively(replace(MODELS[name], vocab_size=tok.vocab_size))


@each_model
@pytest.mark.parametrize("dtype", ["float32", "float16", "q8_0"])
def test_tensors_are_ours_within_their_rounding(bpe, tmp_path, name, dtype):
    model = model_of(name, bpe)
    save_gguf(tmp_path / "m.gguf", model, bpe, dtype)
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    arch = next(arch for arch, kind in gguf.MODEL_ARCH_NAMES.items() if kind == model.hf.model_type)
    names, ours = gguf.get_tensor_name_map(arch, 2), {}
    for key, tensor in model.state_dict().items():
        module, _, leaf = key.rpartition(".")
        if tensor.size(0) == bpe.vocab_size:
            tensor = tensor[: bpe.n_tokens]
        if name == "llama" and module.endswith(("q_proj", "k_proj")):  # a head's rows i and i + 4 become neighbours
            tensor = tensor[torch.arange(tensor.size(0)).view(-1, 2, 4).transpose(1, 2).flatten()]
        if not (module == "lm_head" and model.config.tie_embeddings):
            ours[f"{names.get_name(module)}.{leaf}"] = tensor.numpy()
    assert {tensor.name for tensor in reader.tensors} == ours.keys()
    for tensor in reader.tensors:
        want, kind = ours[tensor.name], tensor.tensor_type.name
        got = gguf.dequantize(tensor.data, tensor.tensor_type)
        assert got.shape == want.shape
        if want.ndim == 1 or tensor.name == "position_embd.weight" or dtype == "float32":
            assert kind == "F32" and np.array_equal(got, want)
        elif dtype == "float16":
            assert kind == "F16" and np.array_equal(got, want.astype(np.float16))
        else:
            blocks, error = (array.reshape(-1, 32) for array in (want, got - want))
            steps = abs(blocks).max(1) / 127  # of which fp16 stores at least 11 bits
            assert kind == "Q8_0" and (abs(error).max(1) <= steps * (0.5 + 127 / 2048)).all()


@each_model
def test_keys(bpe, tmp_path, name):
    """Those that some readers can do without too."""
    model = model_of(name, bpe)
    config, arch = model.config, model.hf.model_type
    save_gguf(tmp_path / "m.gguf", model, bpe, "q8_0")
    keys = {key: field.contents() for key, field in gguf.GGUFReader(tmp_path / "m.gguf").fields.items()}
    general = {"architecture": arch, "type": "model", "name": "m", "file_type": 7, "quantization_version": 2}
    assert {f"general.{key}": value for key, value in general.items()}.items() <= keys.items()
    assert keys[f"{arch}.context_length"] == config.block_size
    if config.arch == "optimized":
        widths = ("rope.dimension_count", "attention.key_length", "attention.value_length")
        assert {keys[f"{arch}.{width}"] for width in widths} == {config.head_dim}
    assert keys["tokenizer.ggml.pre"] == "gpt-2" and keys["tokenizer.ggml.token_type"] == [1] * 289 + [3]
    assert (tmp_path / "m.Modelfile").read_text() == modelfile("m.gguf", config.block_size, chat=True)


@each_model
def test_transformers_computes_the_same(bpe, tmp_path, name):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = model_of(name, bpe)
    save_gguf(tmp_path / "m.gguf", model, bpe, "float32")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf").eval()
    ids = torch.randint(bpe.n_tokens, (2, 16), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model(ids)[..., : bpe.n_tokens]
        torch.testing.assert_close(theirs(ids).logits, expected, rtol=0, atol=1e-4)
    assert theirs.config.bos_token_id == theirs.config.eos_token_id == bpe.eot
    tok = AutoTokenizer.from_pretrained(tmp_path, gguf_file="m.gguf")
    for text in SAMPLES:
        assert tok.encode(text) == [bpe.eot, *bpe.encode(text)] and tok.decode(tok.encode(text)[1:]) == text
    assert tok.unk_token_id == bpe.eot and tok.chat_template == TEMPLATE


@each_model
def test_llama_cpp_computes_and_writes_the_same(bpe, tmp_path, name):
    llama_cpp = pytest.importorskip("llama_cpp")
    model = model_of(name, bpe)
    save_gguf(tmp_path / "m.gguf", model, bpe, "float32")
    fp32 = {"type_k": llama_cpp.GGML_TYPE_F32, "type_v": llama_cpp.GGML_TYPE_F32}
    llama = llama_cpp.Llama(str(tmp_path / "m.gguf"), n_ctx=0, n_threads=1, logits_all=True, verbose=False, **fp32)
    for text in [*SAMPLES, "<|endoftext|> is text"]:
        assert llama.tokenize(text.encode()) == [bpe.eot, *bpe.encode(text)]

    greedy, writer = Sampling(1, 6, 0.0, None, None, None, 1.0, []), Writer(model, bpe, "float32")
    [[ours]], tokens = writer.write([SAMPLES[1][:9]], greedy, 1), llama.tokenize(SAMPLES[1][:9].encode())
    llama.eval(tokens)
    with torch.no_grad():
        expected = model(torch.tensor([tokens]))[0, :, : bpe.n_tokens]
    rounding = 5e-3 if model.config.arch == "base" else 1e-4  # ggml looks GELU up in a table of fp16
    torch.testing.assert_close(torch.tensor(llama.scores[: len(tokens)]), expected, rtol=0, atol=rounding)
    theirs = llama.generate(tokens, temp=0, repeat_penalty=1)
    assert [next(theirs) for _ in ours.tokens] == [token.id for token in ours.tokens]

    llama.create_chat_completion(MESSAGES, max_tokens=1)
    prompt = [bpe.eot, *writer.encode(MESSAGES)]
    assert llama.input_ids[: len(prompt)].tolist() == prompt


def test_bytes_need_no_merges(byte, tmp_path):
    from transformers import AutoTokenizer

    save_gguf(tmp_path / "m.gguf", lively(replace(SHAPES["gqa"], vocab_size=320)), byte, "float32")
    tok = AutoTokenizer.from_pretrained(tmp_path, gguf_file="m.gguf")
    assert [tok.encode(text) for text in SAMPLES] == [[256, *text.encode()] for text in SAMPLES]
    assert tok.chat_template is None


def test_llama_cpp_reads_an_empty_list_of_merges(byte, tmp_path):
    llama_cpp = pytest.importorskip("llama_cpp")
    save_gguf(tmp_path / "m.gguf", lively(replace(SHAPES["gqa"], vocab_size=320)), byte, "float32")
    llama = llama_cpp.Llama(str(tmp_path / "m.gguf"), vocab_only=True, verbose=False)
    assert [llama.tokenize(text.encode()) for text in SAMPLES] == [[256, *text.encode()] for text in SAMPLES]


def test_modelfile():
    assert modelfile("m.gguf", 64, chat=False) == (
        'FROM ./m.gguf\nTEMPLATE """{{ .Prompt }}"""\nPARAMETER num_ctx 64\nPARAMETER stop "<|endoftext|>"\n'
    )


GO_TO_JINJA = {
    "range $i, $_ := .Messages": "for message in messages",
    "if $i": "if not loop.first",
    'if eq .Role "ROLE"': 'if message.role == "ROLE"',
    'if ne (slice (print .Content ".") 0 1) " "': 'if (message.content ~ ".")[0:1] != " "',
}


def from_go(template: str) -> jinja2.Template:
    """The same template for jinja."""
    opened, parts = [], re.split(r"\{\{ (.+?) \}\}", template)
    for i in range(1, len(parts), 2):
        role = re.search('Role "(.+?)"', parts[i])
        if parts[i] == ".Content":
            parts[i] = "{{ message.content }}"
        elif parts[i] == "end":
            parts[i] = f"{{% end{opened.pop()} %}}"
        else:
            statement = GO_TO_JINJA[parts[i].replace(role[1], "ROLE") if role else parts[i]]
            opened.append(statement.split()[0])
            parts[i] = f"{{% {statement.replace('ROLE', role[1]) if role else statement} %}}"
    return jinja2.Template("".join(parts))


def test_ollama_puts_messages_together_as_the_chat_template_does():
    """Its template is in Go's language. An earlier answer comes as the model wrote it, with a space in front."""
    written = [one | {"content": " " * (one["role"] == "assistant") + one["content"]} for one in MESSAGES]
    template = from_go(modelfile("m.gguf", 64, chat=True).split('"""')[1])
    expected = jinja2.Template(TEMPLATE).render(bos_token="", messages=MESSAGES, add_generation_prompt=True)
    assert template.render(messages=written) == template.render(messages=MESSAGES) == expected


def test_what_llama_cpp_cannot_compute(bpe, char, tmp_path):
    for changed, tok, dtype, message in [
        ({}, char, "float32", "no tokenizer of kind char"),
        ({"activation": "gelu"}, bpe, "float32", "exact GELU"),
        ({"n_embd": 48}, bpe, "q8_0", "32 divides, and this model has 48"),
        ({"mlp_hidden": 72}, bpe, "q8_0", "32 divides, and this model has 72"),
    ]:
        model = lively(replace(SHAPES["base"], vocab_size=320, **changed))
        with pytest.raises(UserError, match=message):
            save_gguf(tmp_path / "m.gguf", model, tok, dtype)
    assert not content(tmp_path)
    save_gguf(tmp_path / "m.gguf", model, bpe, "float16")  # any width


def test_a_full_disk_leaves_the_old_files(bpe, tmp_path):
    model = model_of("llama", bpe)
    save_gguf(tmp_path / "new" / "m.gguf", model, bpe, "q8_0")
    before = content(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before["new/m.gguf"]), limits[1]))
        with pytest.raises(OSError, match=r"No space left on device: .*m\.gguf"):
            save_gguf(tmp_path / "new" / "m.gguf", model, bpe, "float32")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert content(tmp_path) == before
