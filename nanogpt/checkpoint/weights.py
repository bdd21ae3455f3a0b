"""Writes and reads files of tensors, under the names of GPT2LMHeadModel, LlamaForCausalLM and Qwen3ForCausalLM.

GPT-2's projections (Conv1D in transformers) are transposed. Files are mapped into memory, not read, until names, shapes
and dtypes are those that the config asks for: a file takes no more memory than its size, and its code is never run.
"""

import json
import re
import zipfile
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from nanogpt.model.build import build_model, model_class, shapes_alone
from nanogpt.model.config import ModelConfig
from nanogpt.runtime.errors import UserError, shorten

SAFETENSORS, INDEX, PT = "model.safetensors", "model.safetensors.index.json", "model.pt"
HEAD = "lm_head.weight"
# masks and tables that older versions saved beside the weights
BUFFERS = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")
LONGEST_HEADER = 2**22  # bytes: names and shapes of some 40,000 tensors
FLOATS = (torch.float32, torch.bfloat16, torch.float16)


def stored_tensors(model: nn.Module, dtype: str) -> dict[str, Tensor]:
    """The tensors of a model as Hugging Face stores them: GPT-2's projections transposed, a tied head left out."""
    state = {name: t.detach().to("cpu", getattr(torch, dtype)) for name, t in model.state_dict().items()}
    if model.config.tie_embeddings:
        del state[HEAD]
    return {name: tensor.contiguous() for name, tensor in _transpose(state, model.config).items()}


def read_folder(folder: Path) -> dict[str, Tensor]:
    """Map the tensors of a model folder: one safetensors file, several with an index, or a model.pt.

    Raises UserError if they are missing or damaged.
    """
    if (folder / SAFETENSORS).is_file():
        return _map_safetensors(folder / SAFETENSORS)
    if (folder / INDEX).is_file():
        return _map_shards(folder)
    if (folder / PT).is_file():
        return pt_tensors(read_pt(folder / PT), folder / PT)
    raise UserError(f"{folder} has no {SAFETENSORS} and no {PT}; write the folder again")


def read_pt(path: Path) -> dict:
    """Load a `.pt` file with its tensors mapped. Raises UserError if it is not a checkpoint or would run code."""
    if not path.is_file():
        raise UserError(f"{path} does not exist; name a model folder or a .pt file written by this project or nanoGPT")
    try:
        with zipfile.ZipFile(path) as archive:  # torch does not compress; compressed data could unpack to any size
            if sum(part.file_size for part in archive.infolist()) > path.stat().st_size:
                raise ValueError("packed")
            if damaged := archive.testzip():
                raise ValueError(f"the checksum of {damaged} is wrong")
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        if not isinstance(content["model"], dict):
            raise TypeError("model")
    except Exception as error:  # hostile bytes can make torch's reader raise anything
        kind = type(error).__name__
        raise UserError(f"{path} is not a checkpoint of this project or is damaged ({kind}); write it again") from None
    return content


def pt_tensors(content: dict, path: Path) -> dict[str, Tensor]:
    """The tensors of a `.pt` file's content. Raises UserError for one that is not a plain tensor in memory."""
    for name, tensor in content["model"].items():
        # Strides can make a large tensor of a few bytes, and a copy of it would take the memory.
        if not (
            isinstance(name, str) and isinstance(tensor, Tensor) and type(tensor) in (Tensor, nn.Parameter)
            and tensor.layout == torch.strided and tensor.device.type == "cpu"
            and tensor.nbytes <= tensor.untyped_storage().nbytes()
        ):  # fmt: skip
            raise UserError(f"{path}: {name!r} is not a plain tensor; the file is damaged, write it again")
    tensors = {name: tensor.detach() for name, tensor in content["model"].items()}
    # Nor may many tensors share a few bytes; only a tied head may.
    if sum(tensor.nbytes for name, tensor in tensors.items() if not name.endswith(HEAD)) > path.stat().st_size:
        raise UserError(f"{path}: its tensors overlap in memory; the file is damaged, write it again")
    return tensors


