"""DiT-Air: one Transformer over [condition | reference | noisy latents] (arXiv 2503.10618, 3).

All tokens share one QKVO and one MLP per layer. What tells the streams apart is the modulation, one
head for the condition and one for images, each shared by all layers, and the type axis of the
rotary positions. A layer has 12 d^2 weights and the two modulation heads have 12 d^2 together: in
all (12 + 12 N) d^2 at depth N. With a SwiGLU MLP (12 d^2 in place of 8) and half as many heads of
keys and values (3 d^2 in place of 4) it is (12 + 15 N) d^2.

Time t runs from 0 (noise) to 1 (data); the prediction is the flow x0 - noise. A reference image is
a finished image, so it is modulated at t = 1 whatever the time of the noisy latents.

Letters: B batch, N condition tokens, R reference tokens, M noisy tokens, T = N + R + M, D width,
H heads, G heads of keys and values, K head dim, C latent channels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.activations import SwiGLU
from diffusers.models.embeddings import TimestepEmbedding, Timesteps, apply_rotary_emb
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional as F

from manzano.decoder.conditioning import ConditionEmbedder
from manzano.decoder.rope import (
    CONDITION,
    NOISY,
    REFERENCE,
    grid_positions,
    rotary_embedding,
    scaled_grid,
)

DIT_AIR = {
    "S": {"num_layers": 12, "width": 768, "head_dim": 64},
    "B": {"num_layers": 18, "width": 1152, "head_dim": 64},
    "L": {"num_layers": 24, "width": 1536, "head_dim": 64},
    "XL": {"num_layers": 30, "width": 1920, "head_dim": 64},
    "XXL": {"num_layers": 38, "width": 2432, "head_dim": 64},
}
"""The published sizes: as many heads of 64 as layers."""

MANZANO_DECODERS = {
    "0.9B": {**DIT_AIR["L"], "num_kv_heads": 12, "mlp": "swiglu"},
    "1.75B": {**DIT_AIR["XL"], "num_kv_heads": 15, "mlp": "swiglu"},
    "3.52B": {**DIT_AIR["XXL"], "num_kv_heads": 19, "mlp": "swiglu"},
}
"""Decoders as large as Manzano's (4.2.3), which does not say what they are: (12 + 15 N) d^2 at
DiT-Air's L, XL and XXL is our inference."""

PRESETS = {**DIT_AIR, **MANZANO_DECODERS}


def patchify(latents: Tensor, patch_size: int) -> Tensor:
    """(B, C, h, w) -> (B, h / p * w / p, C p p), raster order."""
    return rearrange(
        latents, "b c (h p) (w q) -> b (h w) (c p q)", p=patch_size, q=patch_size
    )  # (B, M, C p p)


def unpatchify(tokens: Tensor, grid: tuple[int, int], patch_size: int) -> Tensor:
    """The inverse of `patchify`, for a grid of (rows, columns) tokens."""
    return rearrange(
        tokens, "b (h w) (c p q) -> b c (h p) (w q)", h=grid[0], p=patch_size, q=patch_size
    )  # (B, C, h, w)


