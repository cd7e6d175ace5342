"""Local attribution: complete, exact on linear networks, and its index by brute force."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn

from dtfn import attribution, models
from dtfn.attribution import attribute, diffusion_index

LR = np.random.default_rng(0).integers(0, 256, (12, 14, 3), dtype=np.uint8)
WINDOW = (4, 5, 3, 2)
BLURRED = ndimage.gaussian_filter(LR / 255, 1.2, mode="mirror", radius=5, axes=(0, 1))


class Linear(nn.Module):
    """A linear network whose output pixel depends on the 5 x 5 LR pixels around it."""

    scale = 2

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 12, 5, padding=2).double()

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.pixel_shuffle(self.conv(x), 2)


def mini(name: str) -> models.Network:
    torch.manual_seed(0)
    network = models.create(name, 2, n_feats=16, n_resblocks=1, n_resgroups=2).double().eval()
    for key, weight in network.named_parameters():
        if key.startswith("tail"):  # else it draws nothing that is not bicubic
            nn.init.normal_(weight, std=0.05)
    return network


def as_tensor(image: NDArray[Any]) -> Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)[None]


def drawn(network: nn.Module, image: NDArray[Any]) -> float:
    """Return how much detail a network draws in the window."""
    with torch.no_grad():
        return float(attribution.total_slope(network(as_tensor(image))[:, :, 8:14, 10:14]))


@pytest.mark.parametrize("steps", [1, 7])
def test_a_linear_network_is_exact(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attribution, "total_slope", Tensor.sum)
    network = Linear()
    found = attribute(network, LR, WINDOW, steps).map
    expected = np.zeros((12, 14))
    for row, column in np.ndindex(12, 14):  # what each pixel's own difference does to the patch
        one = np.zeros(LR.shape)
        one[row, column] = (LR / 255 - BLURRED)[row, column]
        expected[row, column] = drawn(network, one) - drawn(network, np.zeros(LR.shape))
    np.testing.assert_allclose(found, expected, atol=1e-12)
    reach = np.zeros((12, 14), bool)
    reach[2:9, 3:9] = True
    assert ((found != 0) == reach).all()


@pytest.mark.parametrize("name", ["mini-local", "mini-nla"])
def test_a_network_is_complete_the_more_so_with_more_steps(name: str) -> None:
    network = mini(name)
    change = drawn(network, LR / 255) - drawn(network, BLURRED)
    few, many = (abs(attribute(network, LR, WINDOW, n).map.sum() - change) for n in (4, 64))
    assert change > 0.1, "the sharp picture has more detail than the blurred one"
    assert many < 1e-3 * drawn(network, LR / 255)
    assert many < few


def test_the_integrand_is_the_derivative_along_the_path() -> None:
    """One short piece of the path against finite differences of the detector itself."""
    network, step = mini("mini-nla"), 1e-6
    one = attribute(network, LR, WINDOW, 1).map
    halfway, way = (BLURRED + LR / 255) / 2, LR / 255 - BLURRED

    def slope(way: NDArray[Any]) -> float:
        ahead, behind = (drawn(network, halfway + sign * step * way) for sign in (1, -1))
        return (ahead - behind) / (2 * step)

    assert one.sum() == pytest.approx(slope(way), rel=1e-5)
    for row, column in [(4, 5), (6, 6), (0, 0)]:
        own = np.zeros_like(way)
        own[row, column] = way[row, column]
        assert one[row, column] == pytest.approx(slope(own), rel=1e-4, abs=1e-8)


def test_hashed_attention_is_attributed_and_the_network_left_as_it_was() -> None:
    network = mini("mini-dtfn").train()
    found = attribute(network, LR, WINDOW, 8)
    assert np.isfinite(found.map).all()
    assert network.training
    assert all(weight.grad is None for weight in network.parameters())


def test_attention_reaches_beyond_the_local_receptive_field() -> None:
    large = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    maps = {n: attribute(mini(n), large, (0, 0, 2, 2), 2) for n in ("mini-local", "mini-nla")}
    assert (maps["mini-local"].map[25:, 25:] == 0).all()
    assert (maps["mini-nla"].map[25:, 25:] != 0).all()
    assert maps["mini-local"].diffusion < maps["mini-nla"].diffusion


def test_slope_of_a_ramp() -> None:
    row = torch.arange(5.0)[:, None].expand(5, 4)
    patch = torch.stack([row, 2 * row, torch.zeros(5, 4)])[None]
    assert float(attribution.total_slope(patch)) == pytest.approx(4 * 3 * (1 + 2))


def test_the_diffusion_index_by_brute_force() -> None:
    values = np.random.default_rng(0).normal(size=(6, 7)) ** 3
    for one in (values, np.eye(6, 7), np.full((6, 7), -3.0)):
        g = np.abs(one).ravel()
        gini = np.abs(g[:, None] - g).sum() / (2 * g.size**2 * g.mean())
        assert diffusion_index(one) == pytest.approx(100 * (1 - gini))
    assert diffusion_index(0 * values) == 100
