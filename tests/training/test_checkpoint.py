"""What is on disk after a crash, a full disk or a change of mind."""

import resource

import pytest
import torch
from toy_stage import Model

from manzano.training.checkpoint import Checkpoints, TrainState
from manzano.training.distributed import World
from manzano.training.optimizer import OptimConfig, build_optimizer

WORLD = World(rank=0, size=1, device=torch.device("cpu"))
CONFIG = {"loop": {"output": "x", "max_steps": 5, "accumulate": 1}, "width": 8}


def state() -> TrainState:
    model = Model(0.0)
    return TrainState(model, build_optimizer(model, OptimConfig()), None)


def checkpoints(folder, config=CONFIG, world=WORLD, **options) -> Checkpoints:
    return Checkpoints(folder, world, config=config, keep=2, **options)


def step(trained: TrainState) -> None:
    trained.model(torch.randn(2, 8)).sum().backward()
    trained.model.unused.grad = torch.ones(3, 3)
    trained.optimizer.step()
    trained.optimizer.zero_grad()


@pytest.fixture
def saved(tmp_path):
    """Checkpoints of steps 1, 2 and 3, of which the last two are kept; and the state."""
    trained, store = state(), checkpoints(tmp_path)
    for number in (1, 2, 3):
        step(trained)
        store.save(number, trained, {"mark": number})
    return store, trained


def test_the_newest_is_restored_with_its_optimizer_and_older_ones_are_deleted(saved, tmp_path):
    store, trained = saved
    assert [path.name for path in store.whole()] == ["step-000002", "step-000003"]
    fresh = state()
    assert checkpoints(tmp_path).resume(fresh) == (3, {"mark": 3})
    for one, other in zip([*trained.model.parameters()], [*fresh.model.parameters()], strict=True):
        if one.requires_grad:
            assert torch.equal(one, other)
            for name, value in trained.optimizer.state[one].items():
                assert torch.equal(value, fresh.optimizer.state[other][name])


def test_a_half_written_one_is_ignored_and_written_over(saved, tmp_path):
    store, trained = saved
    (tmp_path / "step-000004.tmp" / "state").mkdir(parents=True)
    (tmp_path / "step-000004.tmp" / "manifest.json").write_text("{")
    (tmp_path / "step-000005").mkdir()
    assert store.resume(state())[0] == 3
    for number in (4, 5):
        store.save(number, trained, {})
    assert [path.name for path in store.whole()] == ["step-000004", "step-000005"]


@pytest.mark.parametrize("name", ["rank-00000.pt", "state/__0_0.distcp", "manifest.json"])
def test_a_damaged_one_is_an_error_that_names_the_one_before(saved, name):
    store, _ = saved
    file = store.last / name
    file.write_bytes(file.read_bytes()[:-20])
    message = "step-000003 is damaged .*Delete that folder to go on from .*step-000002"
    with pytest.raises(RuntimeError, match=message):
        store.resume(state())


def test_bytes_that_changed_in_place_are_found_when_they_are_read(saved):
    store, _ = saved
    file = store.last / "rank-00000.pt"
    file.write_bytes(b"?" * file.stat().st_size)
    with pytest.raises(RuntimeError, match="step-000003 is damaged"):
        store.resume(state())


def test_one_of_another_configuration_is_refused_and_the_keys_are_listed(saved, tmp_path):
    changed = {"loop": {**CONFIG["loop"], "output": "y", "accumulate": 2}, "width": 9}
    message = r"loop.accumulate \(was 1, is 2\), width \(was 8, is 9\). Give loop.output another"
    with pytest.raises(ValueError, match=message):
        checkpoints(tmp_path, changed).resume(state())


def test_harmless_keys_may_change(saved, tmp_path):
    changed = {**CONFIG, "loop": {**CONFIG["loop"], "output": "y", "max_steps": 9}}
    assert checkpoints(tmp_path, changed).resume(state())[0] == 3


@pytest.mark.parametrize("limit", [100, 6000])
def test_a_disk_that_refuses_is_an_error_with_advice_and_leaves_the_old_ones(saved, limit):
    store, trained = saved
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(OSError, match="cannot write .*step-000004.*File too large.*Make room"):
            store.save(4, trained, {"large": b"x" * 100_000})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert store.resume(state())[0] == 3
