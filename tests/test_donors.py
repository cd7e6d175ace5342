"""The donor experiment: known signs where attention copies, nothing where there is none."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from tiny import crossed, refused
from torch import Tensor

from dtfn import causes, datasets, donors, harm, images, models, statistics, texture, verdicts
from dtfn.datasets import Sample
from dtfn.harm import Pair
from dtfn.models.attention import Attention
from dtfn.plots import curves, pictures

S = 2
APART = 9  # LR pixels that a copy comes from, at least


class Shift(Attention):
    """Adds a quarter of a grey level everywhere, whatever it sees."""

    def __init__(self, channels: int, res_scale: float = 1.0) -> None:
        super().__init__(res_scale)

    def attend(self, x: Tensor) -> Tensor:
        return torch.full_like(x, 0.25 / 255)


class Copy(Shift):
    """Adds the LR colour of the most similar patch elsewhere, less its own."""

    def attend(self, x: Tensor) -> Tensor:
        patches = F.unfold(x - x.mean(), 5, padding=2)[0].T  # (L, 25 C)
        axes = torch.meshgrid(*map(torch.arange, x.shape[2:]), indexing="ij")
        row, column = (axis.flatten() for axis in axes)
        near = torch.maximum((row[:, None] - row).abs(), (column[:, None] - column).abs()) < APART
        best = torch.cdist(patches, patches).masked_fill(near, torch.inf).argmin(1)
        flat = x.flatten(2)
        return (flat[:, :, best] - flat).view_as(x)


class Noise(Shift):
    """Adds noise of half a grey level, other noise for every picture."""

    def attend(self, x: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(int(x.double().sum() * 1e6))
        return torch.randn(x.shape, generator=generator) * 0.5 / 255


def adding(attention: type[Attention], folder: Path) -> str:
    """A network of blocks of the LR colours with attention off; on, it adds what that returns."""
    name = attention.__name__.lower()
    models.networks.register(name, attention)
    network: Any = models.create(f"mini-{name}", S, n_feats=3, n_resblocks=1, n_resgroups=1)
    centre = torch.zeros(3, 3, 3, 3)
    centre[range(3), range(3), 1, 1] = 1.0
    with torch.no_grad():
        for weight in network.parameters():
            weight.zero_()
        network.head[0].weight.copy_(centre)
        group, last = network.body
        group.body[-1].weight.copy_(centre)  # x and what is copied, a; with the skip 2 x + a
        last.weight.copy_(-centre / 2)  # -x - a / 2; with the skip -a / 2
        network.tail[0].weight.copy_(-2 * centre.repeat_interleave(S * S, 0))
    models.save(network, folder / f"{name}.safetensors")
    return str(folder / f"{name}.safetensors")


def saved(folder: Path, name: str) -> str:
    torch.manual_seed(0)
    network = models.create(name, S, n_feats=8, n_resblocks=1, n_resgroups=1)
    for weight in network.parameters():
        if weight.requires_grad:
            torch.nn.init.normal_(weight, std=0.05)
    models.save(network, folder / f"{name}.safetensors")
    return str(folder / f"{name}.safetensors")


def pair(method: str) -> Pair:
    return Pair("toy", "switch", 0, method, f"{method}@off")


@pytest.fixture(scope="module")
def pool() -> donors.Pool:
    made = []
    for seed in range(3):
        noise = np.random.default_rng(seed).normal(size=(S * 80, S * 90, 3))
        hr = np.clip(128 + 150 * gaussian_filter(noise, (1, 1, 0)), 0, 255).astype(np.uint8)
        made.append(Sample("toy", f"{seed}", S, images.degrade(hr, S), hr))
    return donors.Pool(made)


def test_attention_that_copies_is_helped_by_what_agrees(tmp_path: Path, pool: donors.Pool) -> None:
    """The best of consistent donors is the query's own colour: on is off, exactly."""
    toy = pair(adding(Copy, tmp_path))
    table = donors.measure([toy], pool, 9, doses=(1, 4))
    assert len(table) == 9 * (1 + 4 * 2)
    ours = table[table["donor"] == "consistent"]
    assert ours["on"].to_numpy() == pytest.approx(ours["off"].to_numpy(), abs=1e-4)
    found = donors.contrasts(table)
    assert len(found) == 9
    assert statistics.crossed(found, "contrast", "off").low > 0
    assert (found["contrast"] > -1).all(), "a wrong colour rarely errs less"
    drawn = donors.curves(table).set_index(["donor", "dose"])
    dose = drawn["effect"]
    assert drawn.loc["consistent", "effect_high"].max() < 0
    expected = 100 * found["contrast"].groupby(found["image"]).mean().sum()
    expected /= found["off"].groupby(found["image"]).mean().sum()
    assert dose["inconsistent", 4] - dose["consistent", 4] == pytest.approx(expected)


