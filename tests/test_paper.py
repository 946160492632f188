"""The shapes of the paper, end to end, at its sizes on the meta device."""

from pathlib import Path

import pytest
import torch

from manzano.configuration import ManzanoConfig
from manzano.llm.backbone import language_config
from manzano.llm.vocabulary import joint_vocabulary
from manzano.model import ManzanoForConditionalGeneration
from manzano.tokenizer.adapters import DiscreteAdapter
from manzano.tokenizer.hybrid import HybridTokenizer
from manzano.training.stages.decoder import build_decoder
from tests.test_configs import ROOT, read
from tests.tiny import text_tokenizer

TOKENIZER = read(ROOT / "configs/tokenizer/vit_l_672.yaml").tokenizer
UNIFIED = [path for path in sorted((ROOT / "configs/llm").glob("*.yaml")) if not read(path).start]


def test_a_picture_of_672_px_becomes_196_of_64000_codes_in_either_branch():
    """ViT-L/16, Manzano Sec. 3.2: 42 x 42 x 1024 -> 14 x 14 x 9216 -> 196 tokens."""
    with torch.device("meta"):
        tokenizer = HybridTokenizer(TOKENIZER)
        features = tokenizer.features(torch.empty(2, 3, 672, 672))
        assert features.shape == (2, 42, 42, 1024)
        assert tokenizer.continuous_adapter.fold(features).shape == (2, 14, 14, 9216)
        assert tokenizer.continuous(torch.empty(2, 3, 672, 672)).shape == (2, 196, 1024)
    discrete = DiscreteAdapter(1024, TOKENIZER.hidden, TOKENIZER.discrete_width, TOKENIZER.levels)
    ids = discrete.quantize(torch.randn(features.shape))[1]
    assert (ids.shape, ids.dtype) == ((2, 196), torch.int64)
    assert discrete.embed_ids(ids).shape == (2, 196, 1024)
    every = torch.arange(64_000)[None]
    assert torch.equal(discrete.fsq.codes_to_ids(discrete.fsq.ids_to_codes(every)), every)
    assert tokenizer.config.codebook_size == 64_000


@pytest.mark.parametrize("name", ["0.9b", "1.75b", "3.52b"])
@pytest.mark.parametrize("side", [256, 2048])
def test_a_decoder_paints_from_14_x_14_condition_tokens(name, side):
    """Sec. 4.2.3; latents 8 times smaller, 16 channels, an edit with its reference."""
    latents = torch.empty(1, 16, side // 8, side // 8, device="meta")
    with torch.device("meta"):
        decoder = build_decoder(
            read(ROOT / f"configs/decoder/{name}_256.yaml").model,
            in_channels=16, condition_width=TOKENIZER.discrete_width,
        )  # fmt: skip
        flow = decoder(
            latents, torch.empty(1), torch.empty(1, 196, TOKENIZER.discrete_width),
            condition_grid=(14, 14), reference_latents=latents,
        )  # fmt: skip
    assert flow.shape == latents.shape


@pytest.mark.parametrize("path", UNIFIED, ids=lambda path: Path(path).stem)
def test_a_unified_model_predicts_text_and_64000_image_ids_jointly(path):
    """Sec. 3.1: one row and one logit for each; the picture enters as 196 embeddings."""
    vocabulary = joint_vocabulary(text_tokenizer(), TOKENIZER.codebook_size)
    assert vocabulary.size == vocabulary.text_size + 64_000
    text_config = language_config(read(path).llm)
    sizes = TOKENIZER.to_dict() | {"width": text_config.hidden_size}
    config = ManzanoConfig(
        vision_config=sizes, text_config=text_config, vocabulary=vocabulary.to_dict()
    )
    with torch.device("meta"):
        model = ManzanoForConditionalGeneration(config)
        tokens = model.vision.continuous(torch.empty(1, 3, 672, 672))
    assert tokens.shape == (1, 196, text_config.hidden_size)
    for table in (model.get_input_embeddings(), model.get_output_embeddings()):
        assert table.weight.shape == (vocabulary.size, text_config.hidden_size)
