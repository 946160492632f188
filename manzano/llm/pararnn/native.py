"""Native kernels: built from csrc/ at first use, kept in torch's cache of extensions, loaded.

Nothing is compiled at import or installation, and torch's builder, slow to import and not silent,
is imported only where kernels are wanted. A CPU build needs a C++ compiler and ninja, a CUDA build
nvcc besides; where they are missing, `library` says so once and PyTorch's paths serve. A build that
fails raises `BuildError`; what it printed is shown by

    python -m manzano.llm.pararnn.native        (cpu, or cuda as an argument)
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import warnings
from functools import cache
from pathlib import Path
from types import ModuleType

import torch

SOURCES = Path(__file__).with_name("csrc")
FILES = {
    "cpu": ("binding_cpu.cpp", "fused_cpu.cpp", "fused_backward_cpu.cpp", "reduction_cpu.cpp"),
    "cuda": ("binding_cuda.cpp", "fused_cuda.cu", "fused_backward_cuda.cu", "reduction_cuda.cu"),
}
COMMAND = "python -m manzano.llm.pararnn.native"
BUILDING = threading.Lock()


class BuildError(RuntimeError):
    """A compiler is there but has not built the native kernels."""


@torch.compiler.assume_constant_result
def available(device_type: str) -> bool:
    """Whether native kernels for "cpu" or "cuda" tensors are there, building them if need be.

    Raises:
        BuildError: as `library`.
    """
    return library(device_type) is not None


def library(device_type: str) -> ModuleType | None:
    """The loaded kernels of "cpu" or "cuda"; None, and one warning, where nothing builds them.

    Raises:
        BuildError: if the build fails; it is tried once in a process.
    """
    with BUILDING:  # threads, each of which would build
        found = library_or_error(device_type)
    if isinstance(found, BuildError):
        raise found
    return found


@cache
def library_or_error(device_type: str) -> ModuleType | BuildError | None:
    """`library`, with the error as a value, so that it too is remembered."""
    if device_type not in FILES:
        return None
    if missing := missing_tool(device_type):
        warnings.warn(
            f"no native ParaRNN kernels for {device_type}: {missing}. PyTorch solves instead, "
            "with the same results but slower",
            stacklevel=2,
        )
        return None
    try:
        return build(device_type)
    except BuildError as error:
        return error


def missing_tool(device_type: str) -> str | None:
    """What a build for `device_type` lacks, in words, or None."""
    from torch.utils import cpp_extension

    if sys.platform == "win32":
        return "their source is for g++ and clang++, not for Windows"
    compiler = cpp_extension.get_cxx_compiler()
    if shutil.which(compiler) is None:
        return f"no C++ compiler ({compiler!r} is not found; CXX names another one)"
    if shutil.which("ninja", path=search_path()) is None:
        return "no ninja (pip install ninja)"
    if device_type == "cuda" and (home := cpp_extension.CUDA_HOME) is None:
        return "no CUDA compiler (nvcc is not found; CUDA_HOME names its folder)"
    elif device_type == "cuda" and not Path(home, "bin", "nvcc").exists():
        return f"no CUDA compiler (no bin/nvcc in CUDA_HOME, {home})"
    return None


def search_path() -> str:
    """PATH and the folder of this interpreter's scripts, which holds a ninja that pip installed."""
    return os.pathsep.join((os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)))


def compiler_flags() -> tuple[list[str], str]:
    """The flags that this machine's compiler takes, and what it then says of itself and of the CPU.

    The latter is a part of the cache's key: a home directory may be shared by unlike machines.
    """
    from torch.utils import cpp_extension

    flags, macros = ["-O3", "-std=c++17"], ""
    for flag in ("-march=native", "-fopenmp"):
        trial = subprocess.run(
            [cpp_extension.get_cxx_compiler(), *flags, flag, "-dM", "-E", "-x", "c++", os.devnull],
            capture_output=True,
            text=True,
        )
        if trial.returncode == 0:
            flags, macros = [*flags, flag], trial.stdout
    return flags, macros


def cuda_flags() -> list[str]:
    """nvcc's flags: machine code for the GPUs of this machine."""
    found = {torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())}
    targets = [
        f"-gencode=arch=compute_{major}{minor},code=sm_{major}{minor}"
        for major, minor in sorted(found)
    ]
    return ["-O3", "-std=c++17", "-lineinfo", *targets]


def build(device_type: str, verbose: bool = False) -> ModuleType:
    """The kernels of `device_type`, from the cache or built into it.

    The build has a folder of its own and its result is moved into the cache in one step: processes
    may build side by side, and one that was killed leaves no lock for others to wait at.

    Raises:
        BuildError: if the build fails.
    """
    from torch.utils import cpp_extension

    flags, macros = compiler_flags()
    cuda = device_type == "cuda"
    nvcc_flags = cuda_flags() if cuda else []
    key = hashlib.sha256(repr((flags, macros, nvcc_flags, torch.__version__)).encode())
    key.update(sys.version.encode())
    for source in sorted(SOURCES.iterdir()):
        key.update(source.read_bytes())
    name = f"pararnn_{device_type}_{key.hexdigest()[:16]}"
    root = os.environ.get("TORCH_EXTENSIONS_DIR") or cpp_extension.get_default_build_root()
    folder = Path(root) / "manzano"
    built = folder / f"{name}.so"
    if not built.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=name, dir=folder) as own:
            module = compile_into(own, name, device_type, flags, nvcc_flags, verbose)
            os.replace(Path(own, f"{name}.so"), built)
            return module
    spec = importlib.util.spec_from_file_location(name, built)
    if spec is None or spec.loader is None:
        raise BuildError(f"{built} is no extension module: delete it")
    try:
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except ImportError as error:
        raise BuildError(f"{built} does not load ({error}): delete it to build it anew") from error
    return module


def compile_into(
    folder: str, name: str, device_type: str, flags: list[str], nvcc_flags: list[str], verbose: bool
) -> ModuleType:
    """Build module `name` in `folder` with torch's extension builder, and load it."""
    from torch.utils import cpp_extension

    path = os.environ.get("PATH")
    os.environ["PATH"] = search_path()
    try:
        return cpp_extension.load(  # pyright: ignore (a module, for it is asked for one)
            name,
            [str(SOURCES / file) for file in FILES[device_type]],
            extra_cflags=flags,
            extra_cuda_cflags=nvcc_flags,
            extra_ldflags=["-fopenmp"] if "-fopenmp" in flags else [],
            build_directory=folder,
            with_cuda=device_type == "cuda",
            verbose=verbose,
        )
    except (RuntimeError, OSError, ImportError) as error:
        reason = str(error).strip().splitlines()
        raise BuildError(
            f"building ParaRNN's kernels for {device_type} has failed: "
            f"{reason[0] if reason else type(error).__name__}. See why with: {COMMAND} "
            f'{device_type}. Until then, solver="sequential" and "newton" need no kernels'
        ) from error
    finally:
        if path is None:
            del os.environ["PATH"]
        else:
            os.environ["PATH"] = path


if __name__ == "__main__":
    build(sys.argv[1] if len(sys.argv) > 1 else "cpu", verbose=True)
