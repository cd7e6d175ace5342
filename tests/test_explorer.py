"""The explorer: what it says is right, what it refuses it says, and it lives on."""

from __future__ import annotations

import dataclasses
import datetime
import io
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny_networks
import torch
from matplotlib.backend_bases import KeyEvent, MouseButton, MouseEvent
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio

from dtfn import capture, cli, datasets, evaluation, explorer, images, models, paths, subpixel, zoo
from dtfn.errors import InputError
from dtfn.explorer import page, state
from dtfn.explorer.state import FILES, WITHOUT, Choice, Deeper, Explorer, Upload, Window

# ipympl passes its canvas on to traitlets, which will refuse that one day.
pytestmark = pytest.mark.filterwarnings("ignore:Passing unrecognized arguments:DeprecationWarning")

FOLDER = tempfile.TemporaryDirectory()
N, L, NULL, DENSE = "nlsa-x4-s0", "local-x4-s1", "local-x4-s0", tiny_networks.dense(FOLDER.name)
GLA, OFF = "gla-x4-s0", f"{N}@off"
FIRST, LAST = "body.0.body.4", "body.3.body.4"
TILE = Window(8, 12, 20, 24)
CHOICE = Choice("mini", "brick", 4, N, L, (NULL, L), DENSE, tile=TILE)
SWITCHED = Choice("mini", "brick", 4, N, OFF, (f"{N}@hash(1)", N), tile=TILE)
GIVEN: dict[str, Any] = {
    "dataset": "mini",
    "image": "astronaut",
    "scale": 4,
    "network": N,
    "baseline": OFF,
    "control": [],
    "third": "",
    "layer": "",
    "hash_seed": 0,
    "quantile": 0.95,
    "tile": [40, 40, 16, 16],
    "positions": [[3, 4]],
}
NOW = datetime.datetime.now(datetime.UTC)


@pytest.fixture(scope="module")
def shown() -> Explorer:
    """A state that no test changes but by looking elsewhere."""
    return Explorer(CHOICE)


@pytest.fixture
def own() -> Explorer:
    return Explorer(CHOICE)


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")
    return tmp_path / "runs"


