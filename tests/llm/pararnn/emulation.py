"""The CUDA kernels of csrc/, built by g++ for CPU tensors (see cuda_on_cpu/runtime.cpp)."""

import ctypes
import importlib.util
import subprocess
import sysconfig
from pathlib import Path
from types import ModuleType

from manzano.llm.pararnn import native

SHIM = Path(__file__).with_name("cuda_on_cpu")
CHECKED = ("-fsanitize=thread", "--param=tsan-instrument-func-entry-exit=0")
"""Every access to memory calls runtime.cpp."""


def build_emulated(folder: Path, sources: Path = native.SOURCES) -> ModuleType:
    """The module of the CUDA kernels, as native.library("cuda") has it, for CPU pointers."""
    files = [*(sources / name for name in native.FILES["cuda"]), SHIM / "runtime.cpp"]
    objects = [str(folder / f"{file.name}.o") for file in files]
    commands = [
        [
            *("g++", "-std=c++17", "-O1", "-w", "-fPIC", "-DTORCH_EXTENSION_NAME=emulated"),
            *(CHECKED if file.suffix == ".cu" else ()),
            *(f"-I{SHIM}", f"-I{sysconfig.get_path('include')}"),
            *("-x", "c++", "-c", str(file), "-o", target),
        ]
        for file, target in zip(files, objects, strict=True)
    ]
    running = [subprocess.Popen(command) for command in commands]
    assert [process.wait() for process in running] == [0] * len(running)
    built = folder / "emulated.so"
    subprocess.run(["g++", "-shared", *objects, "-o", str(built)], check=True)
    spec = importlib.util.spec_from_file_location("emulated", built)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_threads_in_order(module: ModuleType, order: int) -> None:
    """Of every block, from now on: 0 ascending, -1 descending, else by a random seed."""
    loaded = ctypes.CDLL(str(module.__file__))
    ctypes.c_int.in_dll(loaded, "cuda_on_cpu_order").value = order
