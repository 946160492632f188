"""The joint vocabulary: text first, then one block of image ids."""

import json

from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from manzano.llm.vocabulary import SIZE_TOKENS, SPECIAL_TOKENS, JointVocabulary, joint_vocabulary
from tests.tiny import text_tokenizer


def test_image_ids_follow_the_text_ids_without_a_gap():
    tokenizer = text_tokenizer()
    vocabulary = joint_vocabulary(tokenizer, 36)
    assert vocabulary.text_size == vocabulary.image_offset == len(tokenizer) == 264 + 12
    assert vocabulary.size == 312
    for name, token in SPECIAL_TOKENS.items():
        assert tokenizer.encode(token) == [getattr(vocabulary, name)]
    assert [tokenizer.encode(token) for token in SIZE_TOKENS.values()] == [
        [size] for size in vocabulary.sizes
    ]
    assert JointVocabulary(**json.loads(json.dumps(vocabulary.to_dict()))) == vocabulary


def test_a_tokenizer_gets_the_special_tokens_it_lacks():
    words = models.WordLevel({"red": 0, "heart": 1, "?": 2}, unk_token="?")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words))
    vocabulary = joint_vocabulary(tokenizer, 36)
    assert vocabulary.text_size == 3 + len(SPECIAL_TOKENS) + len(SIZE_TOKENS)
    assert tokenizer.pad_token_id == vocabulary.pad
    assert tokenizer.encode("<image>") == [vocabulary.image]
    assert joint_vocabulary(tokenizer, 36) == vocabulary


def test_a_model_that_draws_nothing_needs_no_sizes():
    words = models.WordLevel({"red": 0, "?": 1}, unk_token="?")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words))
    assert joint_vocabulary(tokenizer, 0).sizes == ()
    assert len(tokenizer) == 2 + len(SPECIAL_TOKENS)
