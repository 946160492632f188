"""One process: resuming is exact, accumulation is exact, and what goes wrong is said."""

import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from toy_stage import WIDTH, Config, Loader, Stage, train_toy

from manzano.data_mix.loader import build_loader
from manzano.data_mix.mixture import MixtureConfig
from manzano.training import random_state
from manzano.training.config import LoopConfig
from manzano.training.interrupt import Interrupted
from manzano.training.loop import train, what_trains
from manzano.training.optimizer import OptimConfig
from tests.data_mix.samples import make_folder


def configured(
    output: Path, *, loop: dict | None = None, optim: dict | None = None, **own
) -> Config:
    return Config(
        loop=LoopConfig(
            **{"output": str(output), "max_steps": 12, "log_every": 5, "checkpoint_every": 4}
            | (loop or {})
        ),
        optim=OptimConfig(**{"lr": 1e-2, "warmup_steps": 3, "ema_decay": 0.9} | (optim or {})),
        **own,
    )


def trained(config: Config) -> Stage:
    random_state.seed(config.loop.seed)
    stage = Stage(config)
    train(stage, config)
    return stage


def weights(output: Path) -> dict[str, torch.Tensor]:
    return load_file(output / "export" / "model.safetensors")


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], **tolerance) -> None:
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, **{"rtol": 0, "atol": 0} | tolerance)


class InterruptingStage(Stage):
    """Receives SIGTERM in its first step after `step`."""

    step = 6

    def targets(self, batch):
        if int(batch["index"][0]) == self.step * self.config.batch_size:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().targets(batch)


@pytest.mark.parametrize("matrix_lr", [0.0, 1e-2])
def test_a_resumed_run_equals_an_uninterrupted_one_bitwise(tmp_path, figures, matrix_lr):
    optim = {"matrix_lr": matrix_lr}
    whole = trained(configured(tmp_path / "whole", optim=optim))

    config = configured(tmp_path / "parts", optim=optim)
    random_state.seed(0)
    first = InterruptingStage(config)
    with pytest.raises(Interrupted, match="stopped at step 7 of 12; saved in .*step-000007"):
        train(first, config)
    second = trained(config)

    assert first.seen + second.seen == whole.seen
    assert figures(tmp_path / "parts") == figures(tmp_path / "whole")
    assert_same(weights(tmp_path / "parts"), weights(tmp_path / "whole"))
    assert_same(whole.model.state_dict(), second.model.state_dict())


class PictureEncoder:
    """Rows from pictures and random numbers, as `toy_stage.Loader` yields them."""

    def encode(self, sample):
        colour = torch.tensor(sample.images[0].getpixel((0, 0))) / 255
        return torch.cat([colour, torch.rand(WIDTH - 3)]), int(sample.extra["index"])

    def collate(self, examples):
        x = torch.stack([row for row, _ in examples])
        return {"x": x, "y": x.sum(-1), "index": torch.tensor([index for _, index in examples])}


class PictureStage(Stage):
    """The toy on pictures in shards, read by the loader of the real stages."""

    corpus: Path
    num_workers: int

    def batches(self, *, rank, world_size):
        return build_loader(
            MixtureConfig(path=str(self.corpus), sources={"understanding": 1.0}),
            PictureEncoder(),
            batch_size=self.config.batch_size,
            seed=self.config.loop.seed,
            num_workers=self.num_workers,
            rank=rank,
            world_size=world_size,
            shuffle_buffer=10,
        )


@pytest.mark.filterwarnings("ignore:.*fork.*")
@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_run_on_real_shards_resumes_bitwise(tmp_path, figures, monkeypatch, num_workers):
    make_folder(tmp_path / "corpus" / "understanding")
    monkeypatch.setattr(PictureStage, "corpus", tmp_path / "corpus", raising=False)
    monkeypatch.setattr(PictureStage, "num_workers", num_workers, raising=False)
    seen = {}
    for output, lengths in {"whole": [12], "parts": [7, 12]}.items():
        for max_steps in lengths:
            config = configured(
                tmp_path / output,
                loop={"max_steps": max_steps},
                optim={"schedule": "constant"},
            )
            random_state.seed(0)
            stage = PictureStage(config)
            train(stage, config)
            seen.setdefault(output, []).extend(stage.seen)
    assert seen["parts"] == seen["whole"]
    assert figures(tmp_path / "parts")[-1] == figures(tmp_path / "whole")[-1]
    assert_same(weights(tmp_path / "parts"), weights(tmp_path / "whole"))


def test_what_is_measured_stands_in_the_line_and_changes_nothing(tmp_path, figures):
    def without(lines):
        return [{k: v for k, v in line.items() if k != "validation/toy"} for line in lines]

    loop = {"validate_every": 5, "max_steps": 12}
    plain = trained(configured(tmp_path / "plain"))
    measured = trained(configured(tmp_path / "measured", loop=loop))
    for max_steps in (5, 12):
        parts = configured(
            tmp_path / "parts",
            loop=loop | {"max_steps": max_steps},
            optim={"schedule": "constant"},
        )
        trained(parts)
    constant = configured(tmp_path / "whole", loop=loop, optim={"schedule": "constant"})
    trained(constant)
    lines = figures(tmp_path / "measured")
    assert [line["step"] for line in lines if "validation/toy" in line] == [5, 10, 12]
    assert without(lines) == figures(tmp_path / "plain")
    assert figures(tmp_path / "parts") == figures(tmp_path / "whole")
    assert_same(plain.model.state_dict(), measured.model.state_dict())