def add_zero_biases(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add zeros for the biases that nanoGPT's `bias: False` leaves out; the results are the same."""
    zeros = {  # expanded: they take no memory before _check_shapes
        name.removesuffix("weight") + "bias": torch.zeros(()).expand(tensor.shape[:1])
        for name, tensor in tensors.items()
        if re.search(r"\.(ln_\w|c_\w+)\.weight$", name)
    }
    return zeros | tensors


def build_with_weights(config: ModelConfig, tensors: dict[str, Tensor], path: Path, linear: bool = False) -> nn.Module:
    """Build a model (fp32, on the CPU) with exactly these weights, copied into its own memory.

    linear: GPT-2's projections are stored as nn.Linear has them, not transposed. Raises UserError, naming the tensor,
    if names, shapes or dtypes are not what the config asks for or a value is not finite; before that nothing large is
    read.
    """
    names = model_class(config).hf
    root = names.embedding.split(".")[0] + "."
    if not any(name.startswith(root) for name in tensors):  # of a model without its head, such as OpenAI's GPT-2
        tensors = {name if name == HEAD else root + name: tensor for name, tensor in tensors.items()}
    state = {name: tensor for name, tensor in tensors.items() if not name.endswith(BUFFERS)}
    if not linear:
        state = _transpose(state, config)
    # Compare the number of layers before a model is built: one of a thousand layers would take seconds.
    numbers = [re.match(rf"{names.layers}\.(\d{{1,6}})\.", name) for name in state]
    layers = 1 + max((int(number[1]) for number in numbers if number), default=-1)
    if layers != config.n_layer:
        sizes = f"{layers} layers, but the config says {config.n_layer}"
        raise UserError(f"{path} has weights of {sizes}; they do not belong together")
    with shapes_alone():
        model = build_model(config)
    embedding = names.embedding + ".weight"
    if config.tie_embeddings:
        state.setdefault(HEAD, state.get(embedding))
    _check_shapes(state, model.state_dict(), path)
    head = state.pop(HEAD) if config.tie_embeddings else None
    state = {name: _copy_as_fp32(name, tensor, path) for name, tensor in state.items()}
    if head is not None and not torch.equal(head.to(torch.float32), state[embedding]):
        raise UserError(f"{path}: {HEAD} and {embedding} differ, but the config says that they are tied")
    model.load_state_dict(state, strict=False, assign=True)  # not strict: a tied head has no tensor of its own
    if config.tie_embeddings:
        model.lm_head.weight = model.get_parameter(embedding)
    return model


def _check_shapes(state: dict[str, Tensor], wanted: dict[str, Tensor], path: Path) -> None:
    for name, tensor in wanted.items():
        if state.get(name) is None:
            raise UserError(f"{path}: the weight {name} is missing; the folder is damaged, write it again")
        if state[name].shape != tensor.shape:
            shapes = f"{tuple(state[name].shape)}, but the config says {tuple(tensor.shape)}"
            raise UserError(f"{path}: the weight {name} has shape {shapes}; the two do not belong together")
        if state[name].dtype not in FLOATS:
            known = ", ".join(str(dtype).removeprefix("torch.") for dtype in FLOATS)
            raise UserError(f"{path}: the weight {name} is of {state[name].dtype}; only {known} can be read")
    if extra := state.keys() - wanted.keys():
        raise UserError(f"{path}: unknown weight {min(extra)}; config and weights do not belong together")


def _copy_as_fp32(name: str, tensor: Tensor, path: Path) -> Tensor:
    """Copy a tensor to fp32, so that the model does not change or vanish with its file."""
    tensor = tensor.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    if not torch.stack(tensor.aminmax()).isfinite().all():
        raise UserError(f"{path}: the weight {name} has values that are not finite; the training that wrote it failed")
    return tensor


def _transpose(tensors: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Convert between nn.Linear's layout and Hugging Face's, in either direction."""
    ends = model_class(config).hf.transposed
    return {name: t.T if name.endswith(ends) and t.dim() == 2 else t for name, t in tensors.items()}


def _map_safetensors(file: Path) -> dict[str, Tensor]:
    try:
        with file.open("rb") as head:
            length = int.from_bytes(head.read(8), "little")
        if length > LONGEST_HEADER:
            raise SafetensorError(f"a header of {length} bytes")
        return load_file(file)  # maps the file; the header's lengths and offsets are checked against it
    except Exception as error:  # a header can name dtypes that torch lacks: KeyError and others
        kind = str(error) if isinstance(error, SafetensorError | OSError) else repr(error)
        raise UserError(f"{file} is damaged ({shorten(kind)}); write the folder again") from None


def _map_shards(folder: Path) -> dict[str, Tensor]:
    index = folder / INDEX
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = sorted(set(places.values()))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{index} is damaged ({type(error).__name__}); fetch the folder again") from None
    tensors: dict[str, Tensor] = {}
    for name in files:
        if not isinstance(name, str) or not re.fullmatch(r"[\w-][\w.-]*\.safetensors", name):
            raise UserError(f"{index}: {name!r} is not the name of a safetensors file beside it")
        if not (folder / name).is_file():
            raise UserError(f"{folder} lacks {name}, which {INDEX} names; fetch the folder again")
        part = _map_safetensors(folder / name)
        if tensors.keys() & part.keys():
            raise UserError(f"{index}: {min(tensors.keys() & part.keys())} is in two files; fetch the folder again")
        tensors |= part
    return tensors
