"""The CUDA kernels: they compile for all targets; run on a CPU by emulation, they compute what the
plain loop does; on a GPU, where one is, so does the real thing."""

import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch.library import opcheck

from manzano.llm.pararnn import ParaGRU, ParaLSTM, SolverOptions, fused, native, reduction, solve
from manzano.llm.pararnn.newton import parallel_reduction
from tests.llm.pararnn.emulation import build_emulated, run_threads_in_order
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


@every_chunks
@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=lambda d: str(d)[6:])
def test_emulated_threads_may_take_turns_in_any_order(emulated, name, dtype, chunks):
    case = Case(name, 150, rows=1, channels=20, packed=(0, 1, 2, 33, 100, 150))
    expected = results(case, dtype, "fused", SolverOptions(chunks=chunks))
    try:
        for order in (-1, 1, 2):
            run_threads_in_order(emulated, order)
            found = results(case, dtype, "fused", SolverOptions(chunks=chunks))
            assert all(torch.equal(found[name], x) for name, x in expected.items()), order
    finally:
        run_threads_in_order(emulated, 0)


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


def without_barriers(folder: Path) -> Path:
    """The kernels' sources, with every __syncthreads() deleted."""
    sources = folder / "csrc"
    shutil.copytree(native.SOURCES, sources)
    for source in sources.glob("*.cu"):
        source.write_text(source.read_text().replace("__syncthreads();", ""))
    return sources


def test_emulation_finds_missing_barriers(tmp_path, monkeypatch):
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed: CUDA kernels are not emulated")
    module = build_emulated(tmp_path, without_barriers(tmp_path))
    monkeypatch.setattr(fused, "kernels", lambda _: module)
    monkeypatch.setattr(fused, "on_device", lambda _: [0, 0])
    preactivations, parameters = torch.randn(1, 64, 3, 5), torch.rand(3, 5).requires_grad_()
    states, _, _ = solve(
        CELLS["gru"], preactivations, parameters, solver="fused", options=SolverOptions(chunks=1)
    )
    with pytest.raises(RuntimeError, match="race: thread .* in shared memory"):
        solve(CELLS["gru"], preactivations, parameters, options=SolverOptions(chunks=4))
    state = torch.zeros(1, 1, 5)
    inputs = (torch.ones_like(states), state, preactivations, parameters, state, None)
    with pytest.raises(RuntimeError, match="race: thread .* in shared memory"):
        torch.ops.manzano.pararnn_backward(*inputs, states, 0, 4)
    tensors = *linear_problem(1, 1, 50, 5), torch.empty(1, 50, 1, 5, dtype=torch.float64)
    pointers = [x.data_ptr() for x in tensors]
    with pytest.raises(RuntimeError, match="race: thread"):
        module.reduction(True, 1, False, 1, 50, 5, *pointers, 0, 0, 0)


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


@gpu
@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=lambda d: str(d)[6:])
@pytest.mark.parametrize("channels", [1, 19, 70])
def test_gpu_honours_strides_and_packs(name, dtype, channels):
    """Rows of any layout, and the same as sequences of one packed row: the same bits."""
    cell, options = CELLS[name], SolverOptions(chunks=1)
    rows = torch.randn(3, 45, 3, channels, device="cuda").to(dtype)
    parameters = torch.randn(cell.num_parameters, channels, device="cuda")
    expected, final, _ = solve(cell, rows, parameters, solver="fused", options=options)
    wide = torch.full((*rows.shape[:3], 2 * channels), torch.nan, dtype=dtype, device="cuda")
    wide[..., ::2] = rows
    for layout in (rows.permute(3, 2, 0, 1).contiguous().permute(2, 3, 1, 0), wide[..., ::2]):
        found, _, _ = solve(cell, layout, parameters, solver="fused", options=options)
        assert torch.equal(found, expected)
    borders = torch.tensor([0, 45, 90, 135], dtype=torch.int32, device="cuda")
    packed, finals, _ = solve(
        cell, rows.reshape(1, 135, 3, -1), parameters, cu_seqlens=borders, options=options
    )
    assert torch.equal(packed.view(expected.shape), expected) and torch.equal(finals, final)


@gpu
@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("chunks", [1, 5])
def test_gpu_opcheck(name, chunks):
    cell = CELLS[name]
    shapes = (2, 33, 3, 19), (cell.num_parameters, 19), (2, cell.state_size, 19)
    leaves = [torch.randn(shape, device="cuda").requires_grad_() for shape in shapes]
    number = list(CELLS).index(name)
    opcheck(torch.ops.manzano.pararnn_forward.default, (*leaves, None, number, chunks, 16, 1e-7))


@gpu
@pytest.mark.parametrize("name", CELLS)
def test_gpu_layers_run_compiled_and_under_autocast(name):
    layer = {"gru": ParaGRU, "lstm": ParaLSTM}[name](8, 16, num_heads=2, device="cuda")
    x = torch.randn(2, 21, 8, device="cuda")
    y, _ = layer(x)
    compiled, _ = torch.compile(layer, fullgraph=True, backend="aot_eager")(x)
    torch.testing.assert_close(compiled, y)
    with torch.autocast("cuda", torch.bfloat16):
        rounded, state = layer(x)
    assert rounded.dtype == torch.bfloat16 and state.dtype == torch.float32
    torch.testing.assert_close(rounded.float(), y, rtol=0.05, atol=0.05)


@gpu
@every_chunks
def test_a_cuda_graph_replays_it_for_other_input(chunks):
    """Also in chunks, whose count of sweeps is another then: nothing is decided on the host."""
    leaves = [torch.randn(1, 256, 3, 40), torch.randn(3, 40), torch.randn(1, 1, 40)]
    leaves = [x.cuda().requires_grad_() for x in leaves]

    def run() -> list[torch.Tensor]:
        options = SolverOptions(chunks=chunks)
        states, final, _ = solve(CELLS["gru"], *leaves, solver="fused", options=options)
        return [states, final, *torch.autograd.grad(states.square().sum(), leaves)]

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        held = run()
    with torch.no_grad():
        leaves[0].copy_(torch.randn_like(leaves[0]) - 3)
    graph.replay()
    for found, expected in zip(held, run(), strict=True):
        assert torch.equal(found, expected)
