"""Speed and memory of the nonlinear recurrences, side by side in one run.

    python benchmarks/pararnn.py
    python benchmarks/pararnn.py --device cuda --dtype bfloat16 --shape 8 2048 2048
    python benchmarks/pararnn.py --cell lstm --compiled-loop --repeats 5

Rows, for every shape (B, T, D), forward alone and forward with backward:

    the recurrence alone   preactivations given: the plain loop (unbound once; with --compiled-loop
                           also with a compiled step), every solver, a plain linear scan
    with projections       the whole layer with 4 heads, by its fast solver and by the plain loop;
                           torch.nn.GRU or LSTM of the same width
    floor                  bytes that must be moved, over what a copy reaches in the same run

All rows of a shape take turns, so that a busy machine slows them alike, and each runs once
unmeasured before it is timed, so that what the row before it left in the caches does not count.
Median and minimum of the repeats are given; peak memory is what one forward and backward adds. It
writes a table and a picture into --output.

On a GPU there are two times of a call. One is what a program sees that makes call after call: quick
kernels wait there for Python to launch them. The other is the device's own, of the same work in a
CUDA graph, for rows that decide nothing on the host.
"""

import argparse
import ctypes
import gc
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from manzano.llm.pararnn import (
    GRU_CELL,
    LSTM_CELL,
    Cell,
    ConvergenceError,
    ParaRNNLayer,
    SolverOptions,
    memory,
    native,
    solve,
)
from manzano.llm.pararnn.reduction import native_recurrence

CELLS = {"gru": (GRU_CELL, nn.GRU), "lstm": (LSTM_CELL, nn.LSTM)}
SHAPES = [(1, 4096, 256), (8, 1024, 512)]
RESULTS = Path(__file__).parent / "results"
LOOP, SLOW = "plain loop", 3  # the loop and other slow rows are timed fewer times
CALLS = 10  # in a row, of quick rows on a GPU


@dataclass
class Row:
    """One way to compute, and what was measured of it."""

    name: str
    forward: Callable[[], Tensor]
    leaves: list[Tensor]
    """What gradients are asked for; also what is read."""
    in_graph: bool = False
    """Whether a CUDA graph can hold it: nothing is read on the host."""
    forward_seconds: list[float] = field(default_factory=list)
    both_seconds: list[float] = field(default_factory=list)
    forward_on_device: list[float] = field(default_factory=list)
    both_on_device: list[float] = field(default_factory=list)
    peak_bytes: int | None = None
    failure: str = ""


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(device: torch.device, run: Callable[[], object]) -> int | None:
    """Bytes that `run` has at most on top of what was there; None where that cannot be read."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    reset, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if not status.exists() or trim is None:
        return None
    # What earlier runs have left goes back to the system, or it would serve this one unseen.
    memory.unused.clear()
    trim(0)
    reset.write_text("5")  # the high-water mark starts again

    def read(name: str) -> int:
        (line,) = (line for line in status.read_text().splitlines() if line.startswith(name))
        return int(line.split()[1]) * 1024

    before = read("VmRSS")
    run()
    return max(0, read("VmHWM") - before)


def timed(device: torch.device, run: Callable[[], object], calls: int = 1) -> float:
    """Seconds a call, of so many calls in a row."""
    synchronize(device)
    gc.disable()  # as timeit does: what is collected is not of this row
    try:
        start = time.perf_counter()
        for _ in range(calls):
            run()
        synchronize(device)
        return (time.perf_counter() - start) / calls
    finally:
        gc.enable()


def timed_in_graph(run: Callable[[], object], repeats: int) -> list[float]:
    """Seconds of a GPU's own work in `run`, recorded in a CUDA graph once and replayed."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()
    torch.cuda.current_stream().wait_stream(stream)
    gc.collect()  # what is freed during the capture would break it
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    graph.replay()
    seconds = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(CALLS):
            graph.replay()
        end.record()
        end.synchronize()
        seconds.append(start.elapsed_time(end) / 1e3 / CALLS)
    return seconds


