"""The llm stage: what is frozen, exact resuming, and several ranks."""

import socket
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from manzano.training import config as configuration
from manzano.training import random_state
from manzano.training.loop import train
from manzano.training.stages import llm
from tests.training.stages.real import FixedStage, child, configured, trained

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*")


def test_vit_and_discrete_adapter_stay_and_the_continuous_adapter_learns(ingredients, tmp_path):
    config = configured("llm", ingredients, tmp_path)
    random_state.seed(0)
    before = llm.Stage(config).model.state_dict()
    after = trained("llm", config).model
    frozen = {n for n, p in after.named_parameters() if not p.requires_grad}
    assert {name.split(".")[1] for name in frozen} == {"vit", "discrete_adapter"}
    assert all(p.grad is None for p in after.parameters() if not p.requires_grad)
    state = after.state_dict()
    changed = {name for name in before if not torch.equal(before[name], state[name])}
    assert {name.split(".")[1] for name in changed if name.startswith("vision.")} == {
        "continuous_adapter"
    }
    assert changed >= {n for n in before if n.startswith("language_model.model.layers.0.mlp")}
    assert not changed & frozen


def test_the_loss_of_the_stage_is_that_of_the_model(ingredients, tmp_path):
    random_state.seed(0)
    stage = FixedStage(configured("llm", ingredients, tmp_path))
    batch = next(iter(stage.batches(rank=0, world_size=1)))
    targets = stage.targets(batch)
    loss, terms = stage.loss(batch, {name: torch.tensor(n) for name, n in targets.items()})
    assert targets["image"] == 2 * 4
    assert targets["samples"] == 3
    torch.testing.assert_close(loss.detach(), terms["text"] + 0.5 * terms["image"])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_resumed_run_equals_an_uninterrupted_one_bitwise(
    ingredients, tmp_path, figures, num_workers
):
    exports = {}
    for output, lengths in {"whole": [5], "parts": [2, 5]}.items():
        for max_steps in lengths:
            config = configured(
                "llm", ingredients, tmp_path / output, num_workers=num_workers, max_steps=max_steps
            )
            trained("llm", config)
        exports[output] = load_file(tmp_path / output / "export" / "model.safetensors")
    assert figures(tmp_path / "parts") == figures(tmp_path / "whole")
    for name, value in exports["whole"].items():
        assert torch.equal(exports["parts"][name], value)


def test_two_ranks_equal_one_process_where_one_of_them_sees_no_picture(
    ingredients, tmp_path, figures, forkserver
):
    one = configured("llm", ingredients, tmp_path / "one", accumulate=2, max_steps=3)
    random_state.seed(0)
    stage = FixedStage(one)
    train(stage, one)

    two = replace(
        one, loop=replace(one.loop, output=str(tmp_path / "two"), accumulate=1, threads=1)
    )
    configuration.save(two, tmp_path / "two.yaml")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    processes, errors = [], tmp_path / "stderr-0"
    for rank in range(2):
        torchrun = {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2",
            "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port),
        }  # fmt: skip
        arguments = (tmp_path / "two.yaml", torchrun, tmp_path / f"stderr-{rank}")
        processes.append(forkserver.Process(target=child, args=arguments))
        processes[-1].start()
    for process in processes:
        process.join(timeout=240)
        assert process.exitcode == 0, errors.read_text()
    for single, sharded in zip(figures(tmp_path / "one"), figures(tmp_path / "two"), strict=True):
        for name in ("loss", "text", "image", "grad_norm"):
            assert single[name] == pytest.approx(sharded[name], rel=1e-5, abs=1e-5)


def test_start_and_parts_together_are_refused(ingredients, tmp_path):
    config = configured("llm", ingredients, tmp_path)
    with pytest.raises(ValueError, match="start brings its own text tokenizer"):
        replace(config, start="somewhere")
    with pytest.raises(ValueError, match="give start .* or text_tokenizer, tokenizer and llm"):
        replace(config, llm={})
