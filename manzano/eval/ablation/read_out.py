"""Colour and shape read off image ids, without drawing them: the same judge for any tokenizer.

A pixel decoder would have to be trained for every tokenizer, and its faults would count with those
of the ids. Here a small network learns to name the colour and the shape of a glyph from its true
ids; what it then says of ids that a language model has written tells whether they are right. It
knows every glyph, those too that are held out from the language model. How often it is right about
true ids of held-out glyphs, in places that it has not seen, bounds what can be measured.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from manzano.data_mix.schema import read_samples
from manzano.data_mix.sources import glyphs
from manzano.data_mix.transforms import pixel_transform
from manzano.eval import glyph_judge
from manzano.eval.ablation.speaker import Speaker
from manzano.eval.batches import batches
from manzano.tokenizer.hybrid import HybridTokenizer

COLOURS = [*glyphs.COLOURS, *glyphs.MORE_COLOURS]
SHAPES = list(glyphs.SHAPES)
HIDDEN, STEPS, BATCH = 256, 600, 256
PLACES = list(product(range(-2, 3), range(-2, 3)))
"""Pixels by which the corpus moves a glyph from the centre, down and to the right."""
UNSEEN = [(dx, dy) for dx, dy in PLACES if (dx + 2 * dy) % 5 == 0]
"""Places that the read-out is not trained on: one in every row and column."""


CHANCE = {
    "colour": glyph_judge.CHANCE["colour"],
    "shape": glyph_judge.CHANCE["shape"],
    "both": glyph_judge.CHANCE["colour"] * glyph_judge.CHANCE["shape"],
}
ROUNDS = 4
"""Pictures drawn of each held-out prompt."""


@dataclass(frozen=True)
class Right:
    """Shares of pictures whose ids say the right thing."""

    colour: float
    shape: float
    both: float


class ReadOut(nn.Module):
    """Ids (B, N) -> logits of colours (B, 16) and of shapes (B, 12).

    It sees the digits of the ids: of ids by the thousand each has too few examples.
    """

    def __init__(self, vision: HybridTokenizer):
        super().__init__()
        self.fsq = vision.discrete_adapter.fsq
        digits = vision.num_tokens * len(vision.config.levels)
        self.layers = nn.Sequential(
            nn.Linear(digits, HIDDEN), nn.GELU(), nn.Dropout(0.3),
            nn.Linear(HIDDEN, len(COLOURS) + len(SHAPES)),
        )  # fmt: skip

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        codes = rearrange(self.fsq.ids_to_codes(ids), "b n l -> b (n l)")
        colours, shapes = self.layers(codes).split([len(COLOURS), len(SHAPES)], dim=-1)
        return colours, shapes

    @torch.no_grad()
    def right(self, ids: Tensor, wanted: Tensor) -> Right:
        """How often ids (B, N) say the colours and shapes of `wanted` (B, 2)."""
        said = torch.stack([logits.argmax(-1) for logits in self(ids)], dim=1)
        hits = (said == wanted).float()
        colour, shape = hits.mean(0).tolist()
        return Right(colour, shape, hits.prod(1).mean().item())


@torch.no_grad()
def true_ids(
    vision: HybridTokenizer, split: str, places: Sequence[tuple[int, int]]
) -> tuple[Tensor, Tensor]:
    """Every glyph of a split in each of the places: ids (B, N), colours and shapes (B, 2)."""
    side = vision.config.image_size
    transform, device = pixel_transform(side), next(vision.parameters()).device
    ids, pairs = [], []
    for colour, shape, size in glyphs.shown(split):
        pictures = [
            glyphs.render(shape, colour, size, dx=dx, dy=dy, image_size=side) for dx, dy in places
        ]
        pixels = torch.stack([transform(picture) for picture in pictures]).to(device)
        ids.append(vision.discrete(pixels).cpu())
        pairs += [(colour, shape)] * len(places)
    return torch.cat(ids), numbers(pairs)


def numbers(pairs: Sequence[tuple[str, str]]) -> Tensor:
    """(colour, shape) in words -> their numbers (B, 2) int64."""
    return torch.tensor([(COLOURS.index(colour), SHAPES.index(shape)) for colour, shape in pairs])


def train_read_out(vision: HybridTokenizer, *, seed: int) -> tuple[ReadOut, Right]:
    """A read-out for the ids of a tokenizer, which is on the CPU; and its ceiling."""
    seen = [place for place in PLACES if place not in UNSEEN]
    parts = [true_ids(vision, split, seen) for split in ("train", "test")]
    ids, wanted = (torch.cat(part) for part in zip(*parts, strict=True))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        read_out = ReadOut(vision)
        optimizer = torch.optim.AdamW(read_out.layers.parameters(), lr=3e-3, weight_decay=0.1)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
        for _ in range(STEPS):
            some = torch.randint(len(ids), (BATCH,))
            colours, shapes = read_out(ids[some])
            loss = F.cross_entropy(colours, wanted[some, 0])
            loss = loss + F.cross_entropy(shapes, wanted[some, 1])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    read_out.eval()
    return read_out, read_out.right(*true_ids(vision, "test", UNSEEN))


def drawn(speaker: Speaker, data: Path, *, seed: int) -> tuple[Right, Right, int]:
    """What ids say that were written for every held-out prompt, ROUNDS times; what the true ids
    say; the number of pictures drawn."""
    samples = list(read_samples(data / "drawing", "test")) * ROUNDS
    written: list[Tensor] = []
    for batch in batches(samples, "drawing"):
        prompts = [sample.turns[0].text for sample in batch]
        written.append(speaker.image_ids(prompts, seed=seed + sum(map(len, written))))
    read_out, ceiling = train_read_out(speaker.model.vision.cpu(), seed=seed)
    pairs = [(sample.extra["colour"], sample.extra["shape"]) for sample in samples]
    return read_out.right(torch.cat(written), numbers(pairs)), ceiling, len(samples)
