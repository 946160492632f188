"""HybridTokenizer: one ViT read through two adapters (Manzano, Sec. 3.2, Fig. 2)."""

import json
from dataclasses import asdict, dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from manzano.tokenizer.adapters import CodeAdapter, ContinuousAdapter, DiscreteAdapter
from manzano.tokenizer.vit import build_vit, grid_features


@dataclass(frozen=True, kw_only=True)
class HybridTokenizerConfig:
    """By default the paper's: 672 px, ViT-L/16, 42 x 42 x 1024 -> 14 x 14 tokens, 64,000 codes."""

    vit: str = "vit_large_patch16_siglip_512"
    """timm model name."""
    vit_kwargs: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of timm.create_model that shape the ViT, e.g. {patch_size: 8, depth: 4}."""
    conv_stem: bool = False
    """Three strided convolutions in place of the patch projection: see `build_vit`."""
    image_size: int = 672
    """Side of the square input, pixels."""
    block: int = 3
    """Side of the block of features folded into one token."""
    levels: tuple[int, ...] = (8, 8, 8, 5, 5, 5)
    """FSQ levels; their product is the codebook size."""
    width: int = 2048
    """Width of the continuous embeddings: that of the LLM which reads them."""
    hidden: int = 2048
    """Hidden width of both adapters' MLPs."""
    discrete_width: int = 2048
    """Width of the discrete adapter's embeddings: that of the small LLM it was trained with."""
    kind: Literal["hybrid", "discrete", "dual"] = "hybrid"
    """Manzano's is hybrid; the others are what it is compared with (Table 1). discrete: what is
    asked about is read from the codes, too. dual: ids come from a second ViT, trained on pixels."""

    def __post_init__(self):
        object.__setattr__(self, "levels", tuple(self.levels))
        if self.kind not in ("hybrid", "discrete", "dual"):
            raise ValueError(f"a tokenizer is hybrid, discrete or dual, got kind {self.kind!r}")
        if min(self.levels, default=0) < 3:
            raise ValueError(f"FSQ levels must be three or more each, got {list(self.levels)}")

    @property
    def codebook_size(self) -> int:
        return prod(self.levels)

    def to_dict(self) -> dict:
        return {**asdict(self), "levels": list(self.levels)}


def new_vit(config: HybridTokenizerConfig) -> VisionTransformer:
    """A ViT of the size that `config` gives, with random weights."""
    return build_vit(config.vit, config.image_size, conv_stem=config.conv_stem, **config.vit_kwargs)


class HybridTokenizer(nn.Module):
    """Pixels to continuous embeddings (for understanding) and to ids (for generation).

    Args:
        config: sizes; see HybridTokenizerConfig.

    Raises:
        ValueError: if the ViT's grid cannot be folded into blocks.
    """

    def __init__(self, config: HybridTokenizerConfig):
        super().__init__()
        self.config = config
        self.vit = new_vit(config)
        self.pixel_vit = new_vit(config) if config.kind == "dual" else None
        rows, columns = self.vit.patch_embed.grid_size
        if rows % config.block or columns % config.block:
            patch = config.image_size // rows
            raise ValueError(
                f"image_size {config.image_size} with patch {patch} gives a {rows}x{columns} grid, "
                f"which {config.block}x{config.block} spatial-to-channel cannot divide: "
                f"choose an image_size that is a multiple of {patch * config.block}"
            )
        self.grid: tuple[int, int] = (rows // config.block, columns // config.block)
        channels = self.vit.embed_dim
        if config.kind == "discrete":
            self.continuous_adapter = CodeAdapter(len(config.levels), config.hidden, config.width)
        else:
            self.continuous_adapter = ContinuousAdapter(
                channels, config.hidden, config.width, config.block
            )
        self.discrete_adapter = DiscreteAdapter(
            channels, config.hidden, config.discrete_width, config.levels, config.block
        )

    @property
    def num_tokens(self) -> int:
        """N, tokens an image becomes in either branch."""
        return self.grid[0] * self.grid[1]

    def features(self, pixels: Tensor, vit: VisionTransformer | None = None) -> Tensor:
        """pixels (P, 3, H, W) in [-1, 1] -> (P, rows, columns, C), in the type of the weights; of
        the ViT that reads, if none is given."""
        return grid_features(vit or self.vit, pixels.to(next(self.vit.parameters()).dtype))

    def read(self, features: Tensor) -> Tensor:
        """features (P, rows, columns, C) -> embeddings (P, N, width)."""
        if self.config.kind == "discrete":
            return self.continuous_adapter(self.discrete_adapter.quantize(features)[0])
        return self.continuous_adapter(features)

    def continuous(self, pixels: Tensor) -> Tensor:
        """pixels (P, 3, H, W) in [-1, 1] -> embeddings (P, N, width)."""
        return self.read(self.features(pixels))

    def discrete(self, pixels: Tensor) -> Tensor:
        """pixels (P, 3, H, W) in [-1, 1] -> ids (P, N) int64, each < codebook_size."""
        features = self.features(pixels, self.pixel_vit)
        return self.discrete_adapter.quantize(features)[1]

    def embed_ids(self, ids: Tensor) -> Tensor:
        """ids (P, N) -> (P, N, discrete_width), the image decoder's condition."""
        return self.discrete_adapter.embed_ids(ids)

    def save(self, folder: str | Path) -> None:
        """Writes `config.json` and `model.safetensors`."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / "config.json").write_text(json.dumps(self.config.to_dict(), indent=2))
        save_file(self.state_dict(), Path(folder) / "model.safetensors")

    @classmethod
    def load(cls, folder: str | Path) -> "HybridTokenizer":
        """Reads a folder that `save` wrote, strictly.

        Raises:
            FileNotFoundError: if the folder lacks a file, naming it.
        """
        config, weights = Path(folder) / "config.json", Path(folder) / "model.safetensors"
        for path in (config, weights):
            if not path.is_file():
                raise FileNotFoundError(
                    f"no {path.name} in the tokenizer folder {folder}: give the export folder of "
                    "the `tokenizer` stage"
                )
        tokenizer = cls(HybridTokenizerConfig(**json.loads(config.read_text())))
        tokenizer.load_state_dict(load_file(weights))
        return tokenizer


def freeze_for_llm(tokenizer: HybridTokenizer) -> None:
    """Freezes ViT and discrete adapter, and so the image vocabulary (Manzano, Sec. 3.3)."""
    tokenizer.vit.requires_grad_(False)
    if tokenizer.pixel_vit is not None:
        tokenizer.pixel_vit.requires_grad_(False)
    tokenizer.discrete_adapter.requires_grad_(False)


@torch.no_grad()
def resize_continuous(tokenizer: HybridTokenizer, width: int) -> None:
    """Gives the continuous adapter a fresh last layer of another LLM's width; all else stays."""
    last = tokenizer.continuous_adapter.project[-1]
    assert isinstance(last, nn.Linear)
    if last.out_features == width:
        return
    fresh = nn.Linear(last.in_features, width).to(last.weight)
    tokenizer.continuous_adapter.project[-1] = fresh
    tokenizer.config = replace(tokenizer.config, width=width)