def png(image: np.ndarray[Any, Any]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


def noise(*shape: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def last(explored: Explorer) -> Deeper:
    *_, deeper = explored.deeper()
    return deeper


# ---------------------------------------------------------------- what it says


def unrounded(method: str, lr: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return Y of a method's output in [0, 255] by torch alone."""
    name, change = evaluation.split_change(method)
    network = models.load(name).eval()
    x = torch.from_numpy(lr.copy()).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad(), network.attention(change != "off"):
        rgb = network(x)[0].clamp(0, 1).permute(1, 2, 0).double().numpy()
    return 16 + rgb @ np.array([65.481, 128.553, 24.966])


@pytest.mark.parametrize("choice", [CHOICE, SWITCHED])
def test_block_is_that_of_the_pixels(choice: Choice) -> None:
    """Against scikit-image's PSNR, on blocks cut by hand from outputs that are not rounded."""
    shown = Explorer(choice)
    sample = datasets.sample("mini", "brick", 4).crop(*TILE)
    y = {name: unrounded(name, sample.lr) for name in (N, OFF, L, NULL, DENSE)}
    hr = subpixel.luma(sample.hr)
    assert shown.scene.harm is not None
    for row, column in [(0, 0), (7, 11), (19, 23)]:
        shown.click(column + 0.3, row - 0.4)
        assert shown.position == (row, column)
        at = np.s_[4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        mse = {name: np.mean((values[at] - hr[at]) ** 2) for name, values in y.items()}
        for name in {*choice.methods, OFF} & y.keys():
            output = shown.scene.outputs[name]
            psnr = peak_signal_noise_ratio(hr[at], y[name][at], data_range=255)  # type: ignore[no-untyped-call]
            found = shown.scene.error(output, (row, column))
            assert found == pytest.approx(mse[name], rel=1e-3)
            assert shown.scene.errors[name][row, column] == pytest.approx(found)
            assert subpixel.decibels(found) == pytest.approx(psnr, abs=1e-2)
        harm = mse[N] - mse[choice.baseline]
        assert shown.scene.harm[row, column] == pytest.approx(harm, abs=1e-2)


def test_a_network_that_fails_the_gate_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = {"name": N, "scale": 4, "file": f"{N}.safetensors", "gate": 0.031, "chooses": False}
    monkeypatch.setattr(zoo, "registry", lambda: [failed])
    for words in (N, "fails the gate", "0.03 dB"):
        assert words in state.gate(N)
    assert state.gate(L) == ""


def test_attention_is_that_of_the_live_layer(shown: Explorer) -> None:
    network = models.load(N)
    with capture.record(network) as record:
        evaluation.upscale(network, shown.scene.sample.lr)
    layer = network.get_submodule(LAST)
    expected = capture.attention_map(layer, record.features[LAST], (5, 6)).numpy()
    shown.click(6, 5)
    found = shown.answer
    assert shown.choice.layer == LAST
    assert found.attention is not None
    np.testing.assert_allclose(found.attention, expected, atol=1e-7)
    heaviest = sorted(expected.ravel(), reverse=True)[:8]
    np.testing.assert_allclose([copy.weight for copy in found.copied], heaviest, atol=1e-7)
    for copy in found.copied:
        assert expected[copy.row, copy.column] == pytest.approx(copy.weight, abs=1e-7)
    entropy = -np.sum(expected[expected > 0] * np.log(expected[expected > 0]))
    assert found.spread["support"] == pytest.approx(np.exp(entropy), rel=1e-4)


def test_disagreement_is_that_of_the_lost_detail(shown: Explorer) -> None:
    """Detail from a second bicubic than the code path's blocks: HR less its own down and up."""
    hr = shown.scene.hr
    assert hr is not None
    lost = hr.astype(float) - images.imresize(images.degrade(hr, 4), 4)
    shown.click(6, 5)
    own = lost[20:24, 24:28]
    for copy in shown.answer.copied:
        other = lost[4 * copy.row : 4 * copy.row + 4, 4 * copy.column : 4 * copy.column + 4]
        expected = np.sum((own - other) ** 2) / np.sum(own**2)
        assert copy.disagreement == pytest.approx(expected, rel=1e-4)


def test_deeper_answers_are_those_of_the_changed_network(shown: Explorer) -> None:
    """Uniform weights, and the ringed positions as keys of none, in a network that is dense."""
    explored = Explorer(dataclasses.replace(CHOICE, network=DENSE, control=(), third=""))
    explored.click(6, 5)
    deeper = last(explored)
    network, lr = models.load(DENSE), explored.scene.sample.lr
    ringed = [(c.row, c.column) for c in explored.answer.copied if (c.row, c.column) != (5, 6)]
    gone = torch.tensor([24 * row + column for row, column in ringed])

    def dropped(logits: torch.Tensor, _queries: Any, _keys: Any) -> torch.Tensor:
        logits = logits.clone()
        logits[:, gone] = -torch.inf
        return logits

    with network.intervene(dropped):
        np.testing.assert_array_equal(
            deeper.outputs[WITHOUT].image, evaluation.upscale(network, lr)
        )
    with network.intervene(lambda logits, _queries, _keys: 0 * logits):  # dense: all are keys
        made = deeper.outputs[f"{DENSE}@uniform"].image
        np.testing.assert_array_equal(made, evaluation.upscale(network, lr))
    assert deeper.attribution is not None
    assert deeper.crop == (0, 0, 20, 24)
    assert deeper.attribution.map.shape == (20, 24)
    titles = [crop.title for crop in page.crops(explored.scene, explored.answer, deeper, 12)]
    kinds = ["attention on", "attention off", "uniform weights", WITHOUT]
    assert titles == ["LR", "HR", *kinds, L, "attribution"]


def test_the_mix_is_the_mean_of_all_patches_by_weight() -> None:
    source = noise(12, 16, 3)
    attention = np.zeros((6, 8))
    attention[2, 3], attention[5, 0] = 0.75, 0.25
    padded = np.pad(
        source.reshape(6, 2, 8, 2, 3).swapaxes(1, 2), ((3, 3), (3, 3), *[(0, 0)] * 3), mode="edge"
    )
    picture = padded.swapaxes(1, 2).reshape(24, 28, 3).astype(float)
    expected = 0.75 * picture[4:18, 6:20] + 0.25 * picture[10:24, 0:14]
    np.testing.assert_allclose(page.mix(source, attention, 2), expected, atol=0.51)


@pytest.mark.parametrize("choice", [CHOICE, SWITCHED])
def test_harm_is_judged_against_chance(choice: Choice) -> None:
    shown = Explorer(choice)
    harm, chance = shown.scene.harm, shown.scene.chance
    assert harm is not None
    assert chance is not None
    limit = shown.threshold
    assert limit == pytest.approx(np.quantile(np.abs(chance), 0.95))
    said = page.share(shown.scene, limit)
    assert f"{np.mean(harm[1:-1, 1:-1] > limit):.1%}" in said
    assert f"{np.mean(chance[1:-1, 1:-1] > limit):.1%}" in said
    beyond = (np.abs(harm) > limit) & (np.abs(harm) > np.abs(chance))
    for row, column in np.ndindex(*harm.shape):
        shown.click(column, row)
        words = page.verdict(shown.scene, shown.answer, limit)
        assert ("harmed here" in words) == (beyond[row, column] and harm[row, column] > 0)
        assert ("helped here" in words) == (beyond[row, column] and harm[row, column] < 0)
        if beyond[row, column]:
            assert ("Attention" in words) == (choice is SWITCHED), "attention alone differs"
    assert beyond.any()


def test_a_local_network_never_harms_another() -> None:
    """Also where its difference is beyond the threshold and the chance of the block."""
    choice = dataclasses.replace(CHOICE, network=NULL, control=(f"{NULL}@turn(1)", NULL), third="")
    explored = Explorer(choice)
    harm, chance = explored.scene.harm, explored.scene.chance
    assert harm is not None
    assert chance is not None
    assert np.any((np.abs(harm) > explored.threshold) & (np.abs(harm) > np.abs(chance)))
    for row, column in np.ndindex(*explored.scene.shape):
        explored.click(column, row)
        words = page.verdict(explored.scene, explored.answer, explored.threshold)
        assert "any difference is chance" in words


@pytest.mark.parametrize("network", [N, DENSE], ids=["hashed", "dense"])
def test_chance_of_attention_off_is_another_hash_seed_or_a_flip(network: str) -> None:
    off = f"{network}@off"
    chance, same = two = state.controls(4, network, off, seed=3)[0]
    assert same == network
    scene = Explorer(Choice("mini", "brick", 4, network, off, two, hash_seed=3, tile=TILE)).scene
    lr, hr = scene.sample.lr, subpixel.luma(scene.sample.hr)
    loaded = models.load(network, 3)
    if network == N:
        changed = evaluation.upscale(models.load(N, 4), lr)
    else:
        changed = evaluation.upscale(loaded, lr[::-1].copy())[::-1]
    for method, image in {network: evaluation.upscale(loaded, lr), chance: changed}.items():
        np.testing.assert_array_equal(scene.outputs[method].image, image)
        rough = subpixel.block_error(subpixel.luma(np.ascontiguousarray(image)), hr, 4)
        assert scene.errors[method] == pytest.approx(rough, rel=0.2, abs=3), "but not rounded"
    assert scene.chance == pytest.approx(scene.errors[chance] - scene.errors[network])


@pytest.mark.parametrize("network", [N, DENSE], ids=["hashed", "dense"])
def test_words_say_where_attention_is_spread(network: str) -> None:
    explored = Explorer(dataclasses.replace(CHOICE, network=network, third=""))
    scene, found = explored.scene, explored.answer
    assert found.attention is not None
    seen = np.zeros_like(found.attention)
    seen[found.attention > 0] = 1 / np.count_nonzero(found.attention)
    flat = found._replace(attention=seen, spread={"support": np.count_nonzero(seen)})
    where = "that get any" if network == N else "the whole picture"
    assert page.looked(scene, flat).startswith("Spread evenly over")
    assert where in page.looked(scene, flat)
    assert ("hence the band" in page.looked(scene, flat)) == (network == N)
    peaked = flat._replace(spread={"support": 3})
    assert "Half of the weight is on" in page.looked(scene, peaked)
    drawn = page.attention_map(scene, flat, 1.0)
    assert drawn.max() < 0.85 * images.luma(scene.sample.lr).max() + 40, "nothing stands out"


# ---------------------------------------------------------------- how fast


def test_networks_run_once_a_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    state._run.cache_clear()
    ran: list[str] = []
    unrounded = evaluation.unrounded

    def counted(network: models.Network, lr: Any) -> Any:
        ran.append(network.name)
        return unrounded(network, lr)

    monkeypatch.setattr(evaluation, "unrounded", counted)
    told: list[float] = []
    explored = Explorer(CHOICE, tell=lambda share, _: told.append(share))
    assert sorted(ran) == ["mini-local", "mini-local", "mini-nla", "mini-nlsa", "mini-nlsa"]
    assert told == sorted(told)
    assert (told[0], told[-1]) == (0, 1)
    ran.clear()
    explored.click(1, 1)
    explored.choose(layer=FIRST)
    explored.move(1, 0)
    assert ran == []
    last(explored)
    assert ran == ["mini-nlsa"] * 2
    before = explored.answer.attention
    ran.clear()
    explored.choose(hash_seed=5, third="")
    assert ran == ["mini-nlsa"] * 2, "a network without hashing does not depend on the seed"
    assert not np.array_equal(before, explored.answer.attention)  # type: ignore[arg-type]


def test_a_click_takes_less_than_300_ms() -> None:
    """In processor time, on 128 x 128 positions: all that the kernel does, both maps drawn."""
    from dtfn.explorer.view import View

    view = View(lambda *_, **__: Path())
    view._deepen = lambda asked: None  # type: ignore[method-assign]  # that follows a click
    whole = dataclasses.replace(SWITCHED, tile=())
    view.start(lambda tell: Explorer(whole, tell=tell))
    view.wait()
    assert view.state.scene.shape == (128, 128)
    taken = []
    for step in range(5):
        began = time.process_time()
        view._clicked(20 + step, 30)
        for canvas in (view._attention.widget, view._harm.widget):
            assert canvas.figure.stale, "the click changed it"
            canvas.draw()  # encodes and sends it, too
            assert not canvas.figure.stale
        taken.append(time.process_time() - began)
    assert sorted(taken)[2] < 0.3, taken


# ---------------------------------------------------------------- bad input


def refused(own: Explorer, act: Any, *words: str) -> None:
    """Check that an event is refused with words, and that all is as it was, and lives on."""
    before = (own.scene, own.answer, dict(own.files), own.notes)
    with pytest.raises(InputError) as refusal:
        act()
    for word in words:
        assert word in str(refusal.value)
    assert (own.scene, own.answer, own.files, own.notes) == before
    own.move(0, 1)
    assert own.answer.attention is not None


@pytest.mark.parametrize(("x", "y"), [(None, None), (24, 3), (3, 20), (-0.6, 3), (3, -0.6)])
def test_click_outside(own: Explorer, x: float | None, y: float | None) -> None:
    words = ("row 0 to 19", "column 0 to 23", "inside")
    refused(own, lambda: own.click(x, y), *words, *(["outside"] if x is None else []))


def test_steps_stop_at_the_border(own: Explorer) -> None:
    own.move(-99, 99)
    assert own.position == (0, 23)


def test_broken_uploads(own: Explorer) -> None:
    whole = png(noise(64, 64, 3))
    for data in (b"", b"not a picture", whole[: len(whole) // 2]):
        refused(own, lambda d=data: own.upload("x.png", d, truth=True), "x.png")
    small = png(noise(20, 64, 3))
    refused(own, lambda: own.upload("s.png", small, truth=True), "32 x 32", "64 x 20")
    assert FILES not in own.datasets
    own.upload("x.png", png(noise(48, 48, 3)), truth=True)
    kept = own.files["x.png"]
    refused(own, lambda: own.upload("x.png", b"broken", truth=True), "x.png")
    assert own.files["x.png"] is kept, "the one of its name stays"
    assert own.choice.image == "x.png"


@pytest.mark.parametrize(
    ("image", "notes"),
    [
        (noise(50, 47), ["grey"]),
        (noise(50, 47, 4), ["white"]),
        (noise(50, 47, 2), ["grey", "white"]),
        (noise(50, 47).astype(np.uint16) * 257, ["grey", "16 bits"]),
    ],
)
def test_grey_alpha_and_deep_uploads(image: np.ndarray[Any, Any], notes: list[str]) -> None:
    sample, said = state.brought("mine.png", Upload(png(image), truth=True), 4)
    for note in notes:
        assert note in said
    assert sample.lr.shape == (12, 11, 3)
    assert (sample.hr.ndim == 2) == ("grey" in notes)


def test_without_truth_everything_that_needs_it_says_so(own: Explorer, runs: Path) -> None:
    own.upload("lr.png", png(noise(20, 24, 3)), truth=False)
    scene, found = own.scene, own.answer
    assert scene.shape == (20, 24)
    assert (scene.harm, scene.hr) == (None, None)
    assert "disagreeing" not in found.spread
    titles = [crop.title for crop in page.crops(scene, found, Deeper(), 12)]
    assert titles == ["LR", "attention on", "attention off", L, Path(DENSE).name]
    for text in (page.harm(scene, 0.0, 0.0), page.numbers(scene, found, 0.0)):
        assert page.NO_TRUTH in text
    assert "needs the truth" in " ".join(t.get_text() for t in texts(page.sheet(scene, found)))
    assert (explorer.send(own, GIVEN) / "figures" / "view.png").is_file()


def test_too_large_is_shown_by_a_tile(own: Explorer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "DENSE", 2600)
    own.upload("wide.png", png(noise(20, 140, 3)), truth=False)
    assert own.scene.shape == (20, 128)
    offered = state.tiles(own.whole()[0].lr.shape)
    assert [str(w) for w in offered] == ["rows 0–19, columns 0–127", "rows 0–19, columns 12–139"]
    for word in ("2600 LR positions", DENSE, "50 x 50", "140 x 20", "128 x 128", "tile 1 of 2"):
        assert word in own.notes
    own.choose(tile=offered[1])
    np.testing.assert_array_equal(own.scene.sample.lr, noise(20, 140, 3)[:, 12:])
    own.choose(third="", tile=())
    assert own.scene.shape == (20, 140)


def test_a_network_without_attention_has_no_map(own: Explorer) -> None:
    own.choose(network=NULL, control=())
    found = own.answer
    assert found.attention is None
    assert own.scene.harm is not None
    assert "no attention layer" in page.attention(own.scene, found)
    assert page.copies(own.scene, found) == []
    assert list(own.deeper()) == []
    assert page.sheet(own.scene, found)
    with pytest.raises(InputError, match="with attention"):
        own.choose(baseline=f"{NULL}@off")
    own.choose(network=N)
    assert own.answer.attention is not None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"network": L}, ["two different networks"]),
        ({"network": "nlsa-x4-s77"}, ["did you mean"]),
        ({"baseline": f"{N}@of"}, ["did you mean 'off'"]),
        ({"image": "bricks"}, ["did you mean 'brick'"]),
        ({"dataset": "Set6"}, ["Set6"]),
        ({"dataset": FILES, "image": "nothing.png"}, ["nothing.png"]),
        ({"scale": 7}, ["7"]),
        ({"tile": Window(0, 0, 200, 20)}, ["tile"]),
        ({"layer": "head"}, ["layer", "'head'", LAST]),
    ],
)
def test_a_choice_that_cannot_be(own: Explorer, changes: dict[str, Any], words: list[str]) -> None:
    refused(own, lambda: own.choose(**changes), *words)


# ---------------------------------------------------------------- what follows from a choice


def test_what_no_longer_fits_follows() -> None:
    full = dataclasses.replace(CHOICE, layer=FIRST, hash_seed=3)
    names = {"mini": ["astronaut", "brick"]}.__getitem__

    def after(choice: Choice, **changes: Any) -> Choice:
        return state.changed(choice, changes, names)

    assert after(full, image="astronaut").tile == ()
    assert after(full, control=()).control == ()
    assert after(full, baseline=NULL).control == (L, NULL)
    assert after(full, network=DENSE).layer == ""
    assert after(full, baseline=OFF).control == (f"{N}@hash(4)", N)
    assert after(SWITCHED, hash_seed=6).control == (f"{N}@hash(7)", N)
    assert after(SWITCHED, baseline=L).control == (NULL, L)
    assert after(Choice("Set5", "baby", 4, N, L), dataset="mini").image == "astronaut"


def test_the_usual_pair_is_chosen_from_what_the_zoo_has(monkeypatch: pytest.MonkeyPatch) -> None:
    def zoo_of(*rows: tuple[str, int, int], switched: str = "") -> None:
        made = [
            {"name": f"{v}-x4-s{s}", "variant": v, "scale": 4, "seed": s, "parameters": p}
            for v, s, p in rows
        ]
        monkeypatch.setattr(zoo, "registry", lambda: made)
        monkeypatch.setattr(state, "trained_for_both", lambda name: name == switched)

    def usual(network: str = "") -> tuple[Any, ...]:
        return tuple(state.usual(4, network).values())

    locals_ = [("local", 0, 5), ("local", 1, 5), ("local-wide", 0, 4), ("placebo", 0, 3)]
    own = [("nla", 0, 6), ("nlsa+tfs", 0, 9), ("nlsa", 0, 8), ("nlsa", 1, 7), ("gla", 0, 9)]
    zoo_of(*locals_, *own)
    assert usual() == (N, "placebo-x4-s0", (NULL, L))
    assert usual(L) == (L, NULL, (L, NULL))
    zoo_of(*locals_, *own, switched=GLA)
    assert usual() == (GLA, f"{GLA}@off", (f"{GLA}@hash(1)", GLA))
    zoo_of(*locals_[:2], *own)
    assert usual() == (N, L, (NULL, L))
    zoo_of(("local", 0, 5), ("nlsa", 0, 8))
    assert usual() == (N, NULL, ()), "no control"
    zoo_of(("nlsa", 0, 8))
    assert usual() == (N, OFF, (f"{N}@hash(1)", N))
    with pytest.raises(InputError, match="dtfn train"):
        state.usual(2)


@pytest.mark.parametrize("shape", [(128, 128), (129, 40), (161, 256), (400, 300)])
def test_tiles_cover_the_grid(shape: tuple[int, int]) -> None:
    seen = np.zeros(shape, int)
    for w in state.tiles(shape):
        assert max(w.height, w.width) <= state.TILE
        seen[w.top : w.top + w.height, w.left : w.left + w.width] += 1
    assert seen.min() == 1


# ---------------------------------------------------------------- pixels and figures


def test_crops_outline_the_block(shown: Explorer) -> None:
    shown.click(0, 19)  # a corner: the window moves into the picture
    for crop in page.crops(shown.scene, shown.answer, Deeper(), 12):
        scale = 1 if crop.title == "LR" else 4
        assert crop.image.shape == (12 * scale, 12 * scale, 3)
        assert crop.box == (11 * scale, 0, scale, scale)
        factor = 8 // scale
        large = crop.zoomed(factor)
        assert large.shape == (96, 96, 3)
        row = int((11 + 0.5) * scale * factor)
        assert large[row, scale * factor].tolist() == [240, 228, 66], "the outline, in yellow"
        inside = large[row, scale * factor - 1]
        np.testing.assert_array_equal(inside, crop.image[int(11.5 * scale), scale - 1])


def test_maps_are_coloured_by_their_numbers(shown: Explorer) -> None:
    scene = shown.scene
    shown.click(6, 5)
    found = shown.answer
    assert page.attention_map(scene, found, 0.0) is scene.sample.lr
    grey = dataclasses.replace(scene.sample, lr=np.full_like(scene.sample.lr, 60))
    flat = dataclasses.replace(scene, sample=grey)
    strong = page.attention_map(flat, found, 1.0).astype(int).sum(2)
    top = found.copied[0]
    assert strong[top.row, top.column] == strong.max(), "magma ends in its lightest colour"
    harm = scene.harm
    assert harm is not None
    colours = page.harm_map(scene, 0.0).astype(int)
    worst = np.unravel_index(harm.argmax(), harm.shape)
    best = np.unravel_index(harm.argmin(), harm.shape)
    assert colours[worst][0] > colours[worst][2], "red harmed"
    assert colours[best][2] > colours[best][0], "blue helped"
    hidden = page.harm_map(scene, shown.threshold)[np.abs(harm) <= shown.threshold]
    assert len(np.unique(hidden, axis=0)) == 1, "within chance there is one colour"


def texts(figure: Any) -> list[Any]:
    return figure.findobj(lambda artist: hasattr(artist, "get_text") and artist.get_text())


def test_sheet_draws_everything(shown: Explorer) -> None:
    shown.click(6, 5)
    deeper = last(shown)
    figure = page.sheet(shown.scene, shown.answer, deeper, threshold=shown.threshold)
    said = " ".join(text.get_text() for text in texts(figure))
    for line in (
        *page.block_lines(shown.scene, shown.answer, shown.threshold),
        *page.attention_lines(shown.answer),
    ):
        assert line.value in said
    drawn = sum(len(ax.images) for ax in figure.get_axes())
    assert drawn == 2 + 9 + 10, "two maps, nine crops; query, mix and eight copies"


def test_html_escapes_what_a_reader_brings() -> None:
    assert "<script" not in page.message("<script>alert(1)</script>", is_error=True)


# ---------------------------------------------------------------- the notebook's session


def test_headless_session_saves_static_panels(runs: Path) -> None:
    assert explorer.is_headless()
    run = explorer.begin(GIVEN)
    run.show()
    run.finish()
    (folder,) = (runs / explorer.NOTEBOOK).iterdir()
    content = json.loads((folder / "manifest.json").read_text())
    assert content["status"] == "complete"
    assert [figure["name"] for figure in content["figures"]] == ["position_1"]
    assert "mini/astronaut/x4/lr" in content["inputs"]
    assert f"{N}.safetensors" in content["inputs"]
    assert content["verdicts"][0]["holds"] is True
    data = pd.read_csv(folder / "figures" / "position_1.csv")
    assert len(data) == 16 * 16
    assert data["attention"].sum() == pytest.approx(1)
    numbers = json.loads((folder / "figures" / "position_1.json").read_text())
    here = data[(data["row"] == 3) & (data["column"] == 4)].iloc[0]
    assert numbers["harm"] == pytest.approx(here["harm"])


def test_sent_view_is_a_run_that_brings_it_back(own: Explorer, runs: Path) -> None:
    own.click(6, 5)
    folder = explorer.send(own, GIVEN, strength=0.5, shown=0.0, side=16)
    for ending in ("svg", "png", "csv", "json"):
        assert (folder / "figures" / f"view.{ending}").stat().st_size
    content = json.loads((folder / "manifest.json").read_text())
    again = explorer.opened(content["parameters"])
    again.click(*reversed(content["parameters"]["positions"][0]))
    assert again.choice == own.choice
    np.testing.assert_array_equal(again.scene.harm, own.scene.harm)


def test_a_file_takes_the_place_of_the_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "mine.png"
    file.write_bytes(png(noise(48, 56, 3)))
    given = {**GIVEN, "tile": []}
    assert explorer.opened({**given, "image": str(file)}).scene.shape == (12, 14)
    monkeypatch.setenv(explorer.IMAGE, str(file))
    assert explorer.opened(given).choice.image == "mine.png"


# ---------------------------------------------------------------- the command


def served(monkeypatch: pytest.MonkeyPatch, **options: Any) -> tuple[list[str], dict[str, str]]:
    """Return the command and the variables that `dtfn explore` would become."""
    became: list[Any] = []
    monkeypatch.setattr(os, "execve", lambda *given: became.append(given))
    cli.explore(**options)
    ((program, arguments, variables),) = became
    assert program == arguments[0]
    return arguments, variables


def test_command_shows_a_page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DTFN_DATA", "mine")
    (tmp_path / "mine.png").write_bytes(png(noise(48, 48, 3)))
    arguments, variables = served(monkeypatch, image=Path("mine.png"), port=1, ip="0.0.0.0")
    assert arguments[1:3] == ["-m", "voila"]
    assert {"--port=1", "--Voila.ip=0.0.0.0", str(paths.NOTEBOOKS / "07_explore.ipynb")} <= set(
        arguments
    )
    assert any("VoilaKernelManager.cull_idle_timeout" in argument for argument in arguments)
    assert variables["DTFN_DATA"] == str(tmp_path / "mine")
    assert variables[explorer.IMAGE] == str(tmp_path / "mine.png")
    (tmp_path / "broken.png").write_bytes(b"broken")
    with pytest.raises(InputError, match="broken"):
        cli.explore(tmp_path / "broken.png")


def test_command_shows_the_notebook_in_jupyterlab(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(InputError, match="--allow-root"):
        cli.explore(lab=True)
    arguments, _ = served(monkeypatch, lab=True, allow_root=True, browser=False)
    assert arguments[1:3] == ["-m", "jupyterlab"]
    expected = {"--allow-root", "--no-browser", "--LabApp.default_url=/lab/tree/07_explore.ipynb"}
    assert expected <= set(arguments)
    monkeypatch.setattr(cli, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"voila.*pip install"):
        cli.explore()


# ---------------------------------------------------------------- the view, without a browser


@pytest.fixture
def view(runs: Path) -> Iterator[Any]:
    from dtfn.explorer.view import View

    made = View(lambda own, deeper, **how: explorer.send(own, GIVEN, deeper, **how))
    made.start(lambda tell: Explorer(SWITCHED, tell=tell))
    yield made
    made.wait()
    made.page.close_all()


def mouse(view: Any, x: float, y: float) -> None:
    """Click a place of the map of attention, in LR positions."""
    canvas, axes = view._attention.widget, view._attention._axes
    at = axes.transData.transform((x, y))
    event = MouseEvent("button_press_event", canvas, at[0], at[1], MouseButton.LEFT)
    canvas.callbacks.process("button_press_event", event)


def press(canvas: Any, key: str) -> None:
    canvas.callbacks.process("key_press_event", KeyEvent("key_press_event", canvas, key))


def test_view_shows_the_state(view: Any) -> None:
    mouse(view, 6, 5)
    assert view.state.position == (5, 6)
    assert "Row 5, column 6" in view._numbers.value
    assert "attention off" in view._crops.value
    view.wait()
    assert WITHOUT in view._crops.value
    assert "DI" in view._crops.value
    press(view._harm.widget, "right")
    press(view._harm.widget, "shift+down")
    assert view.state.position == (13, 7)
    press(view._harm.widget, "q")
    assert view.state.position == (13, 7)
    assert view._menus["network"].value == N
    assert view._menus["tile"].value == TILE
    assert view._menus["layer"].options[0][0].startswith("1 of 4")


def test_view_follows_its_menus_and_sliders(view: Any) -> None:
    before = view._under_attention.value
    view._menus["layer"].value = FIRST
    assert view.state.choice.layer == FIRST
    assert view._under_attention.value != before
    crops = view._crops.value
    view._zoom.value = 6
    assert view._crops.value != crops
    view._most.value = 3
    assert view._patches.value.count("<img") == 5
    share = view._under_harm.value
    view._quantile.value = 0.5
    assert view._under_harm.value != share
    view._strength.value = 0
    np.testing.assert_array_equal(view._attention._image.get_array(), view.state.scene.sample.lr)
    view._menus["control"].value = ()
    assert "chance is not known" in view._under_harm.value
    assert "choose a control" in view._numbers.value
    view._menus["baseline"].value = L
    assert view.state.choice.control == view._menus["control"].value == (NULL, L)
    assert "by chance" in view._under_harm.value
    for button, part in ((view._help, 3), (view._more, 2)):
        assert view.page.children[part].layout.display == "none"
        button.value = True
        assert view.page.children[part].layout.display == ""


def test_view_says_what_is_wrong_and_lives_on(view: Any) -> None:
    mouse(view, -40, 5)
    assert 'class="error"' in view._status.value
    assert "outside" in view._status.value
    mouse(view, 3, 4)
    assert "error" not in view._status.value
    view._menus["baseline"].value = N
    assert "two different networks" in view._status.value
    assert view._menus["baseline"].value == OFF, "the menu says what is shown"
    view._menus["network"].value = NULL
    assert "no attention layer" in view._under_attention.value
    assert view._menus["layer"].value == ""
    view._menus["network"].value = N
    assert "multiples of uniform" in view._under_attention.value


def test_view_takes_uploads(view: Any) -> None:
    def bring(data: bytes) -> None:
        file = {"name": "mine.png", "type": "image/png", "size": len(data)}
        view._upload.value = ({**file, "content": memoryview(data), "last_modified": NOW},)

    bring(b"broken")
    assert "mine.png" in view._status.value
    assert view.state.choice.dataset == "mini"
    view._truth.value = False
    bring(png(noise(20, 22)))
    assert "grey" in view._status.value
    assert view._menus["dataset"].value == FILES
    assert page.NO_TRUTH in view._numbers.value
    assert view._harm.widget.layout.display == "none"
    mouse(view, 2, 2)
    assert view.state.position == (2, 2)
    view._truth.value = True
    bring(png(noise(64, 64, 3)))
    assert view._harm.widget.layout.display == ""


def test_view_sends_to_the_report(view: Any, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    view._masked.value = True
    view._send.click()
    assert "Saved" in view._status.value
    assert 'download="view.png"' in view._status.value
    (folder,) = (runs / explorer.NOTEBOOK).iterdir()
    assert (folder / "figures" / "view.svg").exists()

    def full(*_: Any, **__: Any) -> Path:
        raise OSError("no space left")

    monkeypatch.setattr(view, "_save", full)
    view._send.click()
    assert "no space left" in view._status.value


def test_view_tells_its_progress(view: Any) -> None:
    view.tell(0.5, "running nlsa")
    assert 'value="0.5"' in view._status.value
    assert "running nlsa" in view._status.value
    view.tell(1, "")
    assert "progress" not in view._status.value
