"""Ids learned from pixels: the half of a dual encoder that writes.

No stage of a Manzano, but of what its ablation compares it with (Manzano, Table 1): a tokenizer
whose language model reads through one encoder and writes the ids of another, which has been trained
to reconstruct pictures. The paper's is MagViT-2; here a ViT, FSQ and decoder of the hybrid's size
learn from the mean squared error.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from einops import rearrange
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from manzano.data_mix.encoders import PictureBatch, PictureEncoder
from manzano.tokenizer.adapters import DiscreteAdapter
from manzano.tokenizer.fsq import code_usage
from manzano.tokenizer.hybrid import HybridTokenizer, HybridTokenizerConfig, new_vit
from manzano.tokenizer.vit import grid_features
from manzano.training.config import TrainConfig
from manzano.training.stages.data import DataConfig, open_loader

WEIGHTS = "pixels.safetensors"


@dataclass(frozen=True, kw_only=True)
class Config(TrainConfig):
    """Training of ids by reconstruction."""

    data: DataConfig
    tokenizer: HybridTokenizerConfig
    """Sizes of the tokenizer that the ids are for."""
    depth: int = 2
    """Blocks of the decoder, which is thrown away."""


class PixelAutoencoder(nn.Module):
    """ViT and discrete adapter, and a small ViT that draws the picture from the ids."""

    _no_split_modules = ["Block"]

    def __init__(self, config: HybridTokenizerConfig, depth: int):
        super().__init__()
        self.block, width = config.block, config.discrete_width
        self.pixel_vit = new_vit(config)
        self.discrete_adapter = DiscreteAdapter(
            self.pixel_vit.embed_dim, config.hidden, width, config.levels, config.block
        )
        self.grid = self.pixel_vit.patch_embed.grid_size
        patch = config.image_size // self.grid[0]
        heads = cast(int, cast(Block, self.pixel_vit.blocks[0]).attn.num_heads)
        self.spread = nn.Linear(width, config.block**2 * width)
        self.position = nn.Parameter(0.02 * torch.randn(self.grid[0] * self.grid[1], width))
        self.decoder = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.paint = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 3 * patch**2))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """pixels (B, 3, H, W) in [-1, 1] -> their reconstruction, of the same shape; ids (B, N)."""
        features = grid_features(self.pixel_vit, pixels)
        codes, ids = self.discrete_adapter.quantize(features)
        tokens = self.spread(self.discrete_adapter.embed_codes(codes))  # (B, N, q q D)
        (rows, columns), q = self.grid, self.block
        grid = rearrange(
            tokens, "b (h w) (p q d) -> b (h p w q) d", h=rows // q, p=q, q=q
        )  # (B, rows * columns, D)
        patches = self.paint(self.decoder(grid + self.position))
        size = pixels.shape[-1] // columns
        painted = rearrange(
            patches, "b (h w) (c p q) -> b c (h p) (w q)", h=rows, c=3, p=size
        )  # (B, 3, H, W)
        return painted, ids


class Stage:
    """Trains a PixelAutoencoder and exports the half that `dual_tokenizer` takes."""

    def __init__(self, config: Config):
        self.config = config
        self.model = PixelAutoencoder(config.tokenizer, config.depth)

    def batches(self, *, rank: int, world_size: int):
        encoder = PictureEncoder(self.config.tokenizer.image_size)
        return open_loader(
            self.config.data, encoder, seed=self.config.loop.seed, rank=rank, world_size=world_size
        )

    def targets(self, batch: PictureBatch) -> dict[str, int]:
        return {"samples": len(batch.pixels)}

    def loss(
        self, batch: PictureBatch, totals: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        painted, ids = self.model(batch.pixels)
        loss = (painted - batch.pixels).square().mean((1, 2, 3)).sum() / totals["samples"]
        counts = torch.bincount(ids.flatten(), minlength=self.config.tokenizer.codebook_size)
        share = len(batch.pixels) / totals["samples"]
        return loss, {"loss": loss.detach(), "code_perplexity": code_usage(counts)[1] * share}

    def ceilings(self) -> dict[str, float]:
        return {}  # always from random weights

    def preview(self, directory: Path, step: int) -> None:
        """Nothing to look at: the loss tells."""

    def export(self, directory: Path) -> None:
        kept = ("pixel_vit.", "discrete_adapter.")
        state = {k: v for k, v in self.model.state_dict().items() if k.startswith(kept)}
        save_file(state, directory / WEIGHTS)


def dual_tokenizer(reading: str | Path, writing: str | Path) -> HybridTokenizer:
    """A dual encoder that reads as one tokenizer does and writes ids learned from pixels.

    Args:
        reading: export folder of the `tokenizer` stage.
        writing: export folder of this one.

    Raises:
        RuntimeError: if the two are of different sizes.
    """
    whole = HybridTokenizer.load(reading)
    state = {k: v for k, v in whole.state_dict().items() if not k.startswith("discrete_adapter.")}
    dual = HybridTokenizer(replace(whole.config, kind="dual"))
    dual.load_state_dict(state | load_file(Path(writing) / WEIGHTS))
    return dual
