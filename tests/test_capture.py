"""Attention maps against the layers themselves, and that watching changes nothing."""

from typing import Any

import numpy as np
import pytest
import tiny_networks
import torch
from numpy.typing import NDArray
from scipy import ndimage
from tiny import refused
from tiny_networks import LAYERS
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from dtfn import capture, models
from dtfn.capture import attribute, diffusion_index
from dtfn.errors import InputError

DOUBLE = torch.float64
CHANNELS = 16
TOLERANCES = {torch.float32: 1e-5, DOUBLE: 1e-12, torch.bfloat16: 0.05}
CHOOSING = sorted(set(LAYERS) - {"placebo"})
HASHED = sorted(set(CHOOSING) - {"nla", "hspa"})
# L: 1, 6 < chunk; 8 = one chunk; 15 pads one, 16 = two chunks (both neighbours are the same);
# 35 pads five; 96.
SIZES = [(1, 1), (2, 3), (2, 4), (3, 5), (4, 4), (5, 7), (8, 12)]


def built(name: str, dtype: torch.dtype = DOUBLE) -> Any:
    """Build a layer whose scores differ enough, and whose deformable values are deformed."""
    torch.manual_seed(0)
    layer = LAYERS[name]()
    for key, weight in layer.named_parameters():
        if "match" in key and weight.ndim > 1:
            weight.data *= 3
        if "offset_conv" in key or "modulator_conv" in key:
            nn.init.normal_(weight, std=0.2)
    return layer.to(dtype).eval()


def picture(height: int, width: int, dtype: torch.dtype = DOUBLE, n: int = 1) -> Tensor:
    source = torch.Generator().manual_seed(1)
    return torch.randn(n, CHANNELS, height, width, dtype=DOUBLE, generator=source).to(dtype)


def everywhere(x: Tensor) -> list[tuple[int, int]]:
    return [(row, column) for row in range(x.shape[2]) for column in range(x.shape[3])]


@torch.no_grad()
def recorded(layer: nn.Module, x: Tensor) -> capture.Record:
    with capture.record(layer) as record:
        layer(x)
    return record


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", CHOOSING)
def test_map_times_values_is_added(name: str, size: Any, dtype: Any, monkeypatch: Any) -> None:
    tolerance = TOLERANCES[dtype]
    layer, x = built(name, dtype), picture(size[0], size[1], dtype)
    record = recorded(layer, x)
    maps = record.maps("", everywhere(x))
    with torch.no_grad():
        added, values = layer.attend(x)[0], layer.conv_assembly(x)[0]
    means = record.means("", values.flatten(1).T.to(maps).numpy())
    np.testing.assert_allclose(means, added.flatten(1).T.to(maps), rtol=0, atol=tolerance)
    if dtype == DOUBLE:
        monkeypatch.setattr(capture, "BLOCK", 1)  # one query at a time
        torch.testing.assert_close(record.maps("", everywhere(x)), maps, rtol=0, atol=1e-13)
    assert maps.shape == (x.shape[2] * x.shape[3], *size)
    assert maps.dtype == (torch.float32 if dtype == torch.bfloat16 else dtype)
    assert (maps >= 0).all()
    torch.testing.assert_close(maps.sum((1, 2)), torch.ones_like(maps[:, 0, 0]), rtol=0, atol=1e-5)
    found = torch.einsum("qhw,chw->cq", maps, values.to(maps)).view_as(added)
    torch.testing.assert_close(found, added.to(maps), rtol=0, atol=tolerance)
    if size == (8, 12):  # no trivial case: it is peaked somewhere, and not at one place only
        assert maps.max() > 3 / 96
        assert ((maps > 0.01).sum((1, 2)) > 1).any()
        assert name != "hspa" or (maps == 0).any(), "exact zeros"


