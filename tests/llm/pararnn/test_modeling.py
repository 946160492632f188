"""The ParaRNN language model: how its input is cut, padded, packed or cached changes no number."""

import copy

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, DynamicCache

from manzano.llm.pararnn.modeling import ParaRNNForCausalLM, ParaRNNModel
from tests.llm.pararnn.language_models import KINDS, language_model, tokens

every_kind = pytest.mark.parametrize("kind", KINDS)
close = torch.testing.assert_close
LENGTHS = (5, 1, 9, 2)


def masked(rows: list[Tensor], length: int, where: str) -> tuple[Tensor, Tensor]:
    """Rows of ids padded to `length` by random ids: ids and mask."""
    ids, mask = tokens(len(rows), length, seed=9), torch.zeros(len(rows), length, dtype=torch.long)
    for number, row in enumerate(rows):
        rest = length - len(row)
        places = {
            "left": torch.arange(rest, length),
            "right": torch.arange(len(row)),
            "scattered": torch.randperm(length)[: len(row)].sort().values,
        }[where]
        ids[number, places], mask[number, places] = row, 1
    return ids, mask


@every_kind
@torch.no_grad()
def test_pieces_with_the_cache_equal_the_whole(kind):
    model, ids = language_model(kind), tokens(3, 17)
    whole = model(ids, use_cache=False)
    assert whole.past_key_values is None
    cache, logits = None, []
    for piece in ids.split([6, 1, 1, 4, 2, 3], dim=1):
        out = model(piece, past_key_values=cache)
        cache = out.past_key_values
        logits.append(out.logits)
    assert cache.get_seq_length() == 17
    close(torch.cat(logits, dim=1), whole.logits, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_cache_of_recurrent_layers_does_not_grow():
    model = language_model()

    def size(cache) -> int:
        return sum(layer.history.numel() + layer.state.numel() for layer in cache.layers)

    sizes = {size(model(tokens(2, length)).past_key_values) for length in (1, 2, 4, 40)}
    assert sizes == {3 * 2 * 32 * (3 + 1)}


@pytest.mark.parametrize("kind", ["gru", "lstm"])
@pytest.mark.parametrize("where", ["left", "right", "scattered"])
@torch.no_grad()
def test_padding_changes_nothing(kind, where):
    model, rows = language_model(kind), [tokens(n, seed=n) for n in LENGTHS]
    ids, mask = masked(rows, 12, where)
    out = model(ids, attention_mask=mask)
    following = model(
        tokens(4, 3), attention_mask=torch.cat([mask, mask.new_ones(4, 3)], 1),
        past_key_values=out.past_key_values,
    )  # fmt: skip
    for number, row in enumerate(rows):
        alone = model(torch.cat([row, tokens(4, 3)[number]])[None]).logits[0]
        ours = torch.cat([out.logits[number][mask[number] == 1], following.logits[number]])
        close(ours, alone, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_left_padding_changes_nothing_in_a_hybrid():
    model, rows = language_model("hybrid"), [tokens(n, seed=n) for n in LENGTHS]
    ids, mask = masked(rows, 12, "left")
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    logits = model(ids, attention_mask=mask, position_ids=positions).logits
    for number, row in enumerate(rows):
        close(logits[number, -len(row) :], model(row[None]).logits[0], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_padding_that_comes_in_pieces_changes_nothing():
    model, rows = language_model(), [tokens(n, seed=n) for n in LENGTHS]
    ids, mask = masked(rows, 9, "left")
    cache, logits = None, []
    for end in (2, 3, 7, 9):
        start = 0 if cache is None else cache.get_seq_length()
        out = model(ids[:, start:end], attention_mask=mask[:, :end], past_key_values=cache)
        cache = out.past_key_values
        logits.append(out.logits)
    real = mask == 1
    whole = model(ids, attention_mask=mask).logits
    close(torch.cat(logits, 1)[real], whole[real], rtol=1e-4, atol=1e-5)


def packed_rows() -> tuple[Tensor, Tensor, list[Tensor]]:
    """Two rows of four and two sequences: ids, positions that restart, the sequences."""
    rows = [[tokens(n, seed=n) for n in LENGTHS], [tokens(n, seed=n) for n in (3, 14)]]
    ids = torch.stack([torch.cat(row) for row in rows])
    positions = [torch.cat([torch.arange(len(s)) for s in row]) for row in rows]
    return ids, torch.stack(positions), [s for row in rows for s in row]


@every_kind
def test_packed_sequences_equal_sequences_of_their_own(kind):
    model = language_model(kind)
    ids, positions, sequences = packed_rows()
    packed = model(ids, position_ids=positions)
    assert packed.past_key_values is None
    alone = [model(s[None], use_cache=False).logits[0] for s in sequences]
    close(packed.logits.flatten(0, 1), torch.cat(alone), rtol=1e-4, atol=1e-5)

    whole, parts = (
        torch.autograd.grad(logits.square().sum(), list(model.parameters()))
        for logits in (packed.logits, torch.cat(alone))
    )
    for ours, own in zip(whole, parts, strict=True):
        close(ours, own, rtol=1e-3, atol=1e-3 * float(own.abs().max()))


@every_kind
def test_gradient_checkpointing_gives_the_same_gradients(kind):
    model = language_model(kind).train()
    again = copy.deepcopy(model)
    again.gradient_checkpointing_enable()
    ids, positions, _ = packed_rows()
    for inputs in ({"position_ids": positions}, {}):
        grads = []
        for one in (model, again):
            out = one(ids, labels=ids, **inputs)
            grads.append(torch.autograd.grad(out.loss, list(one.parameters())))
        for plain, checkpointed in zip(*grads, strict=True):
            assert torch.equal(plain, checkpointed)


GENERATION = {
    "greedy": {"do_sample": False},
    "sampled": {"do_sample": True, "top_k": 20},
    "beams": {"num_beams": 3, "num_return_sequences": 2},
    "sampled beams": {"num_beams": 2, "do_sample": True},
}


@every_kind
@pytest.mark.parametrize("how", GENERATION)
def test_generation_with_the_cache_equals_generation_without(kind, how):
    model, rows = language_model(kind), [tokens(n, seed=n) for n in LENGTHS]
    ids, mask = masked(rows, 9, "left")
    results = []
    for use_cache in (True, False):
        torch.manual_seed(0)
        results.append(
            model.generate(
                ids, attention_mask=mask, max_new_tokens=7, use_cache=use_cache, pad_token_id=0,
                **GENERATION[how],
            )
        )  # fmt: skip
    assert torch.equal(*results)


@pytest.mark.parametrize("kind", ["gru", "lstm"])
@pytest.mark.parametrize("solver", ["auto", "fused", "reduction", "newton"])
def test_the_solver_changes_nothing(kind, solver):
    """The other tests of this file take the plain loop."""
    models = [language_model(kind), language_model(kind, solver=solver)]
    ids, positions, _ = packed_rows()
    mask = torch.ones_like(ids)
    mask[0, :5] = 0
    for inputs in ({}, {"position_ids": positions}, {"attention_mask": mask}):
        real = inputs.get("attention_mask", torch.ones_like(ids)) == 1
        logits = [model(ids, **inputs).logits[real] for model in models]
        close(*logits, rtol=1e-4, atol=1e-5)
        grads = [
            torch.autograd.grad(out.square().sum(), list(model.parameters()))
            for model, out in zip(models, logits, strict=True)
        ]
        for wanted, found in zip(*grads, strict=True):
            close(found, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))
    options = {"attention_mask": mask, "max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(*(model.generate(ids, **options) for model in models))


def test_generation_goes_on_from_embeddings_and_from_a_cache():
    model, ids = language_model(), tokens(2, 6) % 49 + 1
    options = {"pad_token_id": 0, "do_sample": False}
    whole = model.generate(ids, max_new_tokens=9, **options)
    embeds = model.get_input_embeddings()(ids)
    assert torch.equal(
        model.generate(inputs_embeds=embeds, max_new_tokens=9, **options), whole[:, 6:]
    )
    first = model.generate(ids, max_new_tokens=4, return_dict_in_generate=True, **options)
    more = model.generate(
        first.sequences, attention_mask=torch.ones_like(first.sequences),
        past_key_values=first.past_key_values, max_new_tokens=5, **options,
    )  # fmt: skip
    assert torch.equal(more, whole)
    chunked = model.generate(ids, max_new_tokens=9, prefill_chunk_size=4, **options)
    assert torch.equal(chunked, whole)


@torch.no_grad()
def test_the_cache_can_repeat_select_and_forget_rows():
    model, ids = language_model("lstm"), tokens(2, 5)
    cache = model(ids).past_key_values
    cache.batch_repeat_interleave(2)
    cache.batch_select_indices(torch.tensor([0, 3]))
    following = tokens(2, 2, seed=5)
    whole = model(torch.cat([ids, following], 1)).logits[:, -2:]
    close(model(following, past_key_values=cache).logits, whole, rtol=1e-4, atol=1e-5)
    cache.reset()
    assert cache.get_seq_length() == 0
    close(model(ids, past_key_values=cache).logits, model(ids).logits)
    with pytest.raises(ValueError, match="cannot be taken back"):
        cache.crop(-1)


@every_kind
@pytest.mark.parametrize("tied", [True, False])
def test_a_saved_model_is_loaded_by_the_auto_classes(kind, tied, tmp_path):
    model = language_model(kind, tie_word_embeddings=tied)
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(again) is ParaRNNForCausalLM
    assert type(AutoModel.from_pretrained(tmp_path)) is ParaRNNModel
    assert AutoConfig.from_pretrained(tmp_path).to_dict() == again.config.to_dict()
    assert again.state_dict().keys() == model.state_dict().keys()
    for name, value in again.state_dict().items():
        assert torch.equal(value, model.state_dict()[name])
    shared = again.lm_head.weight is again.get_input_embeddings().weight
    assert shared == tied


@torch.no_grad()
def test_bfloat16_keeps_the_state_in_float32():
    model, ids = language_model("lstm").to(torch.bfloat16), tokens(2, 9)
    out = model(ids[:, :-1])
    assert out.logits.dtype == torch.bfloat16
    assert out.past_key_values.layers[0].state.dtype == torch.float32
    assert out.past_key_values.layers[0].history.dtype == torch.bfloat16
    last = model(ids[:, -1:], past_key_values=out.past_key_values).logits
    close(last, model(ids).logits[:, -1:], rtol=0.05, atol=0.1)


def test_logits_are_kept_for_the_tokens_asked_for():
    model, ids = language_model(), tokens(2, 6)
    whole = model(ids).logits
    close(model(ids, logits_to_keep=2).logits, whole[:, -2:])
    close(model(ids, logits_to_keep=torch.tensor([0, 3])).logits, whole[:, [0, 3]])
    out = model(ids, output_hidden_states=True)
    assert [h.shape for h in out.hidden_states] == [(2, 6, 32)] * 4


def test_input_that_makes_no_sense_is_refused():
    model, ids = language_model(), tokens(2, 6)
    with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
        model()
    with pytest.raises(ValueError, match=r"rows, tokens.*shape \(2, 1, 6, 6\)"):
        model(ids, attention_mask=torch.ones(2, 1, 6, 6))
    with pytest.raises(ValueError, match="several sequences in a row.*use_cache=False"):
        model(ids, position_ids=torch.tensor([[0, 1, 2, 0, 1, 2]]), use_cache=True)
    with pytest.raises(ValueError, match="has NoneType where layer 0.*DynamicCache"):
        model(ids, past_key_values=DynamicCache())
