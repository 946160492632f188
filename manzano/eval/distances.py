"""FID, KID and LPIPS through torchmetrics, with weights given by path: nothing is downloaded.

FID and KID compare two sets of pictures by the features of a network, LPIPS compares pairs. The
published figures are those of one file each, so there is no default and no substitute: without it
there is an error that names it. Any other network gives distances of the same formula that can be
compared with each other only.
"""

import pickle
import re
from collections.abc import Sequence
from importlib import import_module
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import models
from torchvision.transforms.v2.functional import pil_to_tensor

from manzano.eval.batches import batches
from manzano.eval.pixels import pixels

INCEPTION = "weights-inception-2015-12-05-6726825d.pth"
"""The file of torch-fidelity's releases: Inception of FID's authors, in torch."""
BACKBONES = {
    "alex": models.AlexNet_Weights.DEFAULT.url,
    "vgg": models.VGG16_Weights.DEFAULT.url,
    "squeeze": models.SqueezeNet1_1_Weights.DEFAULT.url,
}
"""torchvision's files with the networks that LPIPS is defined on; its own layers torchmetrics has.
Papers report "alex" unless they say otherwise."""
_MIN_SIDE = 32
"""Smaller pictures vanish in the strides of LPIPS' networks."""


def inception_network(weights: Path | None) -> nn.Module:
    """The network of FID and KID: (B, 3, H, W) uint8 to the 2048 features of its last pooling.

    Raises:
        ValueError: There is no such file, it holds something else, or torchmetrics or
            torch-fidelity, whose code it is, is not installed.
    """
    path = _given(weights, "FID and KID", f"{INCEPTION} of github.com/toshas/torch-fidelity")
    _tensors(path)  # torch-fidelity would run whatever code the file holds
    metric = _torchmetrics("image.fid").FrechetInceptionDistance
    try:
        return metric(feature_extractor_weights_path=str(path)).inception
    except ImportError as error:
        raise _not_installed(error) from error
    except RuntimeError as error:
        raise ValueError(f"'{path}' does not hold the weights of {INCEPTION}: {error}") from error


def picture_features(pictures: Sequence[Image.Image], network: nn.Module) -> Tensor:
    """What a network sees in each picture: (N, F), float64, on the CPU.

    Args:
        pictures: Of any sizes; the network scales them. Only neighbours of one size share a batch.
        network: From (B, 3, H, W) uint8 to (B, F), on any device, as `inception_network`.
    """
    network = network.eval()
    device = next((tensor.device for tensor in network.parameters()), torch.device("cpu"))
    features = []
    with torch.no_grad():
        for _, same in groupby(pictures, key=lambda picture: picture.size):
            for batch in batches(list(same), "features"):
                rgb = torch.stack([pil_to_tensor(picture.convert("RGB")) for picture in batch])
                features.append(network(rgb.to(device)).double().cpu())  # (B, F)
    return torch.cat(features)


def fid(features: Tensor, references: Tensor) -> float:
    """Fréchet distance of the normal distributions fitted to two sets of features; 0 is equal.

    It is biased towards large values in small sets (arXiv 1801.01401): compare equal numbers only,
    and with Inception's features 10,000 pictures or more.

    Args:
        features: (N, F) from `picture_features`.
        references: (M, F), those of true pictures.

    Raises:
        ValueError: A set has fewer than two pictures, or the numbers of features differ.
    """
    metric = _torchmetrics("image.fid").FrechetInceptionDistance
    return float(_compared(metric, features, references).compute())


