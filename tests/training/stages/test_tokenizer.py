"""The tokenizer stage: one adapter a sequence, nothing frozen, collapse is said."""

from dataclasses import replace

import pytest
import torch

from manzano.tokenizer.hybrid import HybridTokenizerConfig
from manzano.training import random_state
from manzano.training.stages import tokenizer
from tests.data_mix.samples import make_sample
from tests.training.stages.real import FixedBatches, configured
from tests.training.stages.real import SequenceEncoder as Encoder


@pytest.fixture
def stage(ingredients, tmp_path) -> tokenizer.Stage:
    random_state.seed(0)
    return tokenizer.Stage(configured("tokenizer", ingredients, tmp_path))


@pytest.fixture
def batch(stage):
    encoder = Encoder(stage.text, image_size=48, num_tokens=4, row_length=96, drop_prompt=0.0)
    tasks = (("understanding", 0), ("understanding", 1), ("text", 0))
    return encoder.collate([[encoder.encode(make_sample(task, n)) for task, n in tasks]])


def totals(stage, batch) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(n) for name, n in stage.targets(batch).items()}


def test_one_adapter_is_drawn_for_all_pictures_of_a_sequence(stage, batch, monkeypatch):
    batch.image_index = torch.tensor([0, 1])
    batch.image_sequence = torch.tensor([0, 2])
    drawn = []
    forward = stage.model.forward
    monkeypatch.setattr(stage.model, "forward", lambda b, d: drawn.append(d) or forward(b, d))
    monkeypatch.setattr(torch, "rand", lambda n: torch.tensor([0.1, 0.9, 0.7])[:n])
    stage.loss(batch, totals(stage, batch))
    batch.image_sequence = torch.tensor([1, 1])
    stage.loss(batch, totals(stage, batch))
    assert [d.tolist() for d in drawn] == [[True, False], [False, False]]


def test_the_drawn_branch_takes_the_place_of_the_picture(stage, batch):
    vision = stage.model.vision
    with torch.no_grad():
        rows = [stage.model(batch, torch.full((2,), chosen))[0] for chosen in (False, True)]
        blocks = [
            vision.continuous(batch.pixel_values),
            vision.embed_ids(vision.discrete(batch.pixel_values)),
        ]
        for logits, block in zip(rows, blocks, strict=True):
            embeds = stage.model.language_model.get_input_embeddings()(batch.input_ids)
            embeds[batch.input_ids == stage.vocabulary.image] = block[batch.image_index].flatten(
                0, 1
            )
            expected = stage.model.language_model(
                inputs_embeds=embeds, position_ids=batch.position_ids, use_cache=False
            ).logits
            torch.testing.assert_close(logits, expected)


def test_nothing_is_frozen_and_the_loss_is_on_text_alone(stage, batch):
    loss, metrics = stage.loss(batch, totals(stage, batch))
    loss.backward()
    assert all(p.requires_grad for p in stage.model.parameters())
    assert float(loss.detach()) == float(metrics["text"])
    # Drawn or not, both adapters and the ViT have gradients, which sharding needs.
    for part in ("vit", "continuous_adapter", "discrete_adapter"):
        grads = [p.grad for p in stage.model.vision.get_submodule(part).parameters()]
        assert any(grad is not None for grad in grads)


def test_code_usage_is_logged_and_a_collapse_is_said(stage, batch, caplog):
    loss, metrics = stage.loss(batch, totals(stage, batch))
    ids = stage.model.vision.discrete(batch.pixel_values)
    assert float(metrics["code_usage"]) == pytest.approx(len(ids.unique()) / 36)
    ids = torch.full((2, 4), 3)
    stage.model.code_counts.zero_()
    stage.batches_seen = 198
    stage.count_codes(ids)
    assert caplog.text == ""
    usage, perplexity = stage.count_codes(ids)
    assert (float(usage), float(perplexity)) == pytest.approx((1 / 36, 1.0))
    assert "the codebook has collapsed: 1.0 codes in effect of 36" in caplog.text


def test_widths_that_differ_from_the_language_models_are_refused(ingredients, tmp_path):
    config = configured("tokenizer", ingredients, tmp_path)
    wrong = replace(config, tokenizer=replace(config.tokenizer, discrete_width=20))
    with pytest.raises(ValueError, match="must be the language model's width 32, got 32 and 20"):
        tokenizer.Stage(wrong)


def test_pictures_to_be_drawn_are_refused(stage):
    encoder = Encoder(stage.text, image_size=48, num_tokens=4, row_length=96, drop_prompt=0.0)
    with pytest.raises(ValueError, match="leave the sources for drawing and editing out"):
        stage.targets(next(iter(FixedBatches(encoder, 0, 1))))


def test_a_stage_that_starts_from_an_export_computes_what_the_exported_one_did(
    stage, batch, ingredients, tmp_path
):
    stage.export(tmp_path / "export")
    before = torch.get_rng_state()
    again = tokenizer.Stage(going_on(ingredients, tmp_path))
    ours, theirs = again.model.state_dict(), stage.model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert all(p.requires_grad and p.dtype == torch.float32 for p in again.model.parameters())
    losses = []
    for one in (stage, again):
        torch.set_rng_state(before)  # the same adapters are drawn
        one.model.train()
        losses.append(one.loss(batch, totals(one, batch))[0])
    assert torch.equal(*losses)
    encoder = next(iter(again.batches(rank=0, world_size=1)))
    assert encoder.pixel_values.shape[1:] == (3, 48, 48)  # the start's size


def going_on(ingredients, tmp_path, **changes) -> tokenizer.Config:
    """The configuration of `stage`, which goes on from its export."""
    start = {"start": str(tmp_path / "export"), "tokenizer": HybridTokenizerConfig(), "llm": {}}
    return replace(configured("tokenizer", ingredients, tmp_path), **start | changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"llm": {"model_type": "qwen3"}}, "start brings its own .* remove tokenizer, vit_weights"),
        ({"vit_weights": "timm:vit"}, "start brings its own"),
        ({"tokenizer": HybridTokenizerConfig(image_size=336)}, "start brings its own"),
        ({"start": ""}, "give start .* or tokenizer and llm"),
    ],
)
def test_start_beside_what_it_brings_and_neither_are_refused(ingredients, tmp_path, changes, words):
    with pytest.raises(ValueError, match=words):
        going_on(ingredients, tmp_path, **changes)


def test_a_start_without_its_language_model_or_of_another_text_tokenizer_is_refused(
    stage, ingredients, tmp_path
):
    stage.model.vision.save(tmp_path / "export")
    with pytest.raises(FileNotFoundError, match=r"no llm/ in .*export: start needs a whole export"):
        tokenizer.Stage(going_on(ingredients, tmp_path))
    stage.model.language_model.resize_token_embeddings(300)
    stage.export(tmp_path / "export")
    with pytest.raises(ValueError, match=r"has 300 rows, the text tokenizer \d+: give the text_to"):
        tokenizer.Stage(going_on(ingredients, tmp_path))
