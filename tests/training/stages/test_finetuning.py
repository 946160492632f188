"""Fine-tuning of what a stage exported: LoRA, and rows alone."""

import socket
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from manzano.training import config as configuration
from manzano.training import random_state
from manzano.training.loop import train
from manzano.training.lora import LoraConfig, load_adapter, merged
from manzano.training.stages import load_stage
from manzano.training.streaming import export_checkpoint
from tests.training.stages.real import (
    LOADED,
    FixedStage,
    child,
    configured,
    trained,
    tuned,
    weights,
)

LORA = LoraConfig(rank=4, alpha=8.0)
SPECIAL, TEXT = 8, 264
"""In the tiny vocabulary special tokens come first, then text, then image ids."""
every_stage = pytest.mark.parametrize("name", LOADED)


@every_stage
def test_lora_exports_an_ordinary_folder_and_an_adapter_for_its_base(
    name, starts, ingredients, tmp_path
):
    stage = trained(name, tuned(name, starts, ingredients, tmp_path, lora=LORA))
    base, export = starts / name / "export", tmp_path / "export"
    before, after = weights(base), weights(export)
    assert {k: v.shape for k, v in before.items()} == {k: v.shape for k, v in after.items()}
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    blocks = ("language_model.model.layers.", "vision.continuous_adapter.", "blocks.")
    assert changed and all(key.startswith(blocks) for key in changed)

    adapted = LOADED[name].from_pretrained(base)
    load_adapter(adapted, export / "adapter")
    trained_parameters = {n: p for n, p in stage.model.named_parameters() if "lora_" in n}
    assert trained_parameters
    for key, value in trained_parameters.items():
        assert torch.equal(adapted.get_parameter(key), value)
    ordinary = LOADED[name].from_pretrained(export).state_dict()
    with merged(adapted):
        assert all(torch.equal(ordinary[k], v) for k, v in adapted.state_dict().items()
                   if "continuous_adapter" not in k)  # fmt: skip


@every_stage
def test_a_resumed_run_with_lora_equals_an_uninterrupted_one_bitwise(
    name, starts, ingredients, tmp_path, figures
):
    for output, lengths in {"whole": [4], "parts": [2, 4]}.items():
        for max_steps in lengths:
            config = tuned(
                name, starts, ingredients, tmp_path / output, lora=LORA,
                loop={"max_steps": max_steps},
            )  # fmt: skip
            trained(name, replace(config, optim=replace(config.optim, ema_decay=0.9)))
    assert figures(tmp_path / "parts") == figures(tmp_path / "whole")
    for folder in ("export", "export/adapter"):
        whole = weights(tmp_path / "whole" / folder)
        parts = weights(tmp_path / "parts" / folder)
        assert whole.keys() == parts.keys()
        assert all(torch.equal(parts[key], value) for key, value in whole.items())


def on_two_ranks(config, tmp_path: Path, forkserver) -> None:
    """Run the llm stage on fixed batches in two processes."""
    configuration.save(config, tmp_path / "two.yaml")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    files, processes = [tmp_path / "stderr-0", tmp_path / "stderr-1"], []
    for rank, file in enumerate(files):
        environment = shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        arguments = (tmp_path / "two.yaml", environment, file)
        processes.append(forkserver.Process(target=child, args=arguments))
        processes[-1].start()
    try:
        for process, file in zip(processes, files, strict=True):
            process.join(timeout=240)
            assert process.exitcode == 0, file.read_text()
    finally:
        for process in processes:
            process.kill()


@pytest.mark.parametrize(
    ("start", "own"), [("llm", {"lora": LORA}), ("untied", {"train": "rows"})], ids=["lora", "rows"]
)
def test_two_ranks_equal_one_process(start, own, starts, ingredients, tmp_path, forkserver):
    one = tuned(
        "llm", starts, ingredients, tmp_path / "one", start=start,
        loop={"accumulate": 2, "max_steps": 3}, **own,
    )  # fmt: skip
    random_state.seed(0)
    train(FixedStage(one), one)
    loop = replace(one.loop, output=str(tmp_path / "two"), accumulate=1, threads=1)
    on_two_ranks(replace(one, loop=loop), tmp_path, forkserver)
    two = weights(tmp_path / "two" / "export")
    streamed = weights(export_checkpoint(tmp_path / "two", tmp_path / "streamed"))
    assert streamed.keys() == two.keys()
    assert all(torch.equal(streamed[key], value) for key, value in two.items())
    for key, value in weights(tmp_path / "one" / "export").items():
        torch.testing.assert_close(two[key], value, rtol=1e-5, atol=1e-5)
    if "train" in own:
        unchanged_but_new_rows(weights(starts / start / "export"), two)


