"""The networks as a whole, and layers in both ways in which they run."""

import copy
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import tiny_networks
import torch
from tiny import refused
from torch import Tensor, nn

from dtfn import images
from dtfn.models import Network, attention, create, deform, layers, networks

SIZES: dict[str, Any] = {"n_feats": 16, "n_resblocks": 1, "n_resgroups": 2, "res_scale": 1.0}
SIZES |= tiny_networks.HASHED
NAMES = networks.known_names()

# Millions of parameters: published by the authors, and counted on the authors' code.
PUBLISHED = {
    "dtfn": {2: 77.37, 3: 80.32, 4: 79.73},
    "dlsn": {2: 69.84, 3: 72.79, 4: 72.20},
    "hspan": {2: 32.29, 3: 33.95, 4: 33.62},
    "nlsn": {2: 41.80},
    "edsr": {2: 40.73, 3: 43.68, 4: 43.09},
    "edsr baseline": {2: 1.37, 3: 1.55, 4: 1.52},
}


def small(name: str, scale: int = 2, hash_seed: int | None = 0) -> Network:
    """Return a small network whose every part matters to the output."""
    torch.manual_seed(3)
    with torch.device("meta"):
        known = create(name, scale).hyperparameters
    network = create(name, scale, hash_seed, **{key: SIZES[key] for key in SIZES if key in known})
    for key, parameter in network.named_parameters():
        if not parameter.any():  # offsets and the tail start at zero
            nn.init.normal_(parameter, std=0.1 if "conv" in key else 0.02)
    return network.eval()


def image(*size: int, seed: int = 0) -> Tensor:
    return torch.rand(*size, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("name", PUBLISHED)
def test_number_of_parameters(name: str) -> None:
    baseline = {"n_feats": 64, "n_resblocks": 16} if name == "edsr baseline" else {}
    for scale, expected in PUBLISHED[name].items():
        with torch.device("meta"):
            network = create(name.removesuffix(" baseline"), scale, **baseline)
        assert round(sum(p.numel() for p in network.parameters()) / 1e6, 2) == expected


# L = 1, 7, 15 (fewer than a chunk of 16), 16, 28 (between one and two), 35, 40
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 3), (4, 4), (2, 14), (5, 7), (1, 40)])
@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_any_size_and_batch(name: str, size: tuple[int, int]) -> None:
    network = small(name, 3).double()
    x = image(3, 3, *size).double()
    together = network(x)
    assert together.shape == (3, 3, 3 * size[0], 3 * size[1])
    assert together.isfinite().all()
    alone = torch.cat([network(one[None]) for one in x])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-11)


@pytest.mark.parametrize("scale", [2, 3, 4])
@torch.no_grad()
def test_a_mini_network_learns_what_bicubic_misses(scale: int) -> None:
    # No black and white: MATLAB clips in between, and so do we.
    lr = np.random.default_rng(0).integers(80, 176, (9, 11, 3), dtype=np.uint8)
    network = create("mini-dtfn", scale).eval()
    for parameter in network.tail.parameters():
        nn.init.zeros_(parameter)
    sr = network(torch.from_numpy(lr).permute(2, 0, 1)[None] / 255)
    found = (sr[0].permute(1, 2, 0) * 255).numpy()
    difference = np.abs(found - images.imresize(lr, scale))
    border = 2 * scale  # where torch renormalises and MATLAB reflects
    assert difference.max() < 4
    assert difference[border:-border, border:-border].max() < 1.5  # rounded twice


