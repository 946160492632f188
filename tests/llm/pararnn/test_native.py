"""Native kernels: found, built, cached and loaded; and what happens where that is not possible."""

import json
import math
import re
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch

from manzano.llm.pararnn import GRU_CELL, LSTM_CELL, native, solve
from manzano.llm.pararnn.native import BuildError

ROOT = Path(__file__).parents[3]

needs_kernels = pytest.mark.skipif(
    native.missing_tool("cpu") is not None, reason=str(native.missing_tool("cpu"))
)
no_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
every_device = pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, no_gpu])]
)


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """As in a new process with an empty cache."""
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    native.library_or_error.cache_clear()
    yield tmp_path / "manzano"
    native.library_or_error.cache_clear()


@pytest.fixture
def no_compiler(fresh, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")


@pytest.fixture
def broken_source(fresh, monkeypatch, tmp_path):
    """Sources that a compiler refuses."""
    sources = tmp_path / "csrc"
    sources.mkdir()
    (sources / "broken.cpp").write_text("this is no C++\n")
    monkeypatch.setattr(native, "SOURCES", sources)
    monkeypatch.setitem(native.FILES, "cpu", ("broken.cpp",))


def problem():
    return torch.randn(2, 9, 3, 5), torch.randn(3, 5)


@pytest.mark.parametrize("solver", ["fused", "reduction", "auto"])
def test_without_a_compiler_pytorch_serves_and_says_so_once(no_compiler, solver):
    preactivations, parameters = problem()
    with pytest.warns(
        UserWarning, match="no C\\+\\+ compiler.*CXX.*PyTorch solves instead"
    ) as said:
        states, _, report = solve(GRU_CELL, preactivations, parameters * 0.1, solver=solver)
        solve(GRU_CELL, preactivations, parameters * 0.1, solver=solver)
    assert len(said) == 1
    assert report.solver == {"fused": "sequential", "reduction": "reduction"}.get(
        solver, report.solver
    )
    expected, _, _ = solve(GRU_CELL, preactivations, parameters * 0.1, solver="sequential")
    torch.testing.assert_close(states, expected)


def test_without_nvcc_it_is_said_for_cuda(monkeypatch):
    from torch.utils import cpp_extension

    monkeypatch.setattr(cpp_extension, "CUDA_HOME", None)
    assert "CUDA_HOME" in (native.missing_tool("cuda") or "")


@pytest.mark.parametrize("solver", ["fused", "reduction", "auto"])
@needs_kernels
def test_a_failed_build_is_one_error_with_the_command_to_see_why(broken_source, solver):
    preactivations, parameters = problem()
    for _ in range(2):  # the second time it is remembered
        with pytest.raises(BuildError, match="python -m manzano.llm.pararnn.native cpu"):
            solve(GRU_CELL, preactivations, parameters, solver=solver)
    solve(GRU_CELL, preactivations, parameters, solver="sequential")


@needs_kernels
def test_the_command_shows_what_the_compiler_says(broken_source):
    code = (
        "import sys; from pathlib import Path; from manzano.llm.pararnn import native\n"
        f"native.SOURCES = Path({str(native.SOURCES)!r}); native.FILES['cpu'] = ('broken.cpp',)\n"
        "native.build('cpu', verbose=True)"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 1
    assert "this is no C++" in result.stdout + result.stderr


@pytest.fixture
def small_source(fresh, monkeypatch):
    """Sources that take little time."""
    monkeypatch.setitem(native.FILES, "cpu", ("only.cpp",))
    sources = fresh.parent / "csrc"
    sources.mkdir()
    (sources / "only.cpp").write_text(
        f"// {sources}: torch's builder renames what it has built before\n"
        "#include <Python.h>\n"
        'static PyModuleDef module = {PyModuleDef_HEAD_INIT, "only", nullptr, -1};\n'
        "#define INIT_(name) PyInit_##name\n#define INIT(name) INIT_(name)\n"
        "PyMODINIT_FUNC INIT(TORCH_EXTENSION_NAME)() { return PyModule_Create(&module); }\n"
    )
    monkeypatch.setattr(native, "SOURCES", sources)


@needs_kernels
def test_a_build_is_kept_and_leaves_nothing_else(fresh, small_source, monkeypatch):
    assert native.build("cpu") is not None
    (built,) = fresh.iterdir()
    before = built.stat().st_mtime_ns
    assert native.build("cpu").__file__ == str(built)  # loaded, not built
    assert built.stat().st_mtime_ns == before
    other = fresh / "other" / "manzano"  # where what is kept does not load
    other.mkdir(parents=True)
    (other / built.name).write_text("no library")
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(other.parent))
    with pytest.raises(BuildError, match=f"{built.name} does not load .* delete it"):
        native.build("cpu")


@needs_kernels
def test_threads_that_want_the_kernels_at_once_build_them_once(fresh, small_source):
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(native.library, ["cpu"] * 3))
    assert found[0] is not None and all(one is found[0] for one in found)
    assert len(list(fresh.iterdir())) == 1