class Attention(nn.Module):
    """Self-attention over all streams, queries and keys normalised and rotated.

    With `num_kv_heads` below the number of heads, neighbouring query heads share one head of keys
    and values (grouped-query attention).
    """

    def __init__(self, width: int, head_dim: int, num_kv_heads: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.num_heads = [width // head_dim, num_kv_heads, num_kv_heads]  # of q, k and v
        self.qkv = nn.Linear(width, sum(self.num_heads) * head_dim, bias=False)
        self.query_norm = nn.RMSNorm(head_dim, eps=1e-6)
        self.key_norm = nn.RMSNorm(head_dim, eps=1e-6)
        self.output = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        heads = rearrange(self.qkv(x), "b t (h k) -> b h t k", k=self.head_dim)
        q, k, v = heads.split(self.num_heads, dim=1)  # (B, H or G, T, K)
        precision = self.query_norm.weight.dtype  # fp32 under autocast
        q = apply_rotary_emb(self.query_norm(q.to(precision)), rope).to(v)  # pyright: ignore
        k = apply_rotary_emb(self.key_norm(k.to(precision)), rope).to(v)  # pyright: ignore
        # Written out: grouped heads with a mask take torch to its quadratic kernel on many GPUs.
        shared = self.num_heads[0] // self.num_heads[1]
        k, v = (repeat(heads, "b g t k -> b (g s) t k", s=shared) for heads in (k, v))
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)  # (B, H, T, K)
        return self.output(rearrange(x, "b h t k -> b t (h k)"))  # (B, T, D)


def feed_forward(width: int, mlp: str) -> nn.Sequential:
    """The MLP of a layer, 4 D wide inside: "gelu" has 8 D^2 weights, "swiglu" 12 D^2."""
    inner = 4 * width
    if mlp == "gelu":
        first = [nn.Linear(width, inner, bias=False), nn.GELU(approximate="tanh")]
    elif mlp == "swiglu":
        first = [SwiGLU(width, inner, bias=False)]
    else:
        raise ValueError(f"mlp is 'gelu' or 'swiglu', got {mlp!r}")
    return nn.Sequential(*first, nn.Linear(inner, width, bias=False))


class DiTAirBlock(nn.Module):
    """Attention and MLP, each between two norms ("sandwich") and gated by the shared modulation."""

    def __init__(self, width: int, head_dim: int, num_kv_heads: int, mlp: str) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.attention = Attention(width, head_dim, num_kv_heads)
        self.mlp = feed_forward(width, mlp)

    def forward(
        self,
        x: Tensor,
        modulation: tuple[Tensor, ...],
        rope: tuple[Tensor, Tensor],
        mask: Tensor | None,
    ) -> Tensor:
        """x and every modulation vector (B, T, D), rope 2 x (T, K), mask (B, 1, 1, T) bool."""
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation
        x = x + gate1 * self.norm(self.attention(self.norm(x) * (1 + scale1) + shift1, rope, mask))
        return x + gate2 * self.norm(self.mlp(self.norm(x) * (1 + scale2) + shift2))


class Stream(NamedTuple):
    """One of the three groups of tokens."""

    kind: int
    tokens: Tensor
    """(B, n, D)."""
    grid: tuple[int, int]
    """Rows and columns of the tokens, n = rows x columns."""
    modulation: Tensor
    """(B, 6 D): shift, scale and gate of the attention, then of the MLP."""

    def token_modulation(self) -> Tensor:
        """The modulation written out per token, (6, B, n, D): once for all layers."""
        vectors = rearrange(self.modulation, "b (six d) -> six b 1 d", six=6)
        return vectors.expand(-1, -1, self.tokens.shape[1], -1)


def visible_tokens(streams: list[Stream], reference_mask: Tensor) -> Tensor:
    """Which keys each sample may attend to, bool (B, 1, 1, T): all but masked references."""
    everything = torch.ones_like(reference_mask)
    visible = [
        (reference_mask if stream.kind == REFERENCE else everything)[:, None].expand(
            -1, stream.tokens.shape[1]
        )
        for stream in streams
    ]
    return torch.cat(visible, dim=1)[:, None, None]


class DiTAir(ModelMixin, ConfigMixin):
    """The decoder network: noisy latents, time, condition, perhaps a reference -> flow.

    One model serves every latent size. `condition_width` is the width of
    `HybridTokenizer.embed_ids`, `num_kv_heads` the heads of keys and values (as many as those of
    queries by default), `mlp` "gelu" or "swiglu". Sizes by name: `DiTAir(**PRESETS["0.9B"], ...)`.

    `rope_size` is the side, in latents, of the pictures of the first training: positions in
    pictures of every size are scaled to theirs, and so a model that goes on at a larger size knows
    them. None counts tokens. `sample_size` is the side, in pixels, of the pictures last trained on;
    it changes nothing here.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ["DiTAirBlock"]

    @register_to_config
    def __init__(
        self,
        *,
        num_layers: int,
        width: int,
        head_dim: int = 64,
        num_kv_heads: int | None = None,
        mlp: str = "gelu",
        in_channels: int,
        patch_size: int = 2,
        condition_width: int,
        rope_theta: float = 10000.0,
        rope_size: int | None = None,
        sample_size: int | None = None,
    ) -> None:
        super().__init__()
        if head_dim % 16 or width % head_dim:
            raise ValueError(
                "DiTAir needs a head_dim divisible by 16 (type, row and column share it 4:6:6) "
                f"and a width divisible by head_dim, got head_dim {head_dim} and width {width}."
            )
        if num_kv_heads is None:
            num_kv_heads = width // head_dim
        if num_kv_heads < 1 or width // head_dim % num_kv_heads:
            raise ValueError(
                f"num_kv_heads must divide the {width // head_dim} heads, got {num_kv_heads}."
            )
        self.in_channels, self.patch_size = in_channels, patch_size
        self.head_dim, self.rope_theta = head_dim, rope_theta
        self.rope_side = None if rope_size is None else rope_size / patch_size
        self.patch_embedder = nn.Linear(in_channels * patch_size**2, width)
        self.condition_embedder = ConditionEmbedder(condition_width, width)
        self.time_frequencies = Timesteps(
            256, flip_sin_to_cos=True, downscale_freq_shift=0, scale=1000
        )
        self.time_embedder = TimestepEmbedding(256, width)
        self.pool_embedder = nn.Linear(width, width)

        self.condition_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.image_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.blocks = nn.ModuleList(
            DiTAirBlock(width, head_dim, num_kv_heads, mlp) for _ in range(num_layers)
        )

        self.final_norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.final_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))
        self.final_linear = nn.Linear(width, in_channels * patch_size**2)
        self.gradient_checkpointing = False
        self.init_weights()

    def init_weights(self) -> None:
        """DiT's recipe: Xavier uniform, zero biases, time embedding and null token normal(0.02);
        zero for the modulation heads and the last layer, so that every block starts as the identity
        and the flow as zero.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.time_embedder.linear_1.weight, std=0.02)
        nn.init.normal_(self.time_embedder.linear_2.weight, std=0.02)
        nn.init.normal_(self.condition_embedder.null_token, std=0.02)
        heads = (self.condition_modulation, self.image_modulation, self.final_modulation)
        for linear in (*(head[1] for head in heads), self.final_linear):
            nn.init.zeros_(linear.weight)  # pyright: ignore

    def forward(
        self,
        noisy_latents: Tensor,
        timestep: Tensor,
        condition: Tensor,
        *,
        condition_grid: tuple[int, int],
        reference_latents: Tensor | None = None,
        condition_mask: Tensor | None = None,
        reference_mask: Tensor | None = None,
    ) -> Tensor:
        """The flow x0 - noise at time t, (B, C, h, w).

        noisy_latents: (B, C, h, w), h and w divisible by the patch size.
        timestep: (B,), t in [0, 1], 1 is data.
        condition: (B, N, condition_width), N = rows x columns of `condition_grid`, raster order.
        reference_latents: (B, C, h', w') of the image to edit, laid over the noisy grid; None for
            none.
        condition_mask: (B,) bool, False replaces the condition by the null token.
        reference_mask: (B,) bool, False hides the reference: the same as passing none for that
            sample.
        """
        self._check(noisy_latents, condition, condition_grid, reference_latents, reference_mask)
        tokens = self.condition_embedder(condition, condition_mask)  # (B, N, D)
        pooled = self.pool_embedder(tokens.mean(dim=1))  # (B, D)
        now = self._embed_time(timestep, pooled)  # (B, D)

        streams = [Stream(CONDITION, tokens, condition_grid, self.condition_modulation(now))]
        if reference_latents is not None:
            clean = self._embed_time(torch.ones_like(timestep), pooled)  # (B, D)
            streams.append(self._image_stream(REFERENCE, reference_latents, clean))
        streams.append(self._image_stream(NOISY, noisy_latents, now))

        x = torch.cat([stream.tokens for stream in streams], dim=1)  # (B, T, D)
        modulation = torch.cat([stream.token_modulation() for stream in streams], dim=2).unbind()
        grid = streams[-1].grid
        onto = scaled_grid(grid, self.rope_side)
        positions = torch.cat([grid_positions(s.kind, s.grid, onto, x.device) for s in streams])
        rope = rotary_embedding(positions, self.head_dim, self.rope_theta)  # 2 x (T, K)
        mask = None if reference_mask is None else visible_tokens(streams, reference_mask)

        for block in self.blocks:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = self._gradient_checkpointing_func(block, x, modulation, rope, mask)  # pyright: ignore
            else:
                x = block(x, modulation, rope, mask)  # (B, T, D)

        shift, scale = self.final_modulation(now)[:, None].chunk(2, dim=-1)  # (B, 1, D)
        x = self.final_norm(x[:, -grid[0] * grid[1] :]) * (1 + scale) + shift  # (B, M, D)
        return unpatchify(self.final_linear(x), grid, self.patch_size)  # (B, C, h, w)

    def _embed_time(self, timestep: Tensor, pooled: Tensor) -> Tensor:
        """What drives every modulation: time (B,) and the pooled condition (B, D), summed."""
        return self.time_embedder(self.time_frequencies(timestep).to(pooled)) + pooled  # (B, D)

    def _image_stream(self, kind: int, latents: Tensor, embedding: Tensor) -> Stream:
        patch_size = self.patch_size
        grid = (latents.shape[2] // patch_size, latents.shape[3] // patch_size)
        patches = patchify(latents.to(self.patch_embedder.weight.dtype), patch_size)
        tokens = self.patch_embedder(patches)  # (B, R or M, D)
        return Stream(kind, tokens, grid, self.image_modulation(embedding))

    def _check(
        self,
        noisy_latents: Tensor,
        condition: Tensor,
        condition_grid: tuple[int, int],
        reference_latents: Tensor | None,
        reference_mask: Tensor | None,
    ) -> None:
        for latents in (noisy_latents, reference_latents):
            if latents is None:
                continue
            if latents.shape[1] != self.in_channels:
                raise ValueError(
                    f"This DiTAir takes latents of {self.in_channels} channels, got "
                    f"{latents.shape[1]}: train it with the VAE that it is used with."
                )
            if latents.shape[2] % self.patch_size or latents.shape[3] % self.patch_size:
                raise ValueError(
                    f"Latents of {tuple(latents.shape[2:])} do not divide into patches of "
                    f"{self.patch_size}: choose sides divisible by VAE factor x patch size."
                )
        if condition.shape[1] != condition_grid[0] * condition_grid[1]:
            raise ValueError(
                f"{condition.shape[1]} condition tokens do not fill a condition_grid of "
                f"{condition_grid}: pass the rows and columns of the tokenizer's grid."
            )
        if reference_mask is not None and reference_latents is None:
            raise ValueError("Got a reference_mask but no reference_latents: pass both or neither.")