@pytest.mark.parametrize("name", NAMES)
def test_switch(name: str) -> None:
    network, x = small(name).double(), image(3, 3, 9, 9).double()
    switch = torch.tensor([True, False, True])
    with_attention = network(x)
    with network.attention(False):
        without = network(x)
        with network.attention(switch):
            mixed = network(x)
        assert torch.equal(network(x), without)
    assert torch.equal(network(x), with_attention)

    matters = any(isinstance(layer, layers.Switchable) for layer in network.modules())
    assert matters != torch.equal(without, with_attention)
    expected = torch.where(switch.view(-1, 1, 1, 1), with_attention, without)
    torch.testing.assert_close(mixed, expected, rtol=0, atol=1e-11)
    parameters = list(network.parameters())
    grads = [torch.autograd.grad(y.square().sum(), parameters) for y in (mixed, expected)]
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", ["nln", "nlsn", "dlsn", "hspan", "dtfn", "nlsn+tfs"])
@torch.no_grad()
def test_result_depends_on_weights_image_and_seed_alone(name: str) -> None:
    network, x = small(name), image(1, 3, 9, 9)
    first = network(x)
    network(image(2, 3, 11, 6, seed=1))
    torch.manual_seed(99)
    assert torch.equal(network(x), first)
    assert torch.equal(small(name)(x), first)
    assert torch.equal(small(name, hash_seed=1)(x), first) == (name in ("nln", "hspan"))
    last = x.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(network(last), first, rtol=0, atol=1e-5)


@torch.no_grad()
def test_training_draws_anew_and_evaluation_does_not() -> None:
    network, x = small("dtfn"), image(1, 3, 9, 9)
    rested = network(x)
    steps = [network.train()(x) for _ in range(3)]
    assert len({step.sum().item() for step in steps}) == 3
    assert torch.equal(network.eval()(x), rested)
    again = small("dtfn").train()
    assert all(torch.equal(again(x), step) for step in steps)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("deterministic")
def test_every_parameter_learns_deterministically(name: str) -> None:
    gradients = []
    for _ in range(2):
        network = small(name).train()
        network(image(2, 3, 6, 6)).square().mean().backward()
        learnt = {key: p.grad for key, p in network.named_parameters()}
        assert all(g is not None and g.isfinite().all() for g in learnt.values())
        gradients.append([g for g in learnt.values() if g is not None])
        silent = [key for key, g in learnt.items() if g is not None and not g.any()]
        assert [key for key in silent if "conv_du" not in key] == []  # its two ReLUs may be off
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NAMES)
def test_half_precision(name: str, dtype: torch.dtype) -> None:
    network, x = small(name), image(1, 3, 8, 8)
    with torch.no_grad():
        expected = network(x)
    with torch.autocast("cpu", dtype):
        output = network(x)
        loss = (output - x.mean()).abs().mean()
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    assert (output.float() - expected).abs().mean().item() < 0.1 * expected.std().item()


def test_arguments_that_make_no_network_and_images_that_none_takes() -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"name": "dtnf"}, r"'dtnf'; did you mean 'dtfn'\?"),
        ({"name": "edsr+tfs"}, "edsr"),  # no attention that TFS could limit
        ({"name": "dtfn+tfs"}, "dtfn"),  # it is inside already
        ({"scale": 8}, "scale: expected 2, 3 or 4; found 8"),
        ({"scale": "2"}, "scale"),
        ({"n_feat": 3}, r"hyperparameter of dtfn.*'n_feat'.*did you mean 'n_feats'"),
        ({"topk": 3}, "hyperparameter of dtfn"),
        ({"n_feats": 0}, "n_feats of dtfn: expected a positive integer; found 0"),
        ({"n_feats": True}, "expected a positive integer; found True"),
        ({"rgb_range": math.nan}, "rgb_range of dtfn: expected a positive number"),
        ({"reduction": 33, "n_feats": 32}, "reduction of dtfn: expected at most n_feats, 32"),
    ]
    for arguments, match in wrong:
        with torch.device("meta"):
            refused(match, create, **{"name": "dtfn", "scale": 2, **arguments})
    network, message = small("edsr"), r"network input: expected a floating \(N, 3, H, W\)"
    integers = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    for x in (integers, image(1, 8, 8, 3), image(3, 8, 8), image(1, 3, 0, 8)):
        refused(message, network, x)


LAYERS: dict[str, Callable[[], nn.Module]] = {**tiny_networks.LAYERS}
LAYERS["nlsa+tfs"] = lambda: layers.TextureFidelity(tiny_networks.LAYERS["nlsa"](), 16)
LAYERS["deformable"] = lambda: deform.DeformableConv2d(16, 16)