def copy_bandwidth(device: torch.device) -> float:
    """Bytes a second, read and written, of the fastest copy of 256 MiB."""
    source = torch.ones(2**26, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    calls = CALLS if device.type == "cuda" else 1
    seconds = min(timed(device, lambda: target.copy_(source), calls) for _ in range(10))
    return 2 * source.nbytes / seconds


def recurrence_rows(cell: Cell, shape, dtype, device, compiled_loop: bool) -> list[Row]:
    """The recurrence alone, preactivations given; weights as the layers begin with."""
    rows, steps, channels = shape
    state_dtype = torch.float32 if dtype.itemsize < 4 else dtype
    preactivations = torch.randn(rows, steps, cell.num_preactivations, channels, device=device)
    parameters = torch.randn(cell.num_parameters, channels, device=device) * channels**-0.5
    leaves = [
        preactivations.to(dtype).requires_grad_(),
        parameters.to(state_dtype).clamp(-0.5, 0.5).requires_grad_(),
    ]

    def by(name: str, solved: Cell = cell, options: SolverOptions = SolverOptions()):  # noqa: B008
        return lambda: solve(solved, *leaves, solver=name, options=options)[0]

    listed = [Row(LOOP, by("sequential"), leaves)]
    if compiled_loop:
        step = torch.compile(cell.step)

        def loop() -> Tensor:
            inputs, weights = leaves
            state = inputs.new_zeros(rows, cell.state_size, channels, dtype=state_dtype)
            states = []
            for each in inputs.to(state_dtype).unbind(1):
                state = step(state, each, weights)
                states.append(state)
            return torch.stack(states, dim=1).to(dtype)

        listed.append(Row("plain loop, compiled step", loop, leaves))
    listed += [Row(name, by(name), leaves) for name in ("newton", "reduction")]
    listed += [Row(name, by(name), leaves, in_graph=True) for name in ("fused", "auto")]
    cuts = {"one exact sweep": 1} | ({"16 chunks": 16} if device.type == "cuda" else {})
    for name, chunks in cuts.items():
        run = by("fused", options=SolverOptions(chunks=chunks))
        listed.append(Row(f"fused, {name}", run, leaves, in_graph=True))
    if native.available(device.type):
        blocks = torch.rand(rows, steps, 1, 1, channels, device=device, dtype=state_dtype)
        inputs = torch.randn(rows, steps, 1, channels, device=device, dtype=state_dtype)
        scanned = [blocks.requires_grad_(), inputs.requires_grad_()]
        scan = partial(native_recurrence, *scanned, False)
        listed.append(Row("linear scan", scan, scanned, in_graph=True))
    return listed


def layer_rows(cell: Cell, reference: type, shape, dtype, device) -> list[Row]:
    """Whole layers, projections and all."""
    rows, steps, channels = shape
    x = torch.randn(rows, steps, channels, device=device, dtype=dtype).requires_grad_()
    listed = []
    for solver in ("sequential", "auto"):
        layer = ParaRNNLayer(
            cell, channels, channels, num_heads=4, solver=solver, device=device, dtype=dtype
        )
        name = f"layer of 4 heads, {LOOP if solver == 'sequential' else solver}"
        leaves = [x, *layer.parameters()]
        in_graph = solver == "auto"
        listed.append(Row(name, lambda layer=layer: layer(x)[0], leaves, in_graph))
    torch_layer = reference(channels, channels, batch_first=True, device=device, dtype=dtype)
    name = f"torch.nn.{reference.__name__}"
    listed.append(Row(name, lambda: torch_layer(x)[0], [x, *torch_layer.parameters()]))
    return listed


def measure(listed: list[Row], device: torch.device, repeats: int) -> None:
    """Fill in the rows: once to warm up, then in turns."""

    def forward(row: Row) -> None:
        with torch.no_grad():
            row.forward()

    def both(row: Row, weights: Tensor) -> None:
        torch.autograd.grad(row.forward(), row.leaves, weights)

    weights, limits, calls = {}, {}, {}
    for row in listed:
        try:
            forward(row)
            weights[row.name] = torch.randn_like(row.forward())
            both(row, weights[row.name])
            run = partial(both, row, weights[row.name])
            row.peak_bytes = peak_memory(device, run)
            seconds = timed(device, run)
            limits[row.name] = SLOW if seconds > 1 else repeats
            calls[row.name] = CALLS if device.type == "cuda" and seconds < 0.01 else 1
            if device.type == "cuda" and row.in_graph:
                row.forward_on_device = timed_in_graph(partial(forward, row), repeats)
                row.both_on_device = timed_in_graph(run, repeats)
        except ConvergenceError as error:
            row.failure = f"{error}".split(";")[0]
    for turn in range(repeats):
        for row in listed:
            if not row.failure and turn < limits[row.name]:
                runs = partial(forward, row), partial(both, row, weights[row.name])
                for run, seconds in zip(runs, (row.forward_seconds, row.both_seconds), strict=True):
                    run()
                    seconds.append(timed(device, run, calls[row.name]))


def floors(cell: Cell, shape, dtype: torch.dtype) -> tuple[int, int]:
    """Bytes of the recurrence, forward, and forward with backward.

    Forward reads preactivations and writes states; backward reads both and the states' gradient,
    and writes the preactivations' gradient.
    """
    elements = shape[0] * shape[1] * shape[2] * dtype.itemsize
    gates, states = cell.num_preactivations, cell.state_size
    return (gates + states) * elements, (3 * gates + 3 * states) * elements


def table(listed: list[Row], loop_name: str, floor: tuple[float, float] | None) -> str:
    """One Markdown table: milliseconds, and how many times faster than the loop (medians).

    Where a GPU was timed by itself also its milliseconds, and how many times the floor they are.
    """

    def milliseconds(seconds: list[float]) -> str:
        if not seconds:
            return ""
        return f"{statistics.median(seconds) * 1e3:.3f} / {min(seconds) * 1e3:.3f}"

    def times(seconds: list[float], other: float) -> str:
        return f"{statistics.median(seconds) / other:.2f}" if seconds and other else ""

    loop = next(row for row in listed if row.name == loop_name)
    by_itself = any(row.forward_on_device for row in listed)
    names = ("ms (median / min)", "× loop", *(("device, ms", "× floor") if by_itself else ()))
    heads = [f"{part}, {name}" for part in ("forward", "forward+backward") for name in names]
    lines = ["| | " + " | ".join([*heads, "peak, MiB"]) + " |", "|---" * (len(heads) + 2) + "|"]
    for row in listed:
        if row.failure:
            lines.append(f"| {row.name} | {row.failure} |" + " |" * len(heads))
            continue
        cells = []
        for own, of_loop, on_device, least in (
            (row.forward_seconds, loop.forward_seconds, row.forward_on_device, 0),
            (row.both_seconds, loop.both_seconds, row.both_on_device, 1),
        ):
            ratio = statistics.median(of_loop) / statistics.median(own)
            cells += [milliseconds(own), f"{ratio:.1f}"]
            if by_itself:
                cells += [milliseconds(on_device), times(on_device, floor[least] if floor else 0)]
        cells.append("" if row.peak_bytes is None else f"{row.peak_bytes / 2**20:.0f}")
        lines.append(f"| {row.name} | " + " | ".join(cells) + " |")
    if floor:
        empty = " |" * (len(names) - 1)
        least = [f" {seconds * 1e3:.3f} |{empty}" for seconds in floor]
        lines.append(f"| floor (bytes) |{least[0]}{least[1]} |")
    return "\n".join(lines)


def draw(charts: list[tuple[str, list[Row], tuple[float, float] | None]], path: Path) -> None:
    """A bar for every row: the median of forward with backward, on a logarithmic scale."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    heights = [len(listed) for _, listed, _ in charts]
    figure, axes = pyplot.subplots(
        len(charts),
        1,
        figsize=(9, 1.2 * len(charts) + 0.32 * sum(heights)),
        height_ratios=heights,
        squeeze=False,
    )
    for axis, (title, listed, floor) in zip(axes[:, 0], charts, strict=True):
        done = [row for row in listed if not row.failure]
        values = [statistics.median(row.both_seconds) * 1e3 for row in done]
        bars = axis.barh([row.name for row in done], values, color="#4c72b0")
        axis.bar_label(bars, [f"{value:.3g}" for value in values], padding=3, fontsize=8)
        if floor:
            axis.axvline(floor[1] * 1e3, color="#c44e52", linestyle="--", label="byte floor")
            axis.legend(fontsize=8)
        axis.set(xscale="log", title=title, xlabel="forward + backward, ms (median)")
        axis.margins(x=0.15)
        axis.invert_yaxis()
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def hardware(device: torch.device) -> str:
    """What was measured on, in words."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads, torch {torch.__version__}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", type=int, nargs=3, action="append", metavar=("B", "T", "D"))
    parser.add_argument("--cell", choices=[*CELLS], action="append")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--compiled-loop", action="store_true", help="slow to compile")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    torch.manual_seed(0)
    bandwidth = copy_bandwidth(device)
    text = [
        "# ParaRNN",
        f"{hardware(device)}, {options.dtype}; a copy reaches {bandwidth / 1e9:.1f} GB/s. "
        f"Command: `{' '.join(['python', *sys.argv])}`, median and minimum of up to "
        f"{options.repeats}.",
    ]
    charts = []
    for name in options.cell or list(CELLS):
        cell, reference = CELLS[name]
        for shape in options.shape or SHAPES:
            title = f"{name}, B={shape[0]}, T={shape[1]}, D={shape[2]}, {options.dtype}"
            forward, both = floors(cell, shape, dtype)
            floor = forward / bandwidth, both / bandwidth
            alone = recurrence_rows(cell, shape, dtype, device, options.compiled_loop)
            whole = layer_rows(cell, reference, shape, dtype, device)
            measure([*alone, *whole], device, options.repeats)
            parts = (("recurrence", alone, floor), ("whole layer", whole, None))
            for what, listed, its_floor in parts:
                section = table(listed, listed[0].name, its_floor)
                print(f"\n## {title}: {what}\n\n{section}", flush=True)
                text.append(f"## {title}: {what}\n\n{section}")
                charts.append((f"{title}: {what}", listed, its_floor))
    options.output.mkdir(parents=True, exist_ok=True)
    stem = f"pararnn_{device.type}_{options.dtype}"
    (options.output / f"{stem}.md").write_text("\n\n".join(text) + "\n", encoding="utf-8")
    draw(charts, options.output / f"{stem}.png")


if __name__ == "__main__":
    main()
