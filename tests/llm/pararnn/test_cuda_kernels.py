"""The CUDA kernels: they compile for all targets; run on a CPU by emulation, they compute what the
plain loop does; on a GPU, where one is, so does the real thing."""

import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from manzano.llm.pararnn import SolverOptions, fused, native, reduction, solve
from manzano.llm.pararnn.newton import parallel_reduction
from tests.llm.pararnn.emulation import build_emulated
from tests.llm.pararnn.recurrences import CELLS, Case, allowed_errors, errors, results

NVCC = shutil.which("nvcc")
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
CASES = [
    *(Case(cell, steps) for cell in CELLS for steps in (1, 31, 150)),
    *(Case(cell, 150, rows=1, channels=20, packed=(0, 1, 2, 33, 100, 150)) for cell in CELLS),
    *(Case(cell, 150, memory=6.0) for cell in CELLS),
    Case("gru", 200, rows=1, channels=4, parity=True),
]
REDUCTIONS = [(2, 50, 5), (1, 700, 11), (1, 3077, 9)]  # rows, steps, channels
"""Within a block's segment; some segments; several stretches of time, in three launches."""

every_case = pytest.mark.parametrize("case", CASES, ids=str)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d)[6:])
every_chunks = pytest.mark.parametrize("chunks", [1, 4, 20])
every_block = pytest.mark.parametrize("block", [1, 2, 3, 4])
every_size = pytest.mark.parametrize("rows, steps, channels", REDUCTIONS)
both_ways = pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reversed"])


@pytest.mark.skipif(NVCC is None, reason="nvcc is not installed: CUDA kernels are not compiled")
def test_every_kernel_compiles_for_every_target(tmp_path):
    """To machine code, unoptimised, which says as much in a fraction of the time."""
    targets = [f"-gencode=arch=compute_{sm},code=sm_{sm}" for sm in (80, 90, 100)]

    def compile_one(source: str) -> subprocess.CompletedProcess[str]:
        command = [
            *(str(NVCC), "-std=c++17", *targets, "-Xcicc", "-O0", "-Xptxas", "-O0"),
            *("-Werror", "all-warnings", "-c", str(native.SOURCES / source)),
            *("-o", str(tmp_path / f"{source}.o")),
        ]
        return subprocess.run(command, capture_output=True, text=True)

    sources = [source for source in native.FILES["cuda"] if source.endswith(".cu")]
    with ThreadPoolExecutor(len(sources)) as pool:
        for result in pool.map(compile_one, sources):
            assert result.returncode == 0, result.stderr


# ---- by emulation ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def emulated_module(tmp_path_factory):
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed: CUDA kernels are not emulated")
    return build_emulated(tmp_path_factory.mktemp("emulated"))


@pytest.fixture
def emulated(emulated_module, monkeypatch):
    """`fused` and its gradient run the CUDA kernels on CPU tensors."""
    monkeypatch.setattr(fused, "kernels", lambda _: emulated_module)
    monkeypatch.setattr(fused, "on_device", lambda _: [0, 0])
    return emulated_module


@every_case
@every_dtype
@every_chunks
def test_emulated_fused_kernels_are_as_good_as_the_loop(emulated, case, dtype, chunks):
    found = errors(case, results(case, dtype, "fused", SolverOptions(chunks=chunks)))
    allowed = allowed_errors(case, dtype)
    assert {name: (e, allowed[name]) for name, e in found.items() if not e <= allowed[name]} == {}


@pytest.mark.parametrize("sweeps", [1, 64])
def test_emulated_shooting_gives_a_trajectory_in_chaos(emulated, sweeps):
    case = Case("gru", 300, 8.0, rows=1, channels=16)
    inputs = [x.float() for x in case.inputs()]
    options = SolverOptions(chunks=8, max_iterations=sweeps)
    states, _, report = solve(CELLS["gru"], *inputs, solver="fused", options=options)
    before = torch.cat((inputs[2].unsqueeze(1), states[:, :-1]), dim=1)
    after = CELLS["gru"].step(before.double(), inputs[0].double(), inputs[1].double())
    assert float((states - after).abs().max()) <= 8 * torch.finfo(torch.float32).eps
    assert report.summary()["iterations"] <= min(sweeps, 8) + 1
    assert report.summary()["residual"] <= 2 * torch.finfo(torch.float32).eps


