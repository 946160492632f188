import pytest
from transformers import AutoTokenizer

from manzano.data_mix.text_tokenizer import SPECIAL_TOKENS, train_text_tokenizer

TEXTS = ["Draw a small red heart.", "is there a red shape in the image?", "THE TEXT 2024"] * 20


@pytest.fixture(scope="module")
def tokenizer():
    return train_text_tokenizer(TEXTS, 320)


@pytest.mark.parametrize(
    "text", ["Draw a red heart.", "  two  spaces\n", "ÄÖ 漢字 🍎", "HELLO World 1234", " a", "é"]
)
def test_any_text_survives_a_round_trip(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_capitals_and_digits_are_tokens_of_their_own(tokenizer):
    assert tokenizer.tokenize("THE 2024") == ["T", "H", "E", "Ġ", "2", "0", "2", "4"]
    assert tokenizer.tokenize("The")[0] == "T"
    assert len(tokenizer.tokenize("small red heart")) < len("small red heart") / 2


def test_special_tokens_come_first_and_are_never_split(tokenizer):
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == list(range(len(SPECIAL_TOKENS)))
    ids = tokenizer.encode("a<image><image>b<|end|>")
    assert ids.count(tokenizer.convert_tokens_to_ids("<image>")) == 2
    assert (ids[-1], tokenizer.eos_token, tokenizer.pad_token) == (
        tokenizer.eos_token_id,
        "<|end|>",
        "<|pad|>",
    )
    assert tokenizer.decode(ids, skip_special_tokens=True) == "ab"


def test_the_same_texts_give_the_same_tokenizer(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "a")
    train_text_tokenizer(TEXTS, 320).save_pretrained(tmp_path / "b")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_saved_tokenizer_loads_with_transformers(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = "Draw a small red heart.<|end|>"
    assert loaded.encode(text) == tokenizer.encode(text)
    assert len(loaded) == len(tokenizer) <= 320


def test_a_vocabulary_without_room_and_an_unknown_token_are_refused():
    with pytest.raises(ValueError, match="need at least 264"):
        train_text_tokenizer(TEXTS, 200)
    with pytest.raises(ValueError, match="'<eos>' is not among"):
        train_text_tokenizer(TEXTS, eos_token="<eos>")