@pytest.mark.parametrize("start", ["llm", "untied"])
def test_only_new_rows_change_though_weights_decay(start, starts, ingredients, tmp_path):
    config = tuned("llm", starts, ingredients, tmp_path, start=start, train="rows")
    config = replace(config, optim=replace(config.optim, weight_decay=0.5, ema_decay=0.9))
    trained("llm", config)
    unchanged_but_new_rows(weights(starts / start / "export"), weights(tmp_path / "export"))


def unchanged_but_new_rows(before: dict, after: dict) -> None:
    """Text rows and all other weights bit for bit."""
    tables = {"language_model.model.embed_tokens.weight", "language_model.lm_head.weight"}
    tables &= before.keys()
    assert before.keys() == after.keys()
    for key, value in before.items():
        if key in tables:
            moved = (value != after[key]).any(1)
            assert not moved[SPECIAL:TEXT].any()
            assert moved[:SPECIAL].any()
            assert moved[TEXT:].any()
        else:
            assert torch.equal(value, after[key]), key


def test_lora_needs_a_base_and_something_to_adapt(starts, ingredients, tmp_path):
    with pytest.raises(ValueError, match="lora adapts a model that is on disk: give start"):
        replace(configured("llm", ingredients, tmp_path), lora=LORA)
    with pytest.raises(ValueError, match="lora adapts a decoder that is on disk: give start"):
        replace(configured("decoder", ingredients, tmp_path), lora=LORA)
    with pytest.raises(ValueError, match="train: rows leaves nothing for lora"):
        tuned("llm", starts, ingredients, tmp_path, lora=LORA, train="rows")


def test_the_continuous_adapter_stays_where_the_language_model_alone_trains(
    starts, ingredients, tmp_path
):
    for lora in (LORA, LoraConfig()):
        config = tuned("llm", starts, ingredients, tmp_path, lora=lora, train="language_model")
        model = load_stage("llm")[1](config).model
        trainable = {n.split(".")[0] for n, p in model.named_parameters() if p.requires_grad}
        assert trainable == {"language_model"}


def test_a_run_from_wrong_weights_stops_in_its_first_step(starts, ingredients, tmp_path):
    config = tuned("llm", starts, ingredients, tmp_path)
    stage = FixedStage(config)
    head = stage.model.get_output_embeddings().weight.data
    head[TEXT:] = 10 * head[TEXT:].flip(0)  # sure of itself, as if the ids were another tokenizer's
    with pytest.raises(
        ValueError, match=r"(text|image) is \d+\.\d\d in the first step, above the 8.74"
    ):
        train(stage, config)
    assert not (tmp_path / "checkpoints").exists()


def test_a_decoder_on_latents_of_another_scale_stops_in_its_first_step(
    starts, ingredients, tmp_path
):
    config = tuned("decoder", starts, ingredients, tmp_path)
    stage = load_stage("decoder")[1](config)
    stage.vae.register_to_config(scaling_factor=100 * stage.vae.config["scaling_factor"])
    with pytest.raises(ValueError, match=r"flow is [\d.]+ in the first step, above the 4.00"):
        train(stage, config)


def test_a_pretrained_language_model_may_be_wrong_about_new_image_rows(ingredients, tmp_path):
    stage = load_stage("llm")[1](configured("llm", ingredients, tmp_path))
    assert stage.ceilings().keys() == {"text", "image"}
    stage.model.language_model.save_pretrained(tmp_path / "llm")
    pretrained = replace(stage.config, llm={"pretrained": str(tmp_path / "llm")})
    assert load_stage("llm")[1](pretrained).ceilings().keys() == {"text"}
