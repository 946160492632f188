"""The llm stage: what is frozen, exact resuming, and several ranks."""

import socket
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from manzano.answering import answer
from manzano.eval.text_rich.asking import ask
from manzano.eval.text_rich.data import open_benchmarks
from manzano.training import config as configuration
from manzano.training import random_state
from manzano.training.loop import train
from manzano.training.stages import llm
from tests.eval.hub_data import rows, write_parquet
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


def measured(name, ingredients, folder, output, **loop):
    """A configuration with a benchmark of which a tiny model gets something right: "" and "a"."""
    content = rows("chartqa", 6)
    for place, row in enumerate(content):
        row["answer"] = "" if place % 2 else "a"
    write_parquet(folder / "data" / "chartqa", "chartqa", content)
    config = configured(name, ingredients, folder / output, **loop)
    return replace(
        config,
        loop=replace(config.loop, validate_every=1),
        row_length=160,
        validation=llm.ValidationConfig(data=str(folder / "data"), limit=5, batch_size=2),
    )


def test_what_is_measured_in_training_is_what_the_suite_measures(
    ingredients, tmp_path, figures, caplog
):
    config = measured("llm", ingredients, tmp_path, "run", max_steps=2)
    stage = trained("llm", config)
    benchmarks = open_benchmarks(tmp_path / "data", limit=5)
    said: list[str] = []

    def chat(conversations, settings):
        said.extend(answer(stage.model.eval(), stage.processor, conversations, settings))
        return said[-len(conversations) :]

    (records,) = [ask(benchmark, chat, range(5)) for benchmark in benchmarks]
    line = figures(tmp_path / "run")[-1]
    assert line["validation/chartqa"] == sum(record["score"] for record in records) / 5
    assert not any("error" in record for record in records)
    assert "count as wrong" not in caplog.text
    plain = replace(
        config, validation=llm.ValidationConfig(),
        loop=replace(config.loop, output=str(tmp_path / "plain"), validate_every=0),
    )  # fmt: skip
    trained("llm", plain)
    for with_, without in zip(figures(tmp_path / "run"), figures(tmp_path / "plain"), strict=True):
        assert with_ == without | {"validation/chartqa": with_["validation/chartqa"]}


def test_measuring_takes_data_and_a_rhythm_and_says_what_fails(ingredients, tmp_path, caplog):
    config = measured("llm", ingredients, tmp_path, "run")
    with pytest.raises(ValueError, match="give both or neither"):
        replace(config, validation=llm.ValidationConfig())
    with pytest.raises(ValueError, match="no sub-folder docvqa|has no validation"):
        llm.Stage(replace(config, validation=replace(config.validation, tasks=("docvqa",))))
    trained("llm", replace(config, row_length=60))  # no room for the questions
    assert "5 of 5 samples could not be asked and count as wrong" in caplog.text


def test_two_ranks_equal_one_process_where_one_of_them_sees_no_picture(
    ingredients, tmp_path, figures, forkserver
):
    one = measured("llm", ingredients, tmp_path, "one", accumulate=2, max_steps=3)
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
        for name in ("loss", "text", "image", "grad_norm", "validation/chartqa"):
            assert single[name] == pytest.approx(sharded[name], rel=1e-5, abs=1e-5)


def test_start_and_parts_together_are_refused(ingredients, tmp_path):
    config = configured("llm", ingredients, tmp_path)
    with pytest.raises(ValueError, match="start brings its own text tokenizer"):
        replace(config, start="somewhere")
    with pytest.raises(ValueError, match="give start .* or text_tokenizer, tokenizer and llm"):
        replace(config, llm={})