def linear_problem(block: int, rows: int, steps: int, channels: int, device: str = "cpu"):
    """Random blocks, with a reset within, and right sides, fp64."""
    generator = torch.Generator().manual_seed(steps)
    blocks = torch.randn(
        rows, steps, block, block, channels, generator=generator, dtype=torch.float64
    )
    blocks[:, steps // 3] = 0
    right = torch.randn(rows, steps, block, channels, generator=generator, dtype=torch.float64)
    return (blocks / (2 * block**0.5)).to(device), right.to(device)


@every_block
@every_size
@both_ways
def test_the_cpu_recurrence_is_that_of_pytorch(block, rows, steps, channels, reverse):
    if missing := native.missing_tool("cpu"):
        pytest.skip(missing)
    blocks, right = linear_problem(block, rows, steps, channels)
    found = reduction.native_recurrence(blocks, right, reverse)
    expected = parallel_reduction(blocks, right, reverse)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


@every_block
@every_size
@both_ways
def test_the_emulated_recurrence_is_that_of_pytorch(
    emulated_module, block, rows, steps, channels, reverse
):
    blocks, right = linear_problem(block, rows, steps, channels)
    size = emulated_module.reduction_bytes(8, block, rows, steps, channels)
    assert (size > 0) == (steps > 3000)
    scratch, found = torch.empty(size + 1, dtype=torch.uint8), torch.full_like(right, torch.nan)
    pointers = [x.data_ptr() for x in (blocks, right, found, scratch)]
    emulated_module.reduction(True, block, reverse, rows, steps, channels, *pointers, 0, 0)
    expected = parallel_reduction(blocks, right, reverse)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


# ---- on a GPU ----------------------------------------------------------------------------------

on_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def gpu(mark_test):
    for mark in on_gpu:
        mark_test = mark(mark_test)
    return mark_test


def gpu_results(name: str, dtype: torch.dtype, chunks: int, device: str, shape=(2, 300, 70)):
    """States and gradients of one problem on `device`."""
    rows, steps, channels = shape
    cell, generator = CELLS[name], torch.Generator().manual_seed(0)
    state = torch.float32 if dtype.itemsize < 4 else dtype
    leaves = [
        torch.randn(size, generator=generator).bfloat16().to(d).to(device).requires_grad_()
        for size, d in (
            ((rows, steps, 3, channels), dtype),
            ((cell.num_parameters, channels), state),
            ((rows, cell.state_size, channels), state),
        )
    ]
    states, final, _ = solve(cell, *leaves, solver="fused", options=SolverOptions(chunks=chunks))
    return [states, final, *torch.autograd.grad(states.float().square().sum(), leaves)]


@gpu
@pytest.mark.parametrize("name", CELLS)
@every_dtype
@every_chunks
def test_gpu_and_cpu_agree(name, dtype, chunks):
    found = gpu_results(name, dtype, chunks, "cuda")
    expected = gpu_results(name, dtype, 1, "cpu")
    for x, y in zip(found, expected, strict=True):
        scale = max(1.0, float(y.detach().abs().max()))
        eps = torch.finfo(dtype).eps
        torch.testing.assert_close(x.cpu(), y, rtol=4 * eps, atol=64 * eps * scale)


@gpu
@pytest.mark.parametrize("name", CELLS)
@every_chunks
def test_gpu_results_are_the_same_bits_every_time_and_on_any_stream(name, chunks):
    first = gpu_results(name, torch.float32, chunks, "cuda", (3, 1000, 200))
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        second = gpu_results(name, torch.float32, chunks, "cuda", (3, 1000, 200))
        torch.cuda.current_stream().synchronize()
    for x, y in zip(first, second, strict=True):
        assert torch.equal(x, y)


@gpu
@every_block
@every_size
@both_ways
def test_the_gpu_recurrence_is_that_of_pytorch(block, rows, steps, channels, reverse):
    blocks, right = linear_problem(block, rows, steps, channels, "cuda")
    found = reduction.native_recurrence(blocks, right, reverse)
    expected = parallel_reduction(blocks.cpu(), right.cpu(), reverse)
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-11, atol=1e-11)


@gpu
def test_the_host_does_not_wait_for_the_gpu():
    gpu_results("gru", torch.float32, 8, "cuda")  # builds, and warms up
    tensors = (torch.randn(1, 512, 3, 64), torch.randn(3, 64), torch.randn(1, 1, 64))
    leaves = [x.cuda().requires_grad_() for x in tensors]
    torch.cuda.set_sync_debug_mode("error")
    try:
        states, _, _ = solve(CELLS["gru"], *leaves, solver="fused")
        states.sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
