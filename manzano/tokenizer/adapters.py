"""The two adapters on the shared ViT (Manzano, Sec. 3.2).

Each folds 3x3 features into a token by itself. The paper gives no layers inside: LayerNorm first
keeps both branches on one scale; two-layer MLPs follow the common projector of vision-language
models.
"""

from einops import rearrange
from torch import Tensor, nn

from manzano.tokenizer.fsq import FSQ
from manzano.tokenizer.spatial_to_channel import SpatialToChannel


def mlp(width_in: int, hidden: int, width: int) -> nn.Sequential:
    """Linear, GELU, Linear."""
    return nn.Sequential(nn.Linear(width_in, hidden), nn.GELU(), nn.Linear(hidden, width))


class ContinuousAdapter(nn.Module):
    """Grid features (B, H, W, C) -> embeddings for the LLM's input (B, N, width)."""

    def __init__(self, channels: int, hidden: int, width: int, block: int = 3):
        super().__init__()
        self.fold = SpatialToChannel(block)
        self.norm = nn.LayerNorm(block * block * channels)
        self.project = mlp(block * block * channels, hidden, width)

    def forward(self, features: Tensor) -> Tensor:
        tokens = rearrange(self.fold(features), "b h w c -> b (h w) c")
        return self.project(self.norm(tokens))  # (B, N, width)


class CodeAdapter(nn.Module):
    """Codes (B, N, L) -> embeddings for the LLM's input (B, N, width), in place of the continuous
    adapter: what is read is no more than what is written."""

    def __init__(self, digits: int, hidden: int, width: int):
        super().__init__()
        self.project = mlp(digits, hidden, width)

    def forward(self, codes: Tensor) -> Tensor:
        return self.project(codes.to(next(self.parameters()).dtype))


class DiscreteAdapter(nn.Module):
    """Grid features (B, H, W, C) -> ids (B, N) of the codebook, and embeddings of ids.

    Fold, LayerNorm, Linear to one number per FSQ level, quantise, MLP (used when the tokenizer is
    trained and as the condition of the image decoder; the LLM has its own rows for the ids).
    """

    def __init__(
        self, channels: int, hidden: int, width: int, levels: tuple[int, ...], block: int = 3
    ):
        super().__init__()
        self.fold = SpatialToChannel(block)
        self.norm = nn.LayerNorm(block * block * channels)
        self.reduce = nn.Linear(block * block * channels, len(levels))
        self.fsq = FSQ(levels)
        self.project = mlp(len(levels), hidden, width)

    def quantize(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """codes (B, N, L) float32, ids (B, N) int64."""
        tokens = rearrange(self.fold(features), "b h w c -> b (h w) c")
        return self.fsq(self.reduce(self.norm(tokens)))

    def embed_codes(self, codes: Tensor) -> Tensor:
        """codes (B, N, L) -> (B, N, width)."""
        return self.project(codes.to(next(self.project.parameters()).dtype))

    def embed_ids(self, ids: Tensor) -> Tensor:
        """ids (B, N) -> (B, N, width)."""
        return self.embed_codes(self.fsq.ids_to_codes(ids))

    def forward(self, features: Tensor) -> Tensor:
        """Embeddings (B, N, width), differentiable through the rounding (straight-through)."""
        codes, _ = self.quantize(features)
        return self.embed_codes(codes)