def test_measuring_needs_a_stage_that_measures_and_a_line_to_stand_in(tmp_path):
    class Mute(Stage):
        validate = None

    config = configured(tmp_path, loop={"validate_every": 5})
    with pytest.raises(ValueError, match="this stage measures nothing"):
        train(Mute(config), config)
    with pytest.raises(ValueError, match="must be a multiple of loop.log_every, 5"):
        configured(tmp_path, loop={"validate_every": 7})


def test_previews_do_not_change_training(tmp_path, figures):
    trained(configured(tmp_path / "without"))
    trained(configured(tmp_path / "with", loop={"preview_every": 5}))
    assert figures(tmp_path / "with") == figures(tmp_path / "without")
    assert sorted(p.name for p in (tmp_path / "with" / "previews").iterdir()) == [
        "step-000005",
        "step-000010",
    ]


def test_four_micro_batches_of_one_equal_one_of_four(tmp_path, figures):
    trained(configured(tmp_path / "one", batch_size=4, dropout=0.0))
    trained(configured(tmp_path / "four", loop={"accumulate": 4}, batch_size=1, dropout=0.0))
    for one, four in zip(figures(tmp_path / "one"), figures(tmp_path / "four"), strict=True):
        assert one == pytest.approx(four, rel=1e-5)
    assert_same(weights(tmp_path / "one"), weights(tmp_path / "four"), atol=1e-6)


def test_the_export_holds_the_moving_average_and_training_goes_on_with_the_weights(tmp_path):
    averaged = trained(configured(tmp_path / "averaged"))
    plain = trained(configured(tmp_path / "plain", optim={"ema_decay": 0.0}))
    assert_same(plain.model.state_dict(), averaged.model.state_dict())
    assert_same(weights(tmp_path / "plain"), plain.model.state_dict())
    difference = weights(tmp_path / "averaged")["head.weight"] - plain.model.head.weight
    assert difference.abs().max() > 0


def test_frozen_parts_stay_as_they_are_and_in_eval_mode(tmp_path):
    config = configured(tmp_path)
    random_state.seed(0)
    before = Stage(config).model.frozen.weight.detach().clone()
    stage = trained(config)
    assert torch.equal(stage.model.frozen.weight, before)
    assert not stage.model.frozen.training


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_last_good_checkpoint(tmp_path):
    message = "loss is nan in step 7; the last good checkpoint is .*step-000004"
    with pytest.raises(RuntimeError, match=message):
        trained(configured(tmp_path, poison_step=6))
    assert not (tmp_path / "export").exists()


def test_a_first_loss_that_cannot_be_right_stops_the_run_before_anything_is_saved(tmp_path):
    message = r"squared is \d+\.\d\d in the first step, above the 0.10 .* --loop.guard=false"
    with pytest.raises(ValueError, match=message):
        trained(configured(tmp_path, ceiling=0.1, loop={"checkpoint_every": 1, "log_every": 1}))
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]
    trained(configured(tmp_path, ceiling=0.1, loop={"guard": False, "max_steps": 2}))


def test_a_resumed_run_is_not_held_to_the_first_step(tmp_path):
    trained(configured(tmp_path, loop={"max_steps": 2}))
    for max_steps in (3, 5):
        config = configured(tmp_path, ceiling=1e6, loop={"max_steps": max_steps})
        stage = Stage(config)
        stage.ceilings = lambda: {"squared": 0.0}
        train(stage, config)


def test_what_trains_and_what_is_frozen_are_told_part_by_part():
    line = what_trains(Stage(configured(Path("unused"))).model)
    assert line == (
        "training 0.000M of 0.000M parameters: unused 0.000M, blocks 0.000M, head 0.000M; "
        "frozen: frozen 0.000M"
    )


def test_a_finished_run_returns_at_once(tmp_path, monkeypatch):
    arguments = ["--loop.output", str(tmp_path), "--loop.max_steps", "2"]
    train_toy(arguments)
    monkeypatch.setattr(Stage, "__init__", None)
    train_toy([*arguments, "--loop.log_every", "1"])
    with pytest.raises(TypeError):
        train_toy([*arguments[:-1], "3"])


def test_a_longer_run_goes_on_from_a_finished_one(tmp_path):
    trained(configured(tmp_path))
    config = configured(tmp_path, loop={"max_steps": 14})
    random_state.seed(0)
    longer = Stage(config)
    train(longer, config)
    assert longer.seen == list(range(12 * 4, 14 * 4))


def test_data_that_end_are_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(Loader, "__iter__", lambda self: (batch for batch in []))
    with pytest.raises(RuntimeError, match="must repeat its data without end"):
        trained(configured(tmp_path))