def test_importing_compiles_nothing_and_loads_no_builder():
    code = (
        "import sys\nfrom manzano.llm.pararnn import fused, native, reduction\n"
        "assert native.library_or_error.cache_info().currsize == 0\n"
        "assert 'torch.utils.cpp_extension' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_a_device_without_kernels_has_none():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert native.library("meta") is None


def test_the_sources_are_shipped_with_the_package():
    project = (ROOT / "pyproject.toml").read_text()
    (line,) = re.findall(r"package-data\]\nmanzano = (\[.*\])", project)
    patterns = json.loads(line)
    for source in native.SOURCES.iterdir():
        path = str(source.relative_to(ROOT / "manzano"))
        assert [pattern for pattern in patterns if fnmatch(path, pattern)], path


def units(found: torch.Tensor, exact: torch.Tensor) -> float:
    """The largest error of fp32 values in units of the last place."""
    _, exponent = torch.frexp(exact.abs().clamp(min=torch.finfo(torch.float32).tiny).double())
    return float(((found.double() - exact).abs() / torch.exp2(exponent.double() - 24)).max())


@needs_kernels
@every_device
def test_tanh_and_sigmoid_of_the_kernels_are_good_to_a_few_units_in_the_last_place(device):
    """A GRU with z = 1 and no past gives tanh(u_c), an LSTM with z = 0 and c' = 1 sigmoid(u_f)."""
    x = torch.cat((torch.linspace(-30, 30, 200_001), torch.logspace(-30, 1, 2001))).unsqueeze(0)
    preactivations = torch.zeros(1, 1, 3, x.shape[1])
    preactivations[0, 0, 0], preactivations[0, 0, 2] = 100, x
    inputs = [y.to(device) for y in (preactivations, torch.zeros(3, x.shape[1]))]
    tanh, _, _ = solve(GRU_CELL, *inputs, solver="fused")
    assert units(tanh[0, 0].cpu(), x.double().tanh()) <= 3
    preactivations = torch.zeros(1, 1, 3, x.shape[1])
    preactivations[0, 0, 0] = x
    state = torch.zeros(1, 2, x.shape[1])
    state[0, 0] = 1
    inputs = [y.to(device) for y in (preactivations, torch.zeros(5, x.shape[1]), state)]
    sigmoid, _, _ = solve(LSTM_CELL, *inputs, solver="fused")
    assert units(sigmoid[0, 0, :1].cpu(), x.double().sigmoid()) <= 3


@needs_kernels
@every_device
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_non_finite_values_come_out_as_from_the_loop(value, device):
    preactivations, parameters = problem()
    preactivations[0, 3, 2, 1] = value
    expected, _, _ = solve(GRU_CELL, preactivations, parameters, solver="sequential")
    states, _, _ = solve(GRU_CELL, preactivations.to(device), parameters.to(device), solver="fused")
    torch.testing.assert_close(states.cpu(), expected, equal_nan=True)
