"""FSDP2: two ranks that share the layers' parameters train as one process does."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import torch

from manzano.training.distributed import World
from tests.llm.pararnn.sharded_training import train

ROOT = Path(__file__).parents[3]


def test_two_ranks_equal_one_process(tmp_path):
    # First of all, so that kernels are built once and not by all ranks.
    with torch.random.fork_rng():
        one = train(World(rank=0, size=1, device=torch.device("cpu")))
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    files, processes = [tmp_path / f"rank{rank}.pt" for rank in range(2)], []
    for rank, file in enumerate(files):
        torchrun = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
        torchrun |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "tests.llm.pararnn.sharded_training", str(file)]
        processes.append(
            subprocess.Popen(
                command, cwd=ROOT, env=os.environ | torchrun, stderr=subprocess.PIPE, text=True
            )
        )
    try:
        for process in processes:
            _, said = process.communicate(timeout=240)
            assert process.returncode == 0, said
    finally:
        for process in processes:
            process.kill()
    first, second = (torch.load(file) for file in files)
    torch.testing.assert_close((first.pop("losses") + second.pop("losses")) / 2, one.pop("losses"))
    for found in (first, second):
        torch.testing.assert_close(found, one, rtol=1e-4, atol=1e-5)