def kid(
    features: Tensor, references: Tensor, *, subset_size: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Kernel distance (arXiv 1801.01401): the mean and the standard deviation over 100 subsets.

    The squared maximum mean discrepancy with the kernel (x . y / F + 1)^3. Its estimate is
    unbiased, so small sets may be compared, and equal distributions give values around 0.

    Args:
        features: (N, F) from `picture_features`.
        references: (M, F), those of true pictures.
        subset_size: Pictures in a subset, at most those of the smaller set.
        seed: Of the subsets.

    Raises:
        ValueError: As `fid`.
    """
    size = min(subset_size, len(features), len(references))
    metric = _torchmetrics("image.kid").KernelInceptionDistance
    compared = _compared(metric, features, references, subset_size=size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        mean, deviation = compared.compute()
    return float(mean), float(deviation)


def lpips_network(weights: Path | None, backbone: str = "alex") -> nn.Module:
    """The network of LPIPS (arXiv 1801.03924), its backbone read from torchvision's file.

    Raises:
        ValueError: There is no such backbone or file, the file holds something else, or
            torchmetrics is not installed.
    """
    if backbone not in BACKBONES:
        raise ValueError(f"LPIPS' backbone must be one of {list(BACKBONES)}, got {backbone!r}.")
    path = _given(weights, f"LPIPS with {backbone!r}", BACKBONES[backbone])
    # The metric would download its backbone; the network inside it can do without.
    network = _torchmetrics("functional.image.lpips")._LPIPS(net=backbone, pnet_rand=True)
    known = _tensors(path)
    names = {own: re.sub(r"^slices?\.?\d+", "features", own) for own in network.net.state_dict()}
    try:
        network.net.load_state_dict({own: known[name] for own, name in names.items()})
    except (KeyError, RuntimeError) as error:
        wanted = Path(BACKBONES[backbone]).name
        raise ValueError(f"'{path}' does not hold the weights of {wanted}: {error}") from error
    return network.eval()


def lpips(
    pictures: Sequence[Image.Image], references: Sequence[Image.Image], network: nn.Module
) -> list[float]:
    """The perceptual distance of each picture from its reference; 0 is equal.

    Args:
        pictures: At least 32 pixels a side.
        references: One for each picture, of its size.
        network: From `lpips_network`, on any device.

    Raises:
        ValueError: The numbers or the sizes of the pictures differ, or they are too small.
    """
    if len(pictures) != len(references):
        raise ValueError(
            f"LPIPS compares pairs, got {len(pictures)} pictures and {len(references)} references."
        )
    device = next(tensor.device for tensor in network.parameters())
    distances = []
    for picture, reference in zip(pictures, references, strict=True):
        if min(picture.size) < _MIN_SIDE:
            raise ValueError(f"LPIPS needs {_MIN_SIDE} pixels a side, got {picture.size}.")
        one, other = pixels([picture, reference]).to(device).split(1)
        with torch.no_grad():
            distances.append(float(network(one, other, normalize=True)))
    return distances


class _Given(nn.Identity):
    """For torchmetrics, which asks for a network: the features are there already."""

    def __init__(self, num_features: int):
        super().__init__()
        self.num_features = num_features


def _compared(metric: Any, features: Tensor, references: Tensor, **settings: Any) -> Any:
    shapes = tuple(features.shape), tuple(references.shape)
    if min(len(features), len(references)) < 2 or shapes[0][1:] != shapes[1][1:]:
        raise ValueError(
            f"Sets of at least two pictures with equally many features are compared, got "
            f"{shapes[0]} and {shapes[1]}."
        )
    distance = metric(feature=_Given(shapes[0][1]), **settings)
    distance.update(references.double(), real=True)
    distance.update(features.double(), real=False)
    return distance


def _given(weights: Path | None, what: str, file: str) -> Path:
    if weights is None or not weights.is_file():
        found = "no path was given" if weights is None else f"there is no file '{weights}'"
        raise ValueError(
            f"{what} need weights, and {found}. Nothing is downloaded: get {file} and give its "
            "path."
        )
    return weights


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise ValueError(f"'{path}' is no file of torch weights: {error}") from error


def _torchmetrics(module: str) -> Any:
    try:
        return import_module(f"torchmetrics.{module}")
    except ImportError as error:
        raise _not_installed(error) from error


def _not_installed(error: ImportError) -> ValueError:
    return ValueError(
        f"distances between pictures need packages that are not installed ({error}): "
        "pip install manzano[judges]"
    )
