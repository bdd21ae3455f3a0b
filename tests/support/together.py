"""Several processes of one run in a test, as torchrun would start them."""

import multiprocessing
import os
import socket
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

TIMEOUT_S = 60


def together(count: int, function: Callable, *args) -> list:
    """What `function(*args)` returns in each of `count` new processes that share a run."""
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    # what they all import is imported once; the server that they are forked from computes nothing
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["torch", "torch._dynamo", "peft", "nanogpt.training.resume", function.__module__])
    with ProcessPoolExecutor(count, server) as pool:
        # each joins before it returns, so none takes two
        tasks = [pool.submit(_join, rank, count, port, function, args) for rank in range(count)]
        return [task.result() for task in tasks]


def _join(rank: int, count: int, port: int, function: Callable, args: tuple) -> object:
    import torch

    from nanogpt.hardware import process_group

    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    os.environ |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "GLOO_SOCKET_IFNAME": "lo"}
    with process_group.join(TIMEOUT_S, torch.device("cpu")):
        return function(*args)