@pytest.mark.gpu
@pytest.mark.parametrize("name", CHOOSING)
def test_a_gpu_has_the_same_maps(name: str) -> None:
    x, details = picture(8, 12), np.random.default_rng(0).normal(size=(96, 4))
    here, there = recorded(built(name), x), recorded(built(name).cuda(), x.cuda())
    maps = there.maps("", everywhere(x))
    assert maps.is_cuda
    torch.testing.assert_close(maps.cpu(), here.maps("", everywhere(x)), rtol=0, atol=1e-12)
    np.testing.assert_allclose(there.means("", details), here.means("", details), atol=1e-12)


class Largest(TorchDispatchMode):
    """Notes the largest tensor that is made."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            # An expanded tensor takes no memory of its own.
            if isinstance(tensor, Tensor) and 0 not in tensor.stride():
                self.numel = max(self.numel, tensor.numel())
        return out


@pytest.mark.parametrize("name", CHOOSING)
def test_memory_is_that_of_the_queries(name: str) -> None:
    """Rows that were asked for and the layer's own features and hash codes, never L x L."""
    record, length = recorded(built(name, torch.float32), picture(96, 96, torch.float32)), 96 * 96
    with Largest() as seen:
        record.maps("", [(0, 0), (50, 3), (95, 95)])
    assert 3 * length <= seen.numel < length**2 / 20


NETWORKS = ["nln", "hspan", "nlsn", "dlsn", "dtfn", "nln+tfs"]


def rgb(height: int = 9, width: int = 11, n: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(2)).to(dtype)


@pytest.mark.parametrize("name", NETWORKS)
def test_record_keeps_what_layers_got_changes_no_bit_and_leaves_nothing(name: str) -> None:
    watched, x = tiny_networks.small(name), rgb()
    got: list[Tensor] = []
    for layer in capture.layers(watched):
        module = watched.get_submodule(layer)
        module.register_forward_pre_hook(lambda _, args: got.append(args[0].clone()))
    attributes = [set(module.__dict__) for module in watched.modules()]
    with torch.inference_mode():
        before = watched(x)
        with capture.record(watched) as record:
            during = watched(x)
        with pytest.raises(InputError, match="network input"), capture.record(watched):
            watched(torch.zeros(3))
        after = watched(x)
    assert torch.equal(during, before)
    assert torch.equal(after, before)
    assert [set(module.__dict__) for module in watched.modules()] == attributes
    assert record.layers == list(record.features) == capture.layers(watched)
    assert len(record.layers) == 2
    assert all(torch.equal(*two) for two in zip(record.features.values(), got[:2], strict=True))
    for layer, features in record.features.items():
        expected = capture.attention_map(watched.get_submodule(layer), features, (8, 10))
        torch.testing.assert_close(record.map(layer, (8, 10)), expected)


@pytest.mark.parametrize("seed", [0, None])
@pytest.mark.parametrize("name", HASHED)
def test_record_of_a_training_pass(name: str, seed: int | None) -> None:
    """The maps are those of the pass that was recorded, whatever ran and was drawn since then."""
    layer, x = built(name).train(), picture(8, 12)
    layer.hash_seed = seed
    with torch.no_grad(), capture.record(layer) as record:
        layer(x)
        added = layer.attend(x)[0]
    layer(x)
    state, draws = torch.get_rng_state(), layer.draws
    maps = record.maps("", everywhere(x))
    means = record.means("", layer.conv_assembly(x)[0].flatten(1).T.detach().numpy())
    np.testing.assert_allclose(means, added.flatten(1).T, rtol=0, atol=1e-12)
    found = torch.einsum("qhw,chw->cq", maps, layer.conv_assembly(x)[0]).view_as(added)
    torch.testing.assert_close(found, added, rtol=0, atol=1e-12)
    assert torch.equal(torch.get_rng_state(), state)
    assert layer.draws == draws


