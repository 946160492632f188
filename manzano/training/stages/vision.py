"""Stage `vision`: contrastive pre-training of the ViT, where no pretrained one is given.

Manzano's ViT is pre-trained contrastively before anything else (Sec. 4.2.1). The loss is SigLIP's
sigmoid (Zhai et al. 2023, arXiv 2303.15343): every picture-caption pair of the batch is a yes/no
question. Pairs whose captions are equal word for word are positives too: small corpora name many
pictures alike.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from transformers import AutoTokenizer, SiglipTextConfig, SiglipTextModel

from manzano.data_mix.encoders import CaptionBatch, CaptionEncoder
from manzano.llm.vocabulary import joint_vocabulary
from manzano.tokenizer.spatial_to_channel import SpatialToChannel
from manzano.tokenizer.vit import build_vit, grid_features, load_vit
from manzano.training.config import TrainConfig
from manzano.training.stages.data import DataConfig, open_loader


@dataclass(frozen=True, kw_only=True)
class Config(TrainConfig):
    """Contrastive pre-training of a ViT."""

    data: DataConfig
    text_tokenizer: str
    """Name or folder of the text tokenizer."""
    vit: str = "vit_large_patch16_siglip_512"
    """timm model name."""
    vit_kwargs: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of timm.create_model."""
    conv_stem: bool = False
    """Three strided convolutions in place of the patch projection."""
    vit_weights: str = ""
    """Pretrained ViT to go on from, as in the tokenizer stage; "" starts from random weights."""
    image_size: int = 672
    """Pixels, side of the square."""
    text_width: int = 1024
    """Width of the text tower, and of the space in which the two meet."""
    text_depth: int = 24
    """Layers of the text tower."""
    text_heads: int = 16
    """Heads of the text tower."""
    max_caption_tokens: int = 64
    """Longer captions are cut."""


class GridPool(nn.Module):
    """Grid features (B, H, W, C) -> one vector (B, width), linearly, knowing where each feature is.

    The grid is folded as the adapters fold it, each token is reduced to `channels` numbers, and
    all of them together are projected. A mean over the grid would forget the order of letters;
    beside this projection it even keeps it from learning shapes and words (docs/log.md).
    """

    def __init__(self, vit: VisionTransformer, width: int, channels: int = 64, block: int = 3):
        super().__init__()
        rows, columns = vit.patch_embed.grid_size
        self.fold = SpatialToChannel(block)
        self.reduce = nn.Linear(block * block * vit.embed_dim, channels)
        self.project = nn.Linear(rows // block * (columns // block) * channels, width)

    def forward(self, features: Tensor) -> Tensor:
        tokens = self.reduce(self.fold(features))  # (B, h, w, channels)
        return self.project(tokens.flatten(1))


class ContrastiveModel(nn.Module):
    """ViT and text tower with SigLIP's learned temperature and bias."""

    _no_split_modules = ["Block", "SiglipEncoderLayer"]

    def __init__(self, config: Config, vocab_size: int):
        super().__init__()
        self.vit = build_vit(
            config.vit, config.image_size, conv_stem=config.conv_stem, **config.vit_kwargs
        )
        self.text = SiglipTextModel(
            SiglipTextConfig(
                vocab_size=vocab_size,
                hidden_size=config.text_width,
                num_hidden_layers=config.text_depth,
                num_attention_heads=config.text_heads,
                intermediate_size=4 * config.text_width,
                max_position_embeddings=config.max_caption_tokens,
                projection_size=config.text_width,
                bos_token_id=None,  # SigLIP's own lie outside this vocabulary
                eos_token_id=None,
            )
        )
        self.pool = GridPool(self.vit, config.text_width)
        self.log_scale = nn.Parameter(torch.tensor(10.0).log())
        self.bias = nn.Parameter(torch.tensor(-10.0))

    def forward(self, pixels: Tensor, input_ids: Tensor) -> Tensor:
        """pixels (B, 3, H, W), input_ids (B, T) -> logits (B pictures, B captions)."""
        pictures = self.pool(grid_features(self.vit, pixels))  # (B, D)
        captions = self.text(input_ids).pooler_output  # (B, D)
        cosine = F.normalize(pictures.float(), dim=-1) @ F.normalize(captions.float(), dim=-1).T
        return cosine * self.log_scale.exp() + self.bias


def same_caption(input_ids: Tensor) -> Tensor:
    """(B, T) -> (B, B) bool, True where two captions are equal token for token."""
    return (input_ids[:, None] == input_ids[None]).all(-1)


class Stage:
    """Trains a ContrastiveModel and exports its ViT (`vit.safetensors`)."""

    def __init__(self, config: Config):
        self.config = config
        self.tokenizer = AutoTokenizer.from_pretrained(config.text_tokenizer)
        vocabulary = joint_vocabulary(self.tokenizer, image_size=0)  # sees to a token for padding
        self.model = ContrastiveModel(config, vocab_size=vocabulary.size)
        if config.vit_weights:
            load_vit(self.model.vit, config.vit_weights)

    def batches(self, *, rank: int, world_size: int):
        encoder = CaptionEncoder(
            self.config.image_size, self.tokenizer, self.config.max_caption_tokens
        )
        return open_loader(
            self.config.data, encoder, seed=self.config.loop.seed, rank=rank, world_size=world_size
        )

    def targets(self, batch: CaptionBatch) -> dict[str, int]:
        return {"samples": len(batch.pixels)}

    def loss(
        self, batch: CaptionBatch, totals: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        logits = self.model(batch.pixels, batch.input_ids)
        match = same_caption(batch.input_ids)
        loss = -F.logsigmoid(torch.where(match, logits, -logits)).sum() / totals["samples"]
        hit = match.gather(1, logits.argmax(1, keepdim=True)).sum() / totals["samples"]
        return loss, {"loss": loss.detach(), "retrieval": hit}

    def ceilings(self) -> dict[str, float]:
        return {}  # its text tower is always new

    def preview(self, directory: Path, step: int) -> None:
        """Nothing to look at: the loss and the retrieval rate tell."""

    def export(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        save_file(self.model.vit.state_dict(), directory / "vit.safetensors")