def test_without_attention_donors_change_nothing(tmp_path: Path, pool: donors.Pool) -> None:
    table = donors.measure([pair(saved(tmp_path, "mini-local"))], pool, 3, doses=(2,))
    assert (table["on"] == table["off"]).all()
    assert (donors.effects(table)["change"] == 0).all()
    method = saved(tmp_path, "mini-local")
    assert donors.measure([pair(method)], pool, 3, doses=(99,)).empty, "no room"
    nothing = donors.measure([], pool, 3, [1])
    assert donors.curves(nothing).empty
    assert donors.contrasts(nothing).empty
    refused("numbers of 1 or more", donors.measure, [pair(method)], pool, 3, doses=(0,))
    refused("use larger pictures", donors.Pool, [pool.samples[0].crop(0, 0, 20, 20)])


@pytest.mark.parametrize("attention", [Shift, Noise])
@pytest.mark.usefixtures("benchmarks")
def test_no_cause_of_shifts(attention: type[Attention], tmp_path: Path, monkeypatch: Any) -> None:
    """Claims 4 and 7 on real pictures; three names of one network stand for training seeds."""
    nearest = texture.inconsistency  # in place of what is attended
    monkeypatch.setattr(
        causes, "attended", lambda _, one: nearest(one.hr, S, one.lr, every=4)[None]
    )
    samples = list(datasets.benchmark("Set5", S))
    ours = pair(adding(attention, tmp_path))
    control = ((f"{ours.on}@turn(1)", ours.on), (f"{ours.on}@turn(2)", ours.on))
    pairs = [dataclasses.replace(ours, seed=seed, controls=control) for seed in range(3)]
    experiment = donors.measure(pairs, donors.Pool(samples), 40, [1, 4])
    assert (experiment["on"] != experiment["off"]).all(), "it does add something"
    rows = verdicts.of_causes(pairs, causes.measure(pairs, samples).pictures, experiment, S)
    assert "yes" not in set(rows["verdict"])
    assert ((rows["low"] <= 0) & (rows["high"] >= 0)).all()
    assert rows["measured"].abs().max() < harm.EFFECT_SHARE


@pytest.mark.parametrize("name", ["mini-gla+tfs", "mini-nla"])
def test_a_scene_shows_the_weights_of_donors(name: str, tmp_path: Path, pool: donors.Pool) -> None:
    table = donors.measure([pair(saved(tmp_path, name))], pool, 2, doses=(8,))
    assert table["hash"].nunique() == (1 if name == "mini-nla" else 2)
    assert table.loc[table["dose"] == 8, "weight"].between(0.01, 0.99).all()
    assert donors.scene([pair("none")], pool, table[:0]) is None
    scene = donors.scene([pair(saved(tmp_path, name))], pool, table)
    assert scene is not None
    assert scene.copied["consistent"].shape == (S * donors.LOOK, S * donors.LOOK, 3)
    assert 0 < scene.weights["consistent"] < 1
    assert scene.trials["plain"].mask.sum() == 8 * donors.SIDE**2
    rows = table[table["hash"] == 0].groupby("donor")["on"].apply(list)
    assert scene.errors["off"] in table["off"].to_list()
    for kind in ("none", *donors.KINDS):
        assert min(abs(scene.errors[kind] / np.array(rows[kind]) - 1)) < 1e-5
    figure = pictures.donor_panel(scene)
    figure.draw_without_rendering()
    titles = [ax.get_title() for ax in figure.axes if ax.get_title().startswith("attention on")]
    assert titles == [f"attention on: MSE {scene.errors[kind]:.0f}" for kind in donors.KINDS]
    assert len(figure.axes[4].patches) == 8 + 1, "the donors and the query"
    found = donors.curves(table)
    figure = curves.dose_curves(found)
    figure.draw_without_rendering()
    lines: dict[str, Any] = {str(line.get_label()): line for line in figure.axes[0].containers}
    for kind in curves.DONORS:
        effect = found.loc[found["donor"] == kind, "effect"]
        np.testing.assert_allclose(lines[kind].lines[0].get_ydata(), [0, *effect])