def test_of_a_batch_the_first_picture_counts_and_of_several_passes_the_last() -> None:
    watched, x = tiny_networks.small("dtfn").double(), rgb(12, 12, n=3, dtype=DOUBLE)
    with torch.no_grad(), capture.record(watched) as record:
        watched(rgb(5, 5, dtype=DOUBLE))
        first = record.map(record.layers[0], (0, 0))
        watched(x)
    alone = recorded(watched, x[:1])
    assert first.shape == (5, 5)
    for layer in record.layers:
        expected = alone.map(layer, (7, 5))
        torch.testing.assert_close(record.map(layer, (7, 5)), expected, rtol=0, atol=1e-12)


def test_layers_and_queries_that_do_not_exist() -> None:
    for module, name in ((nn.Conv2d(16, 16, 1), "Conv2d"), (tiny_networks.small("edsr"), "edsr")):
        refused(f"none in {name}", capture.attention_map, module, picture(5, 7), (0, 0))
    watched = tiny_networks.small("dtfn")
    with capture.record(watched) as record, torch.no_grad():
        refused("one with attention that ran", record.map, "body.0.body.2", (0, 0))
        watched(rgb())
    with pytest.raises(InputError, match=rf"did you mean '{record.layers[0]}'"):
        record.map(record.layers[0].replace("body", "bdy", 1), (0, 0))
    wrong: list[Any] = [[(5, 0)], [(0, 7)], [(-1, 0)], [(0, 0), (0, -1)], [], [(1.0, 2.0)]]
    for queries in (*wrong, [(1, 2, 3)], [1, 2]):
        with pytest.raises(InputError, match=r"query: expected .* of the LR grid of 7 x 5"):
            recorded(built("nla"), picture(5, 7)).maps("", queries)
    assert capture.layers(models.create("mini-dtfn", 2)) == [f"body.{i}.body.4" for i in range(4)]
    plain, around = (tiny_networks.small(name) for name in ("dlsn", "dlsn+tfs"))
    assert capture.layers(plain) == capture.layers(around)
    assert capture.layers(tiny_networks.small("edsr")) == []
    assert capture.layers(models.create("mini-placebo", 2)) == [], "it does not choose"
    assert capture.layers(built("nla")) == [""]


# --- local attribution: complete, exact on linear networks, its index by brute force ---
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


def drawn(network: nn.Module, image: NDArray[Any]) -> float:
    """Return how much detail a network draws in the window."""
    x = torch.from_numpy(image).permute(2, 0, 1)[None]
    with torch.no_grad():
        return float(capture.total_slope(network(x)[:, :, 8:14, 10:14]))


@pytest.mark.parametrize("steps", [1, 7])
def test_a_linear_network_is_exact(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "total_slope", Tensor.sum)
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
    network = mini("mini-dtfn")
    assert np.isfinite(attribute(network, LR, WINDOW, 8).map).all()
    assert all(weight.grad is None for weight in network.parameters())
    large = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    maps = {n: attribute(mini(n), large, (0, 0, 2, 2), 2) for n in ("mini-local", "mini-nla")}
    assert (maps["mini-local"].map[25:, 25:] == 0).all()
    assert (maps["mini-nla"].map[25:, 25:] != 0).all()
    assert maps["mini-local"].diffusion < maps["mini-nla"].diffusion


def test_slope_and_diffusion_index_by_hand() -> None:
    row = torch.arange(5.0)[:, None].expand(5, 4)
    patch = torch.stack([row, 2 * row, torch.zeros(5, 4)])[None]
    assert float(capture.total_slope(patch)) == pytest.approx(4 * 3 * (1 + 2))
    values = np.random.default_rng(0).normal(size=(6, 7)) ** 3
    for one in (values, np.eye(6, 7), np.full((6, 7), -3.0)):
        g = np.abs(one).ravel()
        gini = np.abs(g[:, None] - g).sum() / (2 * g.size**2 * g.mean())
        assert diffusion_index(one) == pytest.approx(100 * (1 - gini))
    assert diffusion_index(0 * values) == 100
