"""FID, KID and LPIPS equal the formulas of their papers, written out here in float64."""

import json
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchmetrics
from PIL import Image
from scipy.linalg import sqrtm
from torch import nn
from torchvision import models

from manzano.eval.distances import (
    fid,
    inception_network,
    kid,
    lpips,
    lpips_network,
    picture_features,
)
from manzano.eval.pixels import pixels

NUM_FEATURES = 6


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    def refuse(*_):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


class RandomFeatures(nn.Module):
    """A small fixed network from uint8 pictures of any size."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.conv = nn.Conv2d(3, NUM_FEATURES, kernel_size=5, stride=3)
        self.dropout = nn.Dropout()

    def forward(self, pictures):
        assert pictures.dtype == torch.uint8
        features = self.conv(pictures.float() / 255).relu().mean(dim=(2, 3))  # (B, F)
        return self.dropout(features)


def noise(count: int, *, seed: int, low: int = 0, side: int = 32) -> list[Image.Image]:
    rng = np.random.default_rng(seed)
    arrays = rng.integers(low, 256, (count, side, side, 3), dtype=np.uint8)
    return [Image.fromarray(array) for array in arrays]


@pytest.fixture(scope="module")
def sets() -> tuple[torch.Tensor, torch.Tensor]:
    network = RandomFeatures()
    return (
        picture_features(noise(90, seed=1), network),
        picture_features(noise(70, seed=2, low=40), network),
    )


def test_features_are_those_of_each_picture_whatever_the_sizes():
    pictures = [*noise(3, seed=0), *noise(2, seed=1, side=20), *noise(70, seed=2)]
    network = RandomFeatures()
    together = picture_features(pictures, network)
    alone = torch.cat([picture_features([picture], network) for picture in pictures])
    assert (together.shape, together.dtype) == ((75, NUM_FEATURES), torch.float64)
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


def test_fid_of_a_set_with_itself_is_zero(sets):
    assert fid(sets[0], sets[0]) == pytest.approx(0, abs=1e-8)


def test_fid_equals_the_formula(sets):
    a, b = (features.numpy() for features in sets)
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    means = ((a.mean(axis=0) - b.mean(axis=0)) ** 2).sum()
    expected = means + np.trace(cov_a + cov_b - 2 * np.real(sqrtm(cov_a @ cov_b)))
    assert fid(*sets) == pytest.approx(expected, rel=1e-8)
    assert fid(*sets) > 1e-4


def direct_kid(a: np.ndarray, b: np.ndarray) -> float:
    def kernel(x, y):
        return (x @ y.T / x.shape[1] + 1) ** 3

    n = len(a)
    within = sum((kernel(x, x).sum() - np.trace(kernel(x, x))) / (n * (n - 1)) for x in (a, b))
    return within - 2 * kernel(a, b).mean()


def test_kid_equals_the_unbiased_formula(sets):
    a, b = (features[:60] for features in sets)
    mean, deviation = kid(a, b)
    assert mean == pytest.approx(direct_kid(a.numpy(), b.numpy()), rel=1e-9)
    assert deviation == pytest.approx(0, abs=1e-12)


def test_kid_of_equal_distributions_lies_around_zero():
    network = RandomFeatures()
    values = [
        kid(*(picture_features(noise(40, seed=2 * i + j), network) for j in range(2)))[0]
        for i in range(10)
    ]
    assert min(values) < 0 < max(values)


def test_kid_over_subsets_repeats_for_a_seed_and_leaves_the_generator_alone(sets):
    state = torch.get_rng_state()
    first, second = kid(*sets, subset_size=20), kid(*sets, subset_size=20)
    assert first == second != kid(*sets, subset_size=20, seed=1)
    assert first[1] > 0
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("distance", [fid, kid])
def test_sets_that_cannot_be_compared_are_refused(distance, sets):
    with pytest.raises(ValueError, match=r"at least two.*\(1, 6\) and \(70, 6\)"):
        distance(sets[0][:1], sets[1])
    with pytest.raises(ValueError, match=r"equally many features.*\(90, 5\) and \(70, 6\)"):
        distance(sets[0][:, :5], sets[1])


MAKE = {"alex": models.alexnet, "squeeze": models.squeezenet1_1}


def save_backbone(name: str, folder: Path) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        path = folder / f"{name}.pth"
        torch.save(MAKE[name](weights=None).state_dict(), path)
    return path


ENDS = {"alex": [2, 5, 8, 10, 12], "squeeze": [2, 5, 8, 10, 11, 12, 13]}
"""After which of the backbone's layers LPIPS compares."""


