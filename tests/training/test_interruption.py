"""Processes that are killed, and several ranks."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

COMMON = "--optim.lr=1e-2 --optim.ema_decay=0.9 --loop.log_every=1 --loop.max_steps=12".split()


def run(spawn, arguments: list[str], ranks: int = 1) -> None:
    processes, errors = spawn([*COMMON, *arguments], ranks)
    for process in processes:
        process.join(timeout=120)
        assert process.exitcode == 0, errors.read_text()


def weights(output: Path) -> dict[str, torch.Tensor]:
    return load_file(output / "export" / "model.safetensors")


@pytest.mark.parametrize("matrix_lr", [0.0, 1e-2])
def test_a_run_killed_and_given_again_equals_an_uninterrupted_one(
    tmp_path, spawn, figures, matrix_lr
):
    options = ["--loop.max_steps=1000", "--loop.log_every=50", "--loop.checkpoint_every=100"]
    options.append(f"--optim.matrix_lr={matrix_lr}")
    run(spawn, [*options, f"--loop.output={tmp_path / 'whole'}"])
    parts = tmp_path / "parts"
    (killed,), _ = spawn([*COMMON, *options, f"--loop.output={parts}"])
    while not (parts / "checkpoints" / "step-000200").exists():
        assert killed.is_alive()
        time.sleep(0.01)
    killed.kill()
    killed.join()
    assert not (parts / "export").exists()
    run(spawn, [*options, f"--loop.output={parts}"])
    assert figures(parts) == figures(tmp_path / "whole")
    for name, value in weights(tmp_path / "whole").items():
        assert torch.equal(value, weights(parts)[name])


def test_a_run_begun_with_older_code_goes_on_where_new_keys_have_their_defaults(
    tmp_path, spawn, figures
):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(spawn, [f"--loop.output={whole}"])
    run(spawn, [f"--loop.output={parts}", "--loop.max_steps=6"])
    (manifest,) = (parts / "checkpoints").glob("step-*/manifest.json")
    record = json.loads(manifest.read_text())
    for key in ("guard", "recompute"):
        del record["config"]["loop"][key]
    del record["config"]["ceiling"]
    manifest.write_text(json.dumps(record))
    with pytest.raises(AssertionError, match="ceiling .was 1000000.0, is 7.0."):
        run(spawn, [f"--loop.output={parts}", "--ceiling=7.0"])
    run(spawn, [f"--loop.output={parts}"])
    assert [line["step"] for line in figures(parts)] == [line["step"] for line in figures(whole)]


@pytest.mark.parametrize("matrix_lr", [0.0, 1e-2])
def test_two_ranks_equal_one_process_and_checkpoints_move_between_them(
    tmp_path, spawn, figures, matrix_lr
):
    one, two = tmp_path / "one", tmp_path / "two"
    options = ["--dropout=0", "--loop.preview_every=5", "--loop.validate_every=5"]
    options += [f"--optim.matrix_lr={matrix_lr}"]
    run(spawn, [*options, "--batch_size=4", f"--loop.output={one}"])
    run(spawn, [*options, "--batch_size=2", f"--loop.output={two}"], ranks=2)
    for single, sharded in zip(figures(one), figures(two), strict=True):
        assert single["loss"] == pytest.approx(sharded["loss"], rel=1e-6, abs=1e-6)
        assert single["grad_norm"] == pytest.approx(sharded["grad_norm"], rel=1e-5)
        toy = sharded.get("validation/toy")
        assert single.get("validation/toy") == (toy and pytest.approx(toy, rel=1e-5))
        assert (toy is None) == (single["step"] not in (5, 10, 12))
    for name, value in weights(one).items():
        torch.testing.assert_close(weights(two)[name], value, rtol=0, atol=1e-6)
    preview = Path("previews") / "step-000010" / "value.txt"
    assert float((one / preview).read_text()) == pytest.approx(
        float((two / preview).read_text()), rel=1e-5
    )
    for folder in (preview.parent, Path("export")):
        assert (two / folder / "kind.txt").read_text() == "Model False"

    moving = ["--dropout=0", "--batch_size=2", f"--loop.output={two}", options[-1]]
    (refused,), errors = spawn([*COMMON, *moving, "--loop.max_steps=14"])
    refused.join()
    assert refused.exitcode != 0
    assert "written by 2 ranks and this run has 1" in errors.read_text()
    moving.append("--loop.restart_data=true")
    run(spawn, [*moving, "--loop.max_steps=14", "--loop.accumulate=2"])
    run(spawn, [*moving, "--loop.max_steps=16"], ranks=2)
    assert [line["step"] for line in figures(two)] == list(range(1, 17))


def test_sigterm_ends_a_run_after_saving_with_a_non_zero_code(tmp_path, spawn):
    (process,), errors = spawn([*COMMON, "--loop.max_steps=1000000", f"--loop.output={tmp_path}"])
    while not (tmp_path / "metrics.jsonl").exists():
        assert process.is_alive()
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGTERM)
    process.join(timeout=60)
    assert process.exitcode == 128 + signal.SIGTERM
    assert "Give the same command again to go on from there." in errors.read_text()
    assert len(list((tmp_path / "checkpoints").glob("step-*/manifest.json"))) == 1
