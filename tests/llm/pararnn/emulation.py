"""The CUDA kernels of csrc/, built by g++ for CPU tensors (see cuda_on_cpu/cuda_runtime.h)."""

import importlib.util
import subprocess
import sysconfig
from pathlib import Path
from types import ModuleType

from manzano.llm.pararnn import native

SHIM = Path(__file__).with_name("cuda_on_cpu")


def build_emulated(folder: Path) -> ModuleType:
    """The module of the CUDA kernels, as native.library("cuda") has it, for CPU pointers."""
    commands = [
        [
            "g++",
            *("-std=c++17", "-O1", "-w", "-fPIC", "-DTORCH_EXTENSION_NAME=emulated"),
            *(f"-I{SHIM}", f"-I{sysconfig.get_path('include')}"),
            *("-x", "c++", "-c", str(native.SOURCES / source), "-o", str(folder / f"{source}.o")),
        ]
        for source in native.FILES["cuda"]
    ]
    running = [subprocess.Popen(command) for command in commands]
    assert [process.wait() for process in running] == [0] * len(running)
    objects = [str(folder / f"{source}.o") for source in native.FILES["cuda"]]
    built = folder / "emulated.so"
    subprocess.run(["g++", "-shared", *objects, "-o", str(built)], check=True)
    spec = importlib.util.spec_from_file_location("emulated", built)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
