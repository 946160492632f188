"""Language-model backbones: any causal language model that transformers' Auto classes know.

Ours, with nonlinear RNNs in place of attention, is among them: model_type pararnn.
"""

from difflib import get_close_matches
from inspect import signature
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.hub import cached_file

import manzano.llm.pararnn.modeling  # noqa: F401  (registers model_type pararnn)
from manzano.llm.vocabulary import SPECIAL_TOKENS, JointVocabulary
from manzano.load_report import strict_report
from manzano.weights import check_files


def language_config(settings: dict) -> PreTrainedConfig:
    """The transformers config of a causal language model, e.g. {"model_type": "qwen3"}.

    Raises:
        ValueError: for a model_type transformers does not know, or a key that the config lacks,
            with the nearest name.
    """
    settings = dict(settings)
    model_type = settings.pop("model_type", None)
    if model_type is None:
        raise ValueError(
            f"a language model's config needs model_type (e.g. qwen3), got keys {sorted(settings)}"
        )
    config = AutoConfig.for_model(model_type)
    known = config.to_dict() | {"attn_implementation": None, "dtype": None, "architectures": None}
    for key in settings:
        if key not in known and not hasattr(config, key):
            near = get_close_matches(key, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"{model_type} has no setting {key!r}{hint}")
    return AutoConfig.for_model(model_type, **settings)


def build_language_model(
    settings: dict, text: PreTrainedTokenizerBase, vocabulary: JointVocabulary
) -> PreTrainedModel:
    """A causal language model with a row for every joint id: new, or `{"pretrained": NAME}`.

    A pretrained one keeps the rows of its own tokens and loses rows that only fill its table up
    (Qwen3's has 151,936 for 151,669 tokens). Tokens that it did not have begin as draws from the
    normal distribution of its rows, image ids as `manzano.llm.image_rows` has it.

    Args:
        settings: see `language_config`, or {"pretrained": NAME OR FOLDER} alone.
        text: the text tokenizer, with our special tokens.
        vocabulary: the joint vocabulary over it.

    Raises:
        ValueError: for other settings beside the name; if the weights are not found, not whole, not
            a causal language model or not that of this tokenizer.
    """
    if "pretrained" not in settings:
        config = language_config({**settings, "vocab_size": vocabulary.size})
        return AutoModelForCausalLM.from_config(config)
    if len(settings) > 1:
        others = sorted(settings.keys() - {"pretrained"})
        raise ValueError(f"llm.pretrained brings its own settings along: remove {others}")
    source = str(settings["pretrained"])
    model, info = _read(source)
    rows = len(next(model.get_input_embeddings().parameters()))
    known = _known_rows(source, text, vocabulary, rows)
    model.resize_token_embeddings(vocabulary.size, mean_resizing=False)
    draw_rows(model, known, vocabulary.text_size)
    made = {"text rows": (known, vocabulary.text_size)}
    made["image rows"] = (vocabulary.text_size, vocabulary.size)
    strict_report(
        "language model", source, model, info,
        resized={"token tables": ((rows,), (vocabulary.size,))},
        new=[f"{name} {a} to {b - 1}" for name, (a, b) in made.items() if a < b],
        dropped=[f"rows {known} to {rows - 1}, which belong to no token"] if known < rows else [],
    ).log()  # fmt: skip
    return model


def _read(source: str) -> tuple[PreTrainedModel, dict]:
    """The model as it was saved, in fp32 (precision is the loop's matter), and what transformers
    says about its loading."""
    if Path(source).is_dir():
        check_files(Path(source))
    try:
        model, info = AutoModelForCausalLM.from_pretrained(  # pyright: ignore[reportGeneralTypeIssues]
            source, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True
        )
    except (OSError, ValueError) as error:
        raise ValueError(
            f"llm.pretrained {source!r} gives no causal language model: "
            f"{str(error).strip().splitlines()[0]} Give the folder or the hub name of one that "
            "transformers' AutoModelForCausalLM loads, such as Qwen/Qwen3-0.6B"
        ) from error
    model.config.dtype = torch.float32
    accepted = signature(model.forward).parameters
    if lacks := {"inputs_embeds", "position_ids"} - set(accepted):
        raise ValueError(
            f"llm.pretrained {source!r} is a {type(model).__name__}, whose forward takes no "
            f"{' and no '.join(sorted(lacks))}: pictures cannot be put into it, or sequences not "
            "packed. Give another architecture, such as Qwen3"
        )
    return model, info


def _known_rows(
    source: str, text: PreTrainedTokenizerBase, vocabulary: JointVocabulary, rows: int
) -> int:
    """How many of the table's first rows were trained: those of the model's own tokenizer's tokens;
    without one beside the weights, all that stand for a text id.

    Raises:
        ValueError: if `text` is not the tokenizer that the rows were trained with.
    """
    if rows < vocabulary.text_size - len(SPECIAL_TOKENS) - len(vocabulary.sizes):
        raise ValueError(
            f"llm.pretrained {source!r} has {rows} rows for the {vocabulary.text_size} tokens of "
            "text_tokenizer: give text_tokenizer the tokenizer of the language model"
        )
    described = "tokenizer_config.json"
    if cached_file(source, described, _raise_exceptions_for_missing_entries=False) is None:
        return min(rows, vocabulary.text_size)
    own, given = AutoTokenizer.from_pretrained(source).get_vocab(), text.get_vocab()
    if strangers := [token for token, row in own.items() if given.get(token) != row]:
        raise ValueError(
            f"text_tokenizer is not the tokenizer of llm.pretrained {source!r}: {len(strangers)} "
            f"tokens of the latter have another id or none in it, e.g. {strangers[:4]}. Set "
            f"text_tokenizer to {source}"
        )
    return min(rows, max(own.values()) + 1)


@torch.no_grad()
def draw_rows(model: PreTrainedModel, start: int, stop: int) -> None:
    """Draws rows start to stop - 1 of the tables anew, with mean and deviation of those before."""
    layers = model.get_input_embeddings(), model.get_output_embeddings()
    for table in {next(layer.parameters()) for layer in layers if layer is not None}:
        before = table[:start]
        drawn = torch.randn_like(table[start:stop])
        table[start:stop] = before.mean(0) + before.std(0) * drawn
