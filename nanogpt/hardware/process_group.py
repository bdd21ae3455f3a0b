"""The processes that share one run: those that `torchrun` started, each with its own cores, or this process alone.

All functions but `join` are called by every process of the run at the same place; for one process alone they cost
nothing. Source: https://docs.pytorch.org/docs/stable/distributed.html
"""

import contextlib
import datetime
import io
import json
import os
import socket
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor

from nanogpt.runtime.errors import UserError

# What gloo's and nccl's errors say, which have no class of their own on a CPU.
LOST = ("/gloo/", "Connection closed by peer", "Connection reset by peer", "Timed out", "timed out")


@contextlib.contextmanager
def join(timeout_s: float, device: torch.device) -> Iterator[None]:
    """Join the processes that torchrun started, in the block; without torchrun there is nothing to join.

    Binds this process to its share of the machine's cores, or on device cuda to its GPU. A process that waits for
    another for more than `timeout_s` seconds fails. Raises UserError where another process is lost, or has no GPU.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    local, on_machine = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    backend = "gloo"
    if device.type == "cuda":
        if on_machine > (count := torch.cuda.device_count()):
            raise UserError(
                f"{on_machine} processes need a GPU each, of {count}; start fewer, or set train.device: cpu"
            )
        backend = "cpu:gloo,cuda:nccl"
        torch.cuda.set_device(local)
    elif hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, share_of_cores(os.sched_getaffinity(0), local, on_machine))
    timeout = datetime.timedelta(seconds=timeout_s)
    try:
        store, number, count = next(dist.rendezvous("env://", timeout=timeout))
        # torchrun keeps its store when it starts processes again: old addresses there would be taken for the new ones
        attempt = f"{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}-of-{count}"
        store = dist.PrefixStore(attempt, store)
        dist.init_process_group(backend, timeout=timeout, store=store, rank=number, world_size=count)
        yield
    except RuntimeError as error:
        if not is_lost_connection(error):
            raise
        raise UserError("another process of this run did not come, ended, or does not answer") from None
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def share_of_cores(cores: set[int], index: int, count: int) -> set[int]:
    """The cores of process `index` of `count` on one machine: neighbours, or one alone where there are more processes.

    Cores that are left over belong to nobody, so that all processes are equally fast.
    """
    ordered, each = sorted(cores), max(1, len(cores) // count)
    first = index * each % len(ordered)
    return set(ordered[first : first + each])


def rank() -> int:
    """The number of this process, from 0 on."""
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    """How many processes share the run."""
    return dist.get_world_size() if dist.is_initialized() else 1


def local_size() -> int:
    """How many of them are on this machine."""
    return int(os.environ["LOCAL_WORLD_SIZE"]) if dist.is_initialized() else 1


def describe() -> str:
    """Name this process for a message."""
    return f"process {rank()} of {size()}, on {socket.gethostname()}"


def total(values: Tensor) -> Tensor:
    """The sum of all processes' tensors on the CPU, the same bits in each."""
    if size() > 1:
        values = values.clone()
        dist.all_reduce(values)
    return values


def mean(value: float) -> float:
    """The mean of all processes' numbers; NaN if one is."""
    return total(torch.tensor(value, dtype=torch.float64)).item() / size()


def any_of(flag: bool) -> bool:
    """Whether the flag of any process is set."""
    return bool(total(torch.tensor(int(flag))).item())


def of_first(flag: bool) -> bool:
    """The flag of the first process."""
    return any_of(flag and rank() == 0)


def broadcast(content: object, source: int = 0) -> object:
    """Send dicts, lists, numbers, strings and tensors from one process to all; return them, tensors on the CPU."""
    if size() == 1:
        return content
    packed = _pack(content) if rank() == source else torch.empty(0, dtype=torch.uint8)
    length = torch.tensor(len(packed))
    dist.broadcast(length, source)
    if rank() != source:
        packed = torch.empty(int(length), dtype=torch.uint8)
    dist.broadcast(packed, source)
    return content if rank() == source else _unpack(packed)


def gather(content: object) -> list:
    """Collect every process's content in the first one, in order; elsewhere the list is empty."""
    packed = None if rank() == 0 else _pack(content)
    lengths = [int(n) for n in total(_one_hot(0 if packed is None else len(packed)))]
    if packed is not None:
        dist.send(packed, 0)
        return []
    found = [content]
    for source, length in enumerate(lengths[1:], start=1):
        received = torch.empty(length, dtype=torch.uint8)
        dist.recv(received, source)
        found.append(_unpack(received))
    return found


def greatest(value: int) -> tuple[int, int]:
    """The greatest of all processes' numbers, and the first process that has it."""
    values = total(_one_hot(value))
    return int(values.max()), int(values.argmax())


def differing(inputs: dict) -> dict | None:
    """What the first process has in place of `inputs` (JSON values); None where all processes have the same."""
    first = json.loads(broadcast(json.dumps(inputs)))
    return first if any_of(first != json.loads(json.dumps(inputs))) else None


def is_lost_connection(error: RuntimeError) -> bool:
    """Whether another process of the run ended, hung or went out of reach, and this error says so."""
    return isinstance(error, dist.DistError) or any(words in str(error) for words in LOST)


def _one_hot(value: int) -> Tensor:
    values = torch.zeros(size(), dtype=torch.int64)
    values[rank()] = value
    return values


def _pack(content: object) -> Tensor:
    file = io.BytesIO()
    torch.save(content, file)
    return torch.frombuffer(file.getbuffer(), dtype=torch.uint8)


def _unpack(packed: Tensor) -> object:
    return torch.load(io.BytesIO(packed.numpy()), map_location="cpu", weights_only=True)