@torch.no_grad()
def direct_lpips(one: Image.Image, other: Image.Image, backbone: nn.Module, name: str) -> float:
    """Weighted squared differences of unit-length features, averaged over places, summed over
    layers, in float64."""
    heads = Path(torchmetrics.__file__).parent / "functional/image/lpips_models" / f"{name}.pth"
    weights = torch.load(heads, map_location="cpu", weights_only=True)
    shift = torch.tensor([-0.030, -0.088, -0.188]).double()[:, None, None]
    scale = torch.tensor([0.458, 0.448, 0.450]).double()[:, None, None]
    x = (2 * pixels([one, other]).double() - 1 - shift) / scale  # (2, 3, H, W)
    total, start = 0.0, 0
    for layer, end in enumerate(ENDS[name]):
        x, start = backbone[start:end](x), end
        unit = x / (x.square().sum(dim=1, keepdim=True) + 1e-8).sqrt()
        weight = weights[f"lin{layer}.model.1.weight"].double()  # (1, C, 1, 1)
        total += ((unit[:1] - unit[1:]).square() * weight).sum(dim=1).mean()
    return float(total)


@pytest.mark.parametrize("name", ENDS)
def test_lpips_equals_the_formula_and_is_zero_for_equal_pictures(name, tmp_path):
    path = save_backbone(name, tmp_path)
    one, other = noise(1, seed=0, side=48) + noise(1, seed=1, low=120, side=48)
    network = lpips_network(path, name)
    found = lpips([one, one], [other, one], network)
    whole = MAKE[name](weights=None)
    whole.load_state_dict(torch.load(path, weights_only=True))
    for module in whole.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    features = whole.double().eval().features
    assert found[0] == pytest.approx(direct_lpips(one, other, features, name), rel=1e-4)
    assert found[0] > 1e-5
    assert found[1] == 0


def test_lpips_refuses_what_it_cannot_compare(tmp_path):
    network = lpips_network(save_backbone("squeeze", tmp_path), "squeeze")
    with pytest.raises(ValueError, match="got 2 pictures and 1 references"):
        lpips(noise(2, seed=0), noise(1, seed=0), network)
    with pytest.raises(ValueError, match=r"32 pixels a side, got \(16, 16\)"):
        lpips(noise(1, seed=0, side=16), noise(1, seed=1, side=16), network)
    with pytest.raises(ValueError, match="must have one size"):
        lpips(noise(1, seed=0, side=40), noise(1, seed=1, side=48), network)


def test_missing_weights_are_named(tmp_path):
    with pytest.raises(ValueError, match="weights-inception-2015-12-05-6726825d.pth"):
        inception_network(None)
    with pytest.raises(ValueError, match=r"no file '.*none.pth'.*alexnet-owt-7be5be79.pth"):
        lpips_network(tmp_path / "none.pth")
    with pytest.raises(ValueError, match=r"one of \['alex', 'vgg', 'squeeze'\], got 'resnet'"):
        lpips_network(None, "resnet")


@pytest.mark.parametrize("load", [inception_network, lpips_network])
def test_a_file_that_holds_no_weights_is_refused(load, tmp_path):
    path = tmp_path / "text.pth"
    path.write_text(json.dumps({"weights": "none"}))
    with pytest.raises(ValueError, match="no file of torch weights"):
        load(path)


def test_a_file_with_other_weights_is_refused(tmp_path):
    with pytest.raises(ValueError, match="does not hold the weights of alexnet"):
        lpips_network(save_backbone("squeeze", tmp_path), "alex")


def test_packages_that_are_not_installed_are_named_with_their_extra(sets, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchmetrics.image.kid", None)
    with pytest.raises(ValueError, match=r"pip install manzano\[judges\]"):
        kid(*sets)


def test_inception_takes_the_official_file_by_its_path(tmp_path):
    torch_fidelity = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")

    class Untrained(torch_fidelity.FeatureExtractorInceptionV3):
        """Torch-fidelity's network, which cannot be had without weights otherwise."""

        def load_state_dict(self, *_):
            pass

    torch.save({}, tmp_path / "empty.pth")
    with pytest.raises(ValueError, match="does not hold the weights of weights-inception"):
        inception_network(tmp_path / "empty.pth")
    path = tmp_path / "inception.pth"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = Untrained("inception-v3-compat", ["2048"], str(tmp_path / "empty.pth"))
    torch.save(made.state_dict(), path)
    features = picture_features(noise(2, seed=0), inception_network(path))
    assert features.shape == (2, 2048)
    assert features.isfinite().all()