def built(name: str) -> nn.Module:
    """Return a layer in float64 that deforms and gates, as a trained one does."""
    torch.manual_seed(0)
    layer = LAYERS[name]().double().eval()
    for parameter in layer.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return layer


def features(*size: int) -> Tensor:
    x = torch.randn(*size, dtype=torch.double, generator=torch.Generator().manual_seed(1))
    return x.contiguous(memory_format=torch.channels_last)


def answers(layer: nn.Module, x: Tensor) -> list[Tensor]:
    """Return the output without gradients, with them, and all gradients, on the CPU."""
    with torch.no_grad():
        rested = layer(x)
    x = x.detach().requires_grad_()
    out = layer(x)
    weight = features(*out.shape).to(out)
    gradients = torch.autograd.grad((out * weight).sum(), [x, *layer.parameters()])
    return [t.detach().cpu() for t in (rested, out, *gradients)]


@pytest.mark.parametrize("size", [(2, 3), (5, 7), (8, 8)])
@pytest.mark.parametrize("name", LAYERS)
def test_all_at_once(name: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x, switch = built(name), features(3, 16, *size), torch.tensor([True, False, True])

    def both() -> list[Tensor]:
        with networks.assign([layer], "on", switch):  # it keeps the batch's shape
            found = answers(layer, x)
        return found + answers(layer, x)

    expected = both()
    monkeypatch.setattr(layers, "batches", lambda tensor: True)
    for kept in (0, 1 << 40):  # gradients recomputed, and kept
        with monkeypatch.context() as patch:
            patch.setattr(deform, "KEPT", kept)
            if kept:  # the capture of a CUDA graph, in which nothing waits for a number
                patch.setattr(attention, "captured", lambda _: True)
                patch.setattr(Tensor, "__bool__", None)
                patch.setattr(Tensor, "item", None)
            found = both()
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


@pytest.mark.gpu
@pytest.mark.parametrize("size", [(3, 3), (5, 7), (24, 20)])
@pytest.mark.parametrize("name", LAYERS)
def test_gpu_is_the_cpu(name: str, size: tuple[int, int]) -> None:
    layer, x = built(name), features(3, 16, *size)
    on_gpu = copy.deepcopy(layer).cuda()
    for one, other in zip(answers(on_gpu, x.cuda()), answers(layer, x), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_triton_kernels_are_the_embedding_bag(device: str) -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    program = """
import sys, torch
from dtfn.models.deform import DeformableConv2d, WeightedRows, fused
def answers(kind):
    torch.manual_seed(0)
    index = torch.randint(0, 50, (300, 4))
    made = [torch.randn(*size) for size in ((50, 20), (300, 4))]
    table, share = (one.to(kind).requires_grad_() for one in made)
    out = WeightedRows.apply(table, index, share)
    (out * torch.linspace(0, 1, out.shape[1], dtype=kind)).sum().backward()
    return out, table.grad, share.grad
torch.set_default_device(sys.argv[1])
torch.backends.cudnn.allow_tf32 = False
assert fused(torch.zeros(1)) and not fused(torch.zeros(1).double())
for one, other in zip(answers(torch.float32), answers(torch.float64), strict=True):
    torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-4)
layer, x = DeformableConv2d(20, 4), torch.randn(1, 20, 5, 6)
torch.nn.init.normal_(layer.offset_conv.weight, std=0.1)
found = layer(x)  # of one picture, whose rows lie apart in memory
torch.testing.assert_close(found.double(), layer.double()(x.double()), rtol=1e-4, atol=1e-4)
"""
    environment = os.environ | {"TRITON_INTERPRET": str(int(device == "cpu"))}
    subprocess.run([sys.executable, "-c", program, device], env=environment, check=True)


@pytest.mark.parametrize("name", ["dtfn", "nlsn", "hspan"])
@torch.no_grad()
def test_number_of_threads(name: str) -> None:
    network, x = small(name).double(), image(1, 3, 12, 12).double()
    outputs = []
    for threads in (2, 1):
        torch.set_num_threads(threads)
        outputs.append(network(x))
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-12)
