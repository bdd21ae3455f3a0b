"""Saves and loads model folders and .pt files. A folder that we write is a Hugging Face model.

Checkpoints of other programs load too: nanoGPT's ckpt.pt, and GPT-2 and Llama folders of Hugging Face.
"""

import json
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from nanogpt.checkpoint import weights
from nanogpt.checkpoint.hf_config import config_from_hf, config_from_nanogpt, hf_config
from nanogpt.checkpoint.safe_links import refuse_links_out
from nanogpt.checkpoint.settings import CheckpointSettings, Dtype
from nanogpt.data.tokens.tokenizer import Tokenizer, load_tokenizer
from nanogpt.model.config import ModelConfig
from nanogpt.runtime import atomic
from nanogpt.runtime.checksums import verify_checksums
from nanogpt.runtime.errors import UserError

TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
SAFETENSORS_FP32 = CheckpointSettings("safetensors", "float32")
LONGEST_CONFIG = 2**20  # bytes; ours have 400


def save_checkpoint(
    path: Path | str, model: nn.Module, tok: Tokenizer, settings: CheckpointSettings = SAFETENSORS_FP32,
    card: str | None = None,
) -> None:  # fmt: skip
    """Write a model folder, or one file if the name ends in .pt; all of it or nothing.

    `card` is the folder's README.md, stored in a .pt file too. Equal arguments give equal bytes.
    """
    path, dtype = Path(path), settings.dtype
    state = weights.stored_tensors(model, dtype)
    if path.suffix == ".pt":
        content = config_and_tokenizer(model, tok, dtype) | {"model": state, "card": card}
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic.replace_file(path) as file:
            torch.save(content, file)
        return
    with atomic.replace_folder(path, "config.json") as folder:
        tok.save(folder)
        if settings.format == "pt":
            save_checkpoint(folder / weights.PT, model, tok, settings, card)
        else:
            save_file(state, folder / weights.SAFETENSORS, metadata={"format": "pt"})
        generation = {"bos_token_id": tok.eot, "eos_token_id": tok.eot, "pad_token_id": tok.eot}
        documents = {"config": hf_config(model.config, tok.eot, dtype), "generation_config": generation}
        for name, document in documents.items():
            (folder / f"{name}.json").write_text(json.dumps(document, indent=2) + "\n")
        if card is not None:
            (folder / "README.md").write_text(card, encoding="utf-8", newline="\n")


def config_and_tokenizer(model: nn.Module, tok: Tokenizer, dtype: Dtype = "float32") -> dict:
    """All that `load_checkpoint` needs of a .pt file or a run's saved state besides the weights."""
    with tempfile.TemporaryDirectory() as folder:
        tok.save(folder)
        files = {name: Path(folder, name).read_text(encoding="utf-8") for name in TOKENIZER}
    return {"config": hf_config(model.config, tok.eot, dtype), "tokenizer": files}


def output_marker(path: Path | str) -> str | None:
    """What `check_outputs` asks of a checkpoint's path: config.json for a model folder, None for a .pt file."""
    return None if Path(path).suffix == ".pt" else "config.json"


def load_checkpoint(path: Path | str, tokens: Path | str | None = None) -> tuple[nn.Module, Tokenizer]:
    """Load the model (fp32, on the CPU, in eval mode) and tokenizer of a model folder or .pt file.

    tokens: the folder of a tokenizer to use instead of the checkpoint's; one from elsewhere may lack its own.
    Raises UserError if a file is missing, damaged or not what SHA256SUMS says was written, and for an architecture
    that is not ours.
    """
    path = Path(path)
    tok = _load_own_tokenizer(path) if tokens is None else load_tokenizer(tokens)
    model = load_model(path)
    if tok.n_tokens > model.config.vocab_size:
        sizes = f"{tok.n_tokens} tokens and the model {model.config.vocab_size}"
        raise UserError(f"{path}: the tokenizer has {sizes}; they do not belong together")
    return model, tok


def load_model(path: Path | str) -> nn.Module:
    """Load the model alone (fp32, on the CPU, in eval mode), without its tokenizer.

    Raises UserError as `load_checkpoint` does.
    """
    path = Path(path)
    if path.suffix != ".pt":
        config = read_config(path)
        model = weights.build_with_weights(config, weights.read_folder(path), path).eval()
        verify_checksums(path, ("config.json", weights.SAFETENSORS, weights.PT, *TOKENIZER))
        return model
    content = weights.read_pt(path)
    tensors, args = weights.pt_tensors(content, path), content.get("model_args")
    if "model_args" not in content:
        config, in_training = config_from_hf(content.get("config"), path), "optimizer" in content
        return weights.build_with_weights(config, tensors, path, linear=in_training).eval()
    config = config_from_nanogpt(args, path)
    tensors = {name.removeprefix("_orig_mod."): tensor for name, tensor in tensors.items()}  # of a compiled model
    if args.get("bias") is False:
        tensors = weights.add_zero_biases(tensors)
    return weights.build_with_weights(config, tensors, path, linear=True).eval()


def has_tokenizer(path: Path | str) -> bool:
    """Whether a .pt file holds a tokenizer; nanoGPT's do not. Raises UserError for a damaged file."""
    return weights.read_pt(Path(path)).get("tokenizer") is not None


def read_card(path: Path | str) -> str | None:
    """The model card of a folder or .pt file, None if it has none.

    Raises UserError for a damaged .pt file, and for a folder with links to other places.
    """
    path = Path(path)
    if path.suffix == ".pt":
        card = weights.read_pt(path).get("card")
        return card if isinstance(card, str) else None
    refuse_links_out(path)
    file = path / "README.md"
    return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else None


def read_config(folder: Path | str) -> ModelConfig:
    """Read the shape of the model in a folder. Raises UserError if it is not one of ours."""
    file = Path(folder) / "config.json"
    refuse_links_out(file.parent)
    if not file.is_file():
        remedy = "train one with `dvc repro pretrain`"
        if file.with_name("adapter_config.json").is_file():
            remedy = "it is an adapter, which `stages.sample` takes as --lora-checkpoint, and `stages.merge` too"
        raise UserError(f"{folder} is not a model folder: it has no config.json; {remedy}")
    try:
        if file.stat().st_size > LONGEST_CONFIG:
            raise ValueError(f"more than {LONGEST_CONFIG} bytes")
        hf = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file} is damaged ({error}); write the folder again") from None
    return config_from_hf(hf, file)


def _load_own_tokenizer(path: Path) -> Tokenizer:
    command = f"python -m stages.convert --checkpoint {path} --tokenizer FOLDER --out NEW"
    remedy = f"name the folder of the tokenizer that it was trained with: `{command}`"
    with tempfile.TemporaryDirectory() as temporary:
        folder = path
        if path.suffix == ".pt":
            folder, texts = Path(temporary), weights.read_pt(path).get("tokenizer")
            for name in TOKENIZER:
                if isinstance(texts, dict) and isinstance(texts.get(name), str):
                    (folder / name).write_bytes(texts[name].encode("utf-8", "replace"))
        else:
            read_config(path)  # if this is not a model at all, say that
        if not (folder / "tokenizer.json").is_file():
            raise UserError(f"{path} holds no tokenizer.json; {remedy}")
        try:
            return load_tokenizer(folder)
        except UserError as error:
            raise UserError(f"{str(error).replace(str(folder), str(path))}; or {remedy}") from None
