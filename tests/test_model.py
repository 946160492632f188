"""The unified model: packing, sharing, caching and saving change no number."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from manzano.data_mix.encoders import SequenceBatch, SequenceEncoder
from manzano.data_mix.schema import Sample, Turn
from manzano.data_mix.sequences import sequences, unconditional
from manzano.llm.backbone import language_config
from manzano.llm.loss import IGNORE, count_targets
from manzano.model import ManzanoForConditionalGeneration
from manzano.training.stages.llm import assemble
from tests.data_mix.samples import make_sample
from tests.tiny import QWEN3, drawing, text_tokenizer, tiny_manzano, tiny_vision

ROW = 128


@pytest.fixture(scope="module")
def model() -> ManzanoForConditionalGeneration:
    torch.manual_seed(0)
    return tiny_manzano()


@pytest.fixture(scope="module")
def encoder() -> SequenceEncoder:
    return SequenceEncoder(
        text_tokenizer(), image_size=48, num_tokens=4, row_length=ROW, drop_prompt=0.0
    )


def sample(task: str, index: int = 0) -> Sample:
    user = Turn(role="user", text=f"what is {index}?")
    assistant = Turn(role="assistant", text=f"it is {index}")
    parts = {
        "understanding": {"turns": (user, assistant) * 2, "images": (drawing(index),)},
        "generation": {"turns": (user,), "target": drawing(index)},
        "editing": {"turns": (user,), "images": (drawing(index),), "target": drawing(index + 1)},
        "text": {"turns": (assistant,)},
    }[task]
    base = {"key": f"{task}{index}", "caption": "", "source": "", "licence": "", "concept": ""}
    return Sample(task=task, **base, **parts)  # type: ignore[arg-type]


SAMPLES = [
    sample("understanding", 1), sample("generation", 2), sample("text", 3), sample("editing", 4),
    sample("understanding", 5),
]  # fmt: skip


def run(model, batch: SequenceBatch, totals=None):
    return model(
        input_ids=batch.input_ids, labels=batch.labels, position_ids=batch.position_ids,
        pixel_values=batch.pixel_values, image_index=batch.image_index,
        target_pixel_values=batch.target_pixel_values, totals=totals, use_cache=False,
    )  # fmt: skip


def totals_of(model, *batches: SequenceBatch) -> dict[str, Tensor]:
    counts = [count_targets(batch.labels, model.vocabulary) for batch in batches]
    return {name: torch.tensor(sum(count[name] for count in counts)) for name in counts[0]}


@torch.no_grad()
def test_packed_rows_equal_samples_of_their_own(model, encoder):
    examples = [encoder.encode(s) for s in SAMPLES]
    packed = encoder.collate([examples[:2], examples[2:4], examples[4:]])
    alone = [encoder.collate([[example]]) for example in examples]
    totals = totals_of(model, packed)
    assert totals == totals_of(model, *alone)
    whole, parts = run(model, packed, totals), [run(model, one, totals) for one in alone]
    assert float(totals["image"]) == 2 * 4
    for name in ("text", "image"):
        total = sum(float(part.terms[name]) for part in parts)
        assert total == pytest.approx(float(whole.terms[name]), rel=1e-5)
    assert float(whole.loss) == pytest.approx(
        float(whole.terms["text"] + 0.5 * whole.terms["image"]), rel=1e-6
    )
    rows = [[0, 1], [2, 3], [4]]
    for row, members in enumerate(rows):
        start = 0
        for member in members:
            length = encoder.length(examples[member])
            ours, own = whole.logits[row, start : start + length], parts[member].logits[0, :length]
            torch.testing.assert_close(ours, own, rtol=1e-4, atol=1e-5)
            start += length


@torch.no_grad()
def test_questions_that_share_a_picture_equal_questions_with_copies_of_it(model, encoder):
    shared = encoder.collate([[encoder.encode(SAMPLES[0])]])
    assert shared.image_index.tolist() == [0, 0]
    copies = encoder.collate([[encoder.encode(SAMPLES[0])]])
    copies.pixel_values = copies.pixel_values.repeat(2, 1, 1, 1)
    copies.image_index = torch.tensor([0, 1])
    torch.testing.assert_close(run(model, shared).logits, run(model, copies).logits)


def test_batches_without_totals_average_over_themselves(model, encoder):
    batch = encoder.collate([[encoder.encode(s)] for s in SAMPLES[:2]])
    assert torch.equal(run(model, batch).loss, run(model, batch, totals_of(model, batch)).loss)


def test_targets_are_the_ids_of_their_own_pictures(model, encoder):
    batch = encoder.collate([[encoder.encode(SAMPLES[1]), encoder.encode(SAMPLES[3])]])
    filled = model.fill_targets(batch.labels, model.target_ids(batch.target_pixel_values))
    ids = model.vision.discrete(torch.stack([encoder.transform(drawing(i)) for i in (2, 5)]))
    assert len(ids.unique(dim=0)) == 2
    image = filled[filled >= model.vocabulary.image_offset] - model.vocabulary.image_offset
    assert image.tolist() == ids.flatten().tolist()
    assert torch.equal(filled == IGNORE, batch.labels == IGNORE)


def test_placeholders_and_pictures_that_differ_in_number_are_refused(model, encoder):
    batch = encoder.collate([[encoder.encode(SAMPLES[0])]])
    with pytest.raises(ValueError, match="8 image placeholders but 1 images of 4 tokens"):
        model.embed(batch.input_ids, batch.pixel_values, None)
    target = encoder.collate([[encoder.encode(SAMPLES[1])]])
    ids = model.target_ids(target.target_pixel_values)
    with pytest.raises(ValueError, match="4 <target> tokens for 2 target pictures of 4 ids"):
        model.fill_targets(target.input_ids, ids.repeat(2, 1))
    with pytest.raises(ValueError, match="nothing to read"):
        model()


def test_a_batch_without_pictures_gives_the_adapter_a_gradient_of_zero(encoder):
    model = tiny_manzano()
    run(model, encoder.collate([[encoder.encode(SAMPLES[2])]])).loss.backward()
    grads = [p.grad for p in model.vision.continuous_adapter.parameters()]
    assert all(grad is not None and not grad.any() for grad in grads)


def prompts(model, encoder, words: list[str], *, draw: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Left-padded prompts about one picture each, their mask, the pictures' pixels."""
    v = model.vocabulary
    block = [v.img_start, *[v.image] * 4, v.img_end]
    rows = [
        [
            v.user,
            *block,
            *encoder.tokenizer.encode(w),
            v.assistant,
            *([v.img_start] if draw else []),
        ]
        for w in words
    ]
    length = max(map(len, rows))
    ids = torch.tensor([[v.pad] * (length - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
    return ids, mask, torch.stack([encoder.transform(drawing(i)) for i in range(len(rows))])


WORDS = ["what is this?", "why?", "a longer question than the others"]


def test_cached_answers_equal_uncached_ones_and_hold_text_only(model, encoder):
    ids, mask, pixels = prompts(model, encoder, WORDS, draw=False)
    options = {"max_new_tokens": 12, "min_new_tokens": 12}
    cached = model.generate(ids, pixels, mask, **options)
    uncached = model.generate(ids, pixels, mask, use_cache=False, **options)
    assert cached.shape == (3, 12)
    assert torch.equal(cached, uncached)
    assert int(cached.max()) < model.vocabulary.image_offset


def test_batched_answers_equal_single_ones(model, encoder):
    ids, mask, pixels = prompts(model, encoder, WORDS, draw=False)
    batched = model.generate(ids, pixels, mask, max_new_tokens=12, min_new_tokens=12)
    for row, word in enumerate(WORDS):
        own, own_mask, _ = prompts(model, encoder, [word], draw=False)
        single = model.generate(
            own, pixels[row : row + 1], own_mask, max_new_tokens=12, min_new_tokens=12
        )
        assert torch.equal(single[0], batched[row])


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_cached_and_single_pictures_equal_uncached_and_batched_ones(
    model, encoder, guidance_scale, temperature
):
    ids, mask, pixels = prompts(model, encoder, WORDS, draw=True)

    def drawn(rows: slice, **options) -> Tensor:
        return model.generate(
            ids[rows], pixels[rows], mask[rows], generation_mode="image",
            guidance_scale=guidance_scale, temperature=temperature,
            generator=torch.Generator().manual_seed(0), **options,
        )  # fmt: skip

    cached = drawn(slice(None))
    assert cached.shape == (3, 4)
    assert 0 <= int(cached.min()) <= int(cached.max()) < 36
    assert torch.equal(drawn(slice(None), use_cache=False), cached)
    if temperature == 0:
        for row in range(3):
            assert torch.equal(drawn(slice(row, row + 1))[0], cached[row])


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_each_id_is_the_likeliest_of_the_guided_logits(model, encoder, scale):
    ids, mask, pixels = prompts(model, encoder, WORDS, draw=True)
    options = {"generation_mode": "image", "temperature": 0, "guidance_scale": scale}
    drawn = model.generate(ids, pixels, mask, **options)
    nothing, seen = model.unconditional_prompt(ids)
    rows = [(model.embed(ids, pixels, None), mask), (model.embed(nothing, None, None), seen)]
    for position in range(4):
        conditional, free = (
            next_logits(model, embeds, F.pad(own, (0, position), value=1)) for embeds, own in rows
        )
        guided = free + scale * (conditional - free)
        assert torch.equal(guided.argmax(-1), drawn[:, position])
        new = model.get_input_embeddings()(
            drawn[:, position : position + 1] + model.vocabulary.image_offset
        )
        rows = [(torch.cat([embeds, new], dim=1), own) for embeds, own in rows]


def next_logits(model, embeds: Tensor, mask: Tensor) -> Tensor:
    """Of the image id that follows left-padded rows, (B, V)."""
    logits = model.language_model(
        inputs_embeds=embeds, attention_mask=mask, position_ids=(mask.cumsum(-1) - 1).clamp(0)
    ).logits
    return logits[:, -1, model.vocabulary.image_offset :]


def test_guidance_leads_away_from_what_is_trained_without_a_prompt(model, encoder):
    ids = prompts(model, encoder, WORDS, draw=True)[0]
    sample = unconditional(make_sample("editing"))
    (trained,) = sequences(sample, encoder.tokenizer, model.vision.num_tokens)
    sized = torch.cat(
        [ids, torch.full((3, 1), model.vocabulary.sizes[5])], dim=1
    )  # <3:4>, as theirs
    nothing, seen = model.unconditional_prompt(sized)
    begun = trained.input_ids[: trained.input_ids.index(model.vocabulary.target)]
    rest = sized.shape[1] - len(begun)
    assert nothing.tolist() == [[model.vocabulary.pad] * rest + begun] * 3
    assert seen.tolist() == [[0] * rest + [1] * len(begun)] * 3
    square = model.unconditional_prompt(ids)[0]
    assert square.tolist() == [[model.vocabulary.pad] * rest + begun[:-1]] * 3
    with pytest.raises(ValueError, match="a prompt of 2 tokens asks for no picture"):
        model.unconditional_prompt(ids[:, :2])


def test_an_unknown_mode_is_refused(model, encoder):
    ids, mask, pixels = prompts(model, encoder, WORDS, draw=True)
    with pytest.raises(ValueError, match="generation_mode is 'text' or 'image', got 'sound'"):
        model.generate(ids, pixels, mask, generation_mode="sound")


def test_a_loaded_model_equals_the_saved_one_bitwise(model, encoder, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = ManzanoForConditionalGeneration.from_pretrained(tmp_path)
    state = model.state_dict()
    assert loaded.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in loaded.state_dict().items())
    batch = encoder.collate([[encoder.encode(s)] for s in SAMPLES])
    assert torch.equal(
        loaded.vision.discrete(batch.target_pixel_values),
        model.vision.discrete(batch.target_pixel_values),
    )
    assert torch.equal(run(loaded, batch).logits, run(model, batch).logits)


BACKBONES = {
    "llama": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
              "num_key_value_heads": 2, "intermediate_size": 48, "initializer_range": 0.3},
    "qwen2": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
              "num_key_value_heads": 2, "intermediate_size": 48, "initializer_range": 0.3},
    "gpt_neox": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
                 "intermediate_size": 48, "initializer_range": 0.3},
}  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("model_type", BACKBONES)
def test_other_backbones_read_and_draw_alike(model_type, encoder):
    model = tiny_manzano({"model_type": model_type, **BACKBONES[model_type]})
    examples = [encoder.encode(s) for s in SAMPLES[:2]]
    packed = encoder.collate([examples])
    totals = totals_of(model, packed)
    parts = [run(model, encoder.collate([[example]]), totals).loss for example in examples]
    assert float(sum(parts)) == pytest.approx(float(run(model, packed, totals).loss), rel=1e-5)
    ids, mask, pixels = prompts(model, encoder, WORDS, draw=True)
    options = {"generation_mode": "image", "temperature": 0}
    drawn = model.generate(ids, pixels, mask, **options)
    assert torch.equal(model.generate(ids, pixels, mask, use_cache=False, **options), drawn)


def test_a_pretrained_language_model_keeps_its_text_rows(tmp_path):
    config = language_config(QWEN3 | {"vocab_size": 264, "tie_word_embeddings": True})
    pretrained = AutoModelForCausalLM.from_config(config)
    pretrained.save_pretrained(tmp_path)
    model = assemble(tiny_vision(width=24), text_tokenizer(), {"pretrained": str(tmp_path)})
    rows = model.get_input_embeddings().weight
    assert rows.shape == (264 + 12 + 36, 32)
    assert torch.equal(rows[:264], pretrained.get_input_embeddings().weight)
    own = dict(model.language_model.named_parameters())
    for name, value in pretrained.named_parameters():
        if value.shape == own[name].shape:
            assert torch.equal(own[name], value)
    assert model.vision.config.width == model.config.vision.width == 32