def test_donors_are_what_they_are_called(pool: donors.Pool) -> None:
    (query, *_) = pool.queries(3)
    placed = pool.trials(query, 6, [3])
    assert placed is not None
    side, top, left = donors.SIDE, query.row - donors.SIDE // 2, query.column - donors.SIDE // 2
    own = query.sample.lr[top : top + side, left : left + side]
    hr, ways = query.sample.hr, ((0, 1), (1, 0), (1, 1))
    moved = [images.degrade(hr[y : S * 79 + y, x : S * 89 + x], S) for y, x in ways]
    moved = [one[top : top + side, left : left + side] for one in moved]
    for trial in placed[1][1:]:
        patches = [trial.sample.lr[y : y + side, x : x + side] for y, x in trial.cells]
        assert len(patches) == 3
        unchanged = trial.mask == 0
        assert (trial.sample.lr[unchanged] == placed[0].sample.lr[unchanged]).all()
        if trial.donor == "consistent":
            assert (np.stack(patches) == own).all()
            assert trial.likeness == trial.k == 0
        elif trial.donor == "plain":
            assert np.ptp(np.stack(patches), axis=(1, 2)).max() == 0
        elif trial.donor == "shifted":
            assert all(any((patch == one).all() for one in moved) for patch in patches)
        else:
            parts = [trial.sample.crop(y, x, side, side) for y, x in trial.cells]
            both = (query.cut(), *((part.lr, part.hr) for part in parts))
            details = (images.luma(hr) - images.luma(images.imresize(lr, S)) for lr, hr in both)
            true, *others = (one[S * 6 : S * 9, S * 6 : S * 9] for one in details)
            assert all((true * other).sum() <= 0 for other in others), "unrelated or opposed detail"
            assert trial.likeness > 0
            assert trial.k >= 1


def test_the_receptive_field_is_that_of_the_convolutions(tmp_path: Path) -> None:
    network = models.load(saved(tmp_path, "mini-nla"))
    assert donors.radius(network) == 6
    network = models.load(saved(tmp_path, "mini-nla+tfs"))
    gate = network.get_parameter("body.0.body.1.fusion.0.0.conv_du.0.bias")
    torch.nn.init.ones_(gate)  # it is on
    one, other = torch.rand(2, 1, 3, 9, 9)
    with torch.inference_mode():
        free = network(other)
        with donors.held_gates(network):
            network(one)
            assert not torch.equal(network(other), free)
        with donors.held_gates(network):
            assert torch.equal(network(other), free)
        assert torch.equal(network(other), free)


ANSWERS = [(0.9, 5, ["yes", "yes"]), (1.1, 0, ["no", "open"]), (1.3, 0, ["no", "no"])]


@pytest.mark.parametrize(("consistent", "slope", "answers"), ANSWERS)
def test_the_claims_on_causes(consistent: float, slope: float, answers: list[str]) -> None:
    """Consistent donors that harm less than inconsistent ones do not help yet."""
    key = {"pair": ["nlsa"], "kind": ["switch"], "seed": range(3), "dataset": ["toy"]}
    slopes = crossed(**key, image=range(8), role=["pair", "control 1"], of=["attended"])
    slopes["slope"] = slope * (slopes["role"] == "pair") + 0.1 * (slopes["image"] % 2)
    errors = {"none": 1.0, "consistent": consistent, "inconsistent": 1.2, "plain": 1.0}
    made = crossed(**key, image=range(8), row=[9], column=[9], donor=list(errors), hash=[0])
    made["off"] = 10.0 + made["image"]
    made = made.assign(dose=8 * (made["donor"] != "none"), weight=0.1, likeness=0.0, k=0.0)
    tables = slopes, made.assign(on=made["off"] * made["donor"].map(errors))
    pairs = [Pair("nlsa", "switch", seed, "on", "off") for seed in range(3)]
    rows = verdicts.of_causes(pairs, *tables, S)
    assert rows["verdict"].tolist() == answers
    assert rows["measured"].tolist() == pytest.approx([slope, 100 * (1.2 - consistent)], abs=0.01)
    assert set(rows["networks"]) == {"nlsa s0 s1 s2"}
    said = f"consistent donors harm: the error changes by {100 * (consistent - 1):+.2f} % ["
    reason = rows["reason"][1].removeprefix("the opposite holds; ")
    assert reason.startswith(said) == (consistent > 1), "a premise that fails is said"
    for untested in (tables, [one[:0] for one in tables]):
        slopes_, experiment = untested
        rows = verdicts.of_causes([], slopes_, experiment, S)
        assert rows["verdict"].tolist() == ["not testable"] * 2
