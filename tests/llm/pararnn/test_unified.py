"""The unified model with a ParaRNN backbone: what holds with a Transformer holds with it."""

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from manzano.data_mix.encoders import SequenceEncoder
from manzano.data_mix.schema import Sample, Turn
from manzano.llm.backbone import language_config
from manzano.llm.loss import count_targets
from manzano.model import ManzanoForConditionalGeneration
from manzano.training.stages.llm import assemble
from tests.llm.pararnn.language_models import KINDS, PARARNN
from tests.tiny import drawing, text_tokenizer, tiny_manzano, tiny_vision

WORDS = ["what is this?", "why?", "a longer question than the others"]


@pytest.fixture(scope="module")
def encoder() -> SequenceEncoder:
    return SequenceEncoder(
        text_tokenizer(), image_size=48, num_tokens=4, row_length=128, drop_prompt=0.0
    )


@pytest.fixture(scope="module", params=KINDS)
def model(request) -> ManzanoForConditionalGeneration:
    torch.manual_seed(0)
    return tiny_manzano(PARARNN | KINDS[request.param])


def samples(encoder: SequenceEncoder) -> list:
    """A question about a picture, a picture to draw, one to edit, prose: encoded."""
    user = Turn(role="user", text="what is it?")
    assistant = Turn(role="assistant", text="a disc")
    parts = [
        {"task": "understanding", "turns": (user, assistant) * 2, "images": (drawing(1),)},
        {"task": "generation", "turns": (user,), "target": drawing(2)},
        {"task": "editing", "turns": (user,), "images": (drawing(3),), "target": drawing(4)},
        {"task": "text", "turns": (assistant,)},
    ]
    base = {"caption": "", "source": "", "licence": "", "concept": ""}
    return [encoder.encode(Sample(key=str(n), **base, **part)) for n, part in enumerate(parts)]


def losses(model, batch, totals: dict[str, Tensor]) -> dict[str, Tensor]:
    return model(
        input_ids=batch.input_ids, labels=batch.labels, position_ids=batch.position_ids,
        pixel_values=batch.pixel_values, image_index=batch.image_index,
        target_pixel_values=batch.target_pixel_values, totals=totals, use_cache=False,
    ).terms  # fmt: skip


@torch.no_grad()
def test_losses_of_packed_rows_are_those_of_samples_of_their_own(model, encoder):
    examples = samples(encoder)
    packed = encoder.collate([examples[:2], examples[2:]])
    alone = [encoder.collate([[example]]) for example in examples]
    counts = count_targets(packed.labels, model.vocabulary)
    totals = {name: torch.tensor(number) for name, number in counts.items()}
    assert min(counts.values()) > 0
    whole, parts = losses(model, packed, totals), [losses(model, one, totals) for one in alone]
    for name, value in whole.items():
        assert float(value) == pytest.approx(sum(float(p[name]) for p in parts), rel=1e-5)


def prompts(model, encoder, words: list[str], *, draw: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Left-padded prompts about one picture each, their mask, the pictures' pixels."""
    v = model.vocabulary
    rows = [
        [v.user, v.img_start, *[v.image] * 4, v.img_end, *encoder.tokenizer.encode(w), v.assistant]
        + [v.img_start] * draw
        for w in words
    ]
    length = max(map(len, rows))
    ids = torch.tensor([[v.pad] * (length - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
    return ids, mask, torch.stack([encoder.transform(drawing(i)) for i in range(len(rows))])


def test_answers_are_the_same_cached_uncached_batched_and_single(model, encoder):
    ids, mask, pixels = prompts(model, encoder, WORDS, draw=False)
    options = {"max_new_tokens": 8, "min_new_tokens": 8}
    cached = model.generate(ids, pixels, mask, **options)
    assert torch.equal(model.generate(ids, pixels, mask, use_cache=False, **options), cached)
    for row, word in enumerate(WORDS):
        own, own_mask, _ = prompts(model, encoder, [word], draw=False)
        single = model.generate(own, pixels[row : row + 1], own_mask, **options)
        assert torch.equal(single[0], cached[row])


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_pictures_are_the_same_cached_uncached_batched_and_single(model, encoder, guidance_scale):
    ids, mask, pixels = prompts(model, encoder, WORDS, draw=True)

    def drawn(rows: slice, **options) -> Tensor:
        return model.generate(
            ids[rows], pixels[rows], mask[rows], generation_mode="image", temperature=0,
            guidance_scale=guidance_scale, **options,
        )  # fmt: skip

    cached = drawn(slice(None))
    assert torch.equal(drawn(slice(None), use_cache=False), cached)
    for row in range(3):
        assert torch.equal(drawn(slice(row, row + 1))[0], cached[row])


def test_a_loaded_model_equals_the_saved_one_bitwise(model, encoder, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = ManzanoForConditionalGeneration.from_pretrained(tmp_path)
    state = model.state_dict()
    assert loaded.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in loaded.state_dict().items())
    ids, mask, pixels = prompts(model, encoder, WORDS, draw=False)
    options = {"max_new_tokens": 4}
    answers = model.generate(ids, pixels, mask, **options)
    assert torch.equal(loaded.generate(ids, pixels, mask, **options), answers)


def test_a_trained_language_model_is_taken_over_with_its_text_rows(tmp_path):
    config = language_config(PARARNN | {"vocab_size": 264, "tie_word_embeddings": True})
    trained = AutoModelForCausalLM.from_config(config)
    trained.save_pretrained(tmp_path)
    model = assemble(tiny_vision(), text_tokenizer(), {"pretrained": str(tmp_path)})
    rows = model.get_input_embeddings().weight
    assert rows.shape == (264 + 12 + 36, 32)
    assert torch.equal(rows[:264], trained.get_input_embeddings().weight)
    own = dict(model.language_model.named_parameters())
    for name, value in trained.named_parameters():
        if value.shape == own[name].shape:
            assert torch.equal(own[name], value)
