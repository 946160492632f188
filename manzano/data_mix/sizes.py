"""Shapes of pictures: the aspect ratios that are trained and drawn, and how many pixels each has.

Pictures of one ratio and one area make a bucket: they can share a batch, and none of them is
stretched or loses more than the little by which its own ratio differs.
"""

import math

Ratio = tuple[int, int]

RATIOS: tuple[Ratio, ...] = (
    (1, 4), (1, 3), (1, 2), (9, 16), (2, 3), (3, 4), (1, 1),
    (4, 3), (3, 2), (16, 9), (2, 1), (3, 1), (4, 1),
)  # fmt: skip
"""Height : width."""

SQUARE: Ratio = (1, 1)


def nearest_ratio(height: int, width: int) -> Ratio:
    """The ratio of `RATIOS` that is nearest to that of a picture, by factor."""
    shape = math.log(height / width)
    return min(RATIOS, key=lambda ratio: abs(math.log(ratio[0] / ratio[1]) - shape))


def bucket_size(ratio: Ratio, side: int, step: int) -> tuple[int, int]:
    """Height and width, multiples of `step`, of a picture of that ratio with the area side x side.

    Raises:
        ValueError: if `side` is no multiple of `step`, or less than one.
    """
    if side < step or side % step:
        below = side // step * step
        nearest = f"{below} or {below + step}" if below else f"{step}"
        raise ValueError(
            f"the side of pictures must be a multiple of {step} pixels, got {side}: take {nearest}"
        )
    stretch = math.sqrt(ratio[0] / ratio[1])
    exact = side * stretch, side / stretch
    height, width = (max(1, round(length / step)) * step for length in exact)
    return height, width
