"""The explorer: what it says is right, what it refuses it says, and it lives on."""

import datetime
import json
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import tiny_networks
import torch
from matplotlib.backend_bases import KeyEvent, MouseButton, MouseEvent
from matplotlib.text import Text
from skimage.metrics import peak_signal_noise_ratio
from tiny import pillow as png
from tiny import refused

from dtfn import capture, cli, datasets, evaluation, explorer, methods, models, paths, subpixel, zoo
from dtfn.explorer import page, state
from dtfn.explorer.state import FILES, WITHOUT, Choice, State, Window, around, look
from dtfn.explorer.view import View, message
from dtfn.images import degrade, imresize

# ipympl passes its canvas on to traitlets, which will refuse that one day.
pytestmark = pytest.mark.filterwarnings("ignore:Passing unrecognized arguments:DeprecationWarning")

FOLDER = tempfile.TemporaryDirectory()
N, L, NULL, DENSE = "nlsa-x4-s0", "local-x4-s1", "local-x4-s0", tiny_networks.dense(FOLDER.name)
OFF = f"{N}@off"
FIRST, LAST = "body.0.body.4", "body.3.body.4"
TILE = Window(8, 12, 20, 24)
CHOICE = Choice("mini", "brick", 4, N, L, (NULL, L), DENSE, tile=TILE)
SWITCHED = Choice("mini", "brick", 4, N, OFF, (f"{N}@hash(1)", N), tile=TILE)
GIVEN: dict[str, Any] = {"dataset": "mini", "image": "astronaut", "scale": 4, "network": N}
GIVEN |= {"baseline": OFF, "control": [], "third": "", "layer": "", "hash_seed": 0}
GIVEN |= {"quantile": 0.95, "tile": [40, 40, 16, 16], "positions": [[3, 4]]}


@pytest.fixture(scope="module")
def shown() -> State:
    return look(CHOICE)


@pytest.fixture(scope="module", params=[CHOICE, SWITCHED], ids=["local", "switched"])
def pair(request: pytest.FixtureRequest) -> State:
    return look(request.param)


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")
    return tmp_path / "runs" / explorer.NOTEBOOK


def noise(*shape: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


# --- what it says ---
def unrounded(method: str, lr: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return Y of a method's output in [0, 255] by torch alone."""
    name, change = methods.split_change(method)
    network = models.load(name).eval()
    x = torch.from_numpy(lr.copy()).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad(), network.attention(change != "off"):
        rgb = network(x)[0].clamp(0, 1).permute(1, 2, 0).double().numpy()
    return 16 + rgb @ np.array([65.481, 128.553, 24.966])


def test_block_is_that_of_the_pixels(pair: State) -> None:
    """Against scikit-image's PSNR, on blocks cut by hand from outputs that are not rounded."""
    sample = datasets.sample("mini", "brick", 4).crop(*TILE)
    y = {name: unrounded(name, sample.lr) for name in (N, OFF, L, NULL, DENSE)}
    hr = subpixel.luma(sample.hr)
    for row, column in [(0, 0), (7, 11), (19, 23)]:
        clicked = pair.looked((row, column))
        notes = " ".join(crop.note for crop in page.crops(clicked, 12))
        at = np.s_[4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        mse = {name: np.mean((values[at] - hr[at]) ** 2) for name, values in y.items()}
        for name in {*clicked.choice.methods, OFF} & y.keys():
            error = clicked.outputs[name].error[row, column]
            assert error == pytest.approx(mse[name], rel=1e-3)
            psnr = peak_signal_noise_ratio(hr[at], y[name][at], data_range=255)  # type: ignore[no-untyped-call]
            assert subpixel.psnr_of(error) == pytest.approx(psnr, abs=1e-2)
            assert name in clicked.choice.control or f"{error:.2f} MSE" in notes
        harm = mse[N] - mse[clicked.choice.baseline]
        assert clicked.harm[row, column] == pytest.approx(harm, abs=1e-2)


def test_attention_and_disagreement_are_of_the_live_layer_and_the_lost_detail(shown: State) -> None:
    network = models.load(N)
    with capture.record(network) as record:
        evaluation.upscale(network, shown.sample.lr)
    layer = network.get_submodule(LAST)
    expected = capture.attention_map(layer, record.features[LAST], (5, 6)).numpy()
    found = shown.looked((5, 6))
    assert found.choice.layer == LAST
    assert found.attention is not None
    np.testing.assert_allclose(found.attention, expected, atol=1e-7)
    heaviest = sorted(expected.ravel(), reverse=True)[:8]
    hr = shown.sample.hr
    lost = hr.astype(float) - imresize(degrade(hr, 4), 4)
    own = lost[20:24, 24:28]
    away = [np.hypot(row - 5, column - 6) for row, column in np.ndindex(expected.shape)]
    lost_blocks = lost.reshape(20, 4, 24, 4).swapaxes(1, 2)
    falser = np.sum((lost_blocks - own) ** 2, axis=(2, 3)) > np.sum(own**2)
    said = {"distance": expected.ravel() @ away, "on_self": expected[5, 6]}
    said["support"] = np.exp(-np.sum(expected * np.log(np.maximum(expected, 1e-30))))
    said["disagreeing"] = expected[falser].sum()
    assert found.spread == pytest.approx(said, rel=1e-4)
    for copy, weight in zip(found.copied.itertuples(), heaviest, strict=True):
        assert copy.weight == pytest.approx(weight, abs=1e-7)
        assert expected[copy.row, copy.column] == pytest.approx(weight, abs=1e-7)
        other = lost[4 * copy.row : 4 * copy.row + 4, 4 * copy.column : 4 * copy.column + 4]
        apart = np.sum((own - other) ** 2) / np.sum(own**2)
        assert copy.disagreement == pytest.approx(apart, rel=1e-4)


def test_deeper_answers_are_those_of_the_changed_network() -> None:
    clicked = look(replace(CHOICE, network=DENSE, control=(), third="")).looked((5, 6))
    *_, deeper = clicked.deeper()
    network, lr = models.load(DENSE), clicked.sample.lr
    ringed = set(24 * clicked.copied["row"] + clicked.copied["column"])
    gone = torch.tensor(sorted(ringed - {24 * 5 + 6}))
    with network.intervene(lambda logits, *_: logits.index_fill(1, gone, -torch.inf)):
        expected = evaluation.upscale(network, lr)
    np.testing.assert_array_equal(deeper.outputs[WITHOUT].image, expected)
    with network.intervene(lambda logits, _queries, _keys: 0 * logits):  # dense: all are keys
        expected = evaluation.upscale(network, lr)
    np.testing.assert_array_equal(deeper.outputs[f"{DENSE}@uniform"].image, expected)
    assert deeper.attribution is not None
    assert (deeper.crop, deeper.attribution.map.shape) == ((0, 0, 20, 24), (20, 24))
    kinds = ["attention on", "attention off", "uniform weights", WITHOUT]
    assert [crop.title for crop in page.crops(deeper, 12)] == ["LR", "HR", *kinds, L, "attribution"]
    again = deeper.move(0, 1)
    assert again.attribution is None
    assert WITHOUT not in again.outputs


def test_the_mix_is_the_mean_of_all_patches_by_weight() -> None:
    source = noise(12, 16, 3)
    attention = np.zeros((6, 8))
    attention[2, 3], attention[5, 0] = 0.75, 0.25
    blocks = source.reshape(6, 2, 8, 2, 3).swapaxes(1, 2)
    padded = np.pad(blocks, ((3, 3), (3, 3), *[(0, 0)] * 3), mode="edge")
    picture = padded.swapaxes(1, 2).reshape(24, 28, 3).astype(float)
    expected = 0.75 * picture[4:18, 6:20] + 0.25 * picture[10:24, 0:14]
    np.testing.assert_allclose(capture.mixed_patch(source, attention, 7), expected, atol=0.51)


def test_harm_is_judged_against_chance(pair: State) -> None:
    harm, chance, limit = pair.harm, pair.chance, pair.threshold
    assert limit == pytest.approx(np.quantile(np.abs(chance), 0.95))
    said = page.harm(pair, 1.0)
    assert f"{np.mean(harm[1:-1, 1:-1] > limit):.1%}" in said
    assert f"{np.mean(chance[1:-1, 1:-1] > limit):.1%}" in said
    beyond = (np.abs(harm) > limit) & (np.abs(harm) > np.abs(chance))
    for at in np.ndindex(*harm.shape):
        words = page.verdict(replace(pair, position=at))
        assert ("harmed here" in words) == (beyond[at] and harm[at] > 0)
        assert ("helped here" in words) == (beyond[at] and harm[at] < 0)
        if beyond[at]:
            assert ("Attention" in words) == (pair.choice.baseline == OFF), "it alone differs"
    assert beyond.any()


@pytest.mark.parametrize("network", [N, DENSE], ids=["hashed", "dense"])
def test_chance_of_attention_off_is_another_hash_seed_or_a_flip(network: str) -> None:
    off = f"{network}@off"
    two, *_ = state.controls(4, network, off, seed=3).values()
    chance, same = two
    assert same == network
    explored = look(Choice("mini", "brick", 4, network, off, two, hash_seed=3, tile=TILE))
    lr, loaded = explored.sample.lr, models.load(network, 3)
    if network == N:
        changed = evaluation.upscale(models.load(N, 4), lr)
    else:
        changed = evaluation.upscale(loaded, lr[::-1].copy())[::-1]
    np.testing.assert_array_equal(explored.outputs[chance].image, changed)
    np.testing.assert_array_equal(explored.outputs[same].image, evaluation.upscale(loaded, lr))
    difference = explored.outputs[chance].error - explored.outputs[same].error
    np.testing.assert_array_equal(explored.chance, difference)


@pytest.mark.parametrize("network", [N, DENSE], ids=["hashed", "dense"])
def test_words_say_where_attention_is_spread(network: str) -> None:
    explored = look(replace(CHOICE, network=network, third=""))
    assert explored.attention is not None
    seen = np.where(explored.attention > 0, 1 / np.count_nonzero(explored.attention), 0)
    flat = replace(explored, attention=seen, spread={"support": float(np.count_nonzero(seen))})
    said = page.attention(flat)
    assert "Spread evenly over" in said
    assert ("that get any" if network == N else "all positions") in said
    assert ("hence the band" in said) == (network == N)
    assert "Half of the weight is on" in page.attention(replace(flat, spread={"support": 3}))


# --- how fast ---
def test_networks_run_once_a_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    state.run.cache_clear()
    ran: list[str] = []
    unrounded = evaluation.unrounded

    def counted(network: models.Network, lr: Any) -> Any:
        ran.append(network.name)
        return unrounded(network, lr)

    monkeypatch.setattr(evaluation, "unrounded", counted)
    told: list[float] = []
    explored = look(CHOICE, tell=lambda share, _: told.append(share))
    assert sorted(ran) == ["mini-local", "mini-local", "mini-nla", "mini-nlsa", "mini-nlsa"]
    assert told == sorted(told)
    assert (told[0], told[-1]) == (0, 1)
    ran.clear()
    moved = explored.looked((1, 1)).choose(layer=FIRST).move(1, 0)
    assert ran == []
    list(moved.deeper())
    assert ran == ["mini-nlsa"] * 2
    ran.clear()
    seeded = explored.choose(hash_seed=5, third="")
    assert ran == ["mini-nlsa"] * 2, "a network without hashing does not depend on the seed"
    assert not np.array_equal(explored.attention, seeded.attention)  # type: ignore[arg-type]


def test_a_click_takes_less_than_300_ms() -> None:
    """In processor time, on 128 x 128 positions: all that the kernel does, both maps drawn."""
    view = View(lambda *_, **__: Path())
    view._deepen = lambda state: None  # type: ignore[method-assign]  # that follows a click
    view.start(lambda tell: look(replace(SWITCHED, tile=()), tell=tell))
    finish(view)
    taken = []
    for step in range(5):
        began = time.process_time()
        view._try("looked", (30, 20 + step))
        for canvas in (view.attention, view.harm):
            assert canvas.figure.stale, "the click changed it"
            canvas.draw()  # encodes and sends it, too
        taken.append(time.process_time() - began)
    assert sorted(taken)[2] < 0.3, taken


# --- bad input ---
def test_uploads(shown: State) -> None:
    refused(r"x\.png", shown.upload, "x.png", png(noise(64, 64, 3))[:200], truth=True)
    refused(r"32 x 32.*64 x 20", shown.upload, "s.png", png(noise(20, 64, 3)), truth=True)
    own = shown.upload("x.png", png(noise(48, 48, 3)), truth=True).looked((11, 11))
    assert (own.choice.image, own.choose(third="").position) == ("x.png", (11, 11))
    assert own.upload("x.png", png(noise(40, 40, 3)), truth=True).position == (5, 5)
    deep = noise(50, 47).astype(np.uint16) * 257
    for notes, image in (("white", noise(50, 47, 4)), ("grey, 16 bits", deep)):
        sample, said = state.brought("mine.png", png(image), True, 4)
        assert all(note in said for note in notes.split(", "))
        assert sample.lr.shape == (12, 11, 3)
        assert (sample.hr.ndim == 2) == ("grey" in notes)


def test_without_truth_everything_that_needs_it_says_so(shown: State, runs: Path) -> None:
    own = shown.upload("lr.png", png(noise(20, 24, 3)), truth=False)
    assert np.isnan(own.harm).all()
    titles = [crop.title for crop in page.crops(own, 12)]
    assert titles == ["LR", "attention on", "attention off", L, Path(DENSE).stem]
    assert page.NO_TRUTH in page.harm(own, 0.0)
    assert page.NO_TRUTH in page.numbers(own)
    figures = explorer.send(own, GIVEN) / "figures"
    assert (figures / "view.png").is_file()
    assert list(pd.read_csv(figures / "view.csv")) == ["row", "column", "attention"]


def test_without_attention_there_is_no_map(shown: State, monkeypatch: pytest.MonkeyPatch) -> None:
    own = shown.choose(network=NULL)
    assert own.attention is None
    assert np.isfinite(own.harm).all()
    assert [*page.copies(own), *own.deeper()] == []
    assert page.sheet(own)
    refused("with attention", own.choose, baseline=f"{NULL}@off")
    assert own.choose(network=N).attention is not None
    monkeypatch.setattr(state, "DENSE", 2600)
    own = shown.upload("wide.png", png(noise(20, 140, 3)), truth=False)
    assert own.shape == (20, 128)
    offered = state.tiles(own.whole.lr.shape)
    assert [str(w) for w in offered] == ["rows 0–19, columns 0–127", "rows 0–19, columns 12–139"]
    assert "140 x 20 LR positions" in own.notes
    np.testing.assert_array_equal(own.choose(tile=offered[1]).sample.lr, noise(20, 140, 3)[:, 12:])
    assert own.choose(third="", tile=()).shape == (20, 140)


def test_a_choice_that_cannot_be_and_a_click_outside(shown: State) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"network": L}, "two different networks"),
        ({"baseline": f"{N}@of"}, "did you mean 'off'"),
        ({"image": "bricks"}, "did you mean 'brick'"),
        ({"dataset": FILES, "image": "nothing.png"}, "nothing.png"),
        ({"scale": 7}, "7"),
        ({"tile": Window(0, 0, 200, 20)}, "tile"),
        ({"layer": "head"}, f"layer.*'head'.*{LAST}"),
    ]
    for changes, words in wrong:
        refused(words, shown.choose, **changes)
    for at in ((3, 24), (20, 3), (3, -1), (-1, 3)):
        refused(r"row 0 to 19 and column 0 to 23.*inside", shown.looked, at)
    assert shown.move(-99, 99).position == (0, 23), "steps stop at the border"


# --- what follows from a choice ---
def test_what_no_longer_fits_follows(shown: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "look", lambda choice, *_: choice)
    full = replace(CHOICE, layer=FIRST, hash_seed=3)

    def after(choice: Choice, **changes: Any) -> Any:
        return replace(shown, choice=choice).choose(**changes)

    assert after(full, image="astronaut").tile == ()
    assert after(full, control=()).control == ()
    assert after(full, baseline=NULL).control == (L, NULL)
    assert after(full, network=DENSE).layer == ""
    assert after(full, baseline=OFF).control == (f"{N}@hash(4)", N)
    assert after(SWITCHED, hash_seed=6).control == (f"{N}@hash(7)", N)
    assert after(SWITCHED, baseline=L).control == (NULL, L)
    assert after(SWITCHED, network=L).baseline == NULL
    assert after(Choice("Set5", "baby", 4, N, L), dataset="mini").image == "astronaut"


def test_the_usual_pair_is_chosen_from_what_the_zoo_has(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = zoo.registry()
    plain = [row for row in rows if row["scale"] == 4 and row["variant"] in ("nlsa", "gla")]
    most = max(plain, key=lambda row: row["gate"])["name"]
    assert tuple(state.usual(4).values()) == (most, f"{most}@off", (f"{most}@hash(1)", most))
    assert tuple(state.usual(4, L).values()) == (L, NULL, (L, NULL))
    assert state.usual(4, N, seed=3)["control"] == (f"{N}@hash(4)", N), "not that of the network"
    assert tuple(state.usual(4, DENSE).values()) == (DENSE, L, (NULL, L))
    monkeypatch.setattr(zoo, "registry", lambda: plain)
    refused("dtfn train", state.usual, 3)
    assert state.usual(4, DENSE)["baseline"] == f"{DENSE}@off", "nothing else is there"
    rows = [row | {"gate": 0.031, "chooses": row["name"] != N} for row in zoo.registry()]
    monkeypatch.setattr(zoo, "registry", lambda: rows)
    said = "does not pass the gate: equal weights for all positions cost it 0.03"
    assert f"{N} {said}" in look(SWITCHED).notes


@pytest.mark.parametrize("shape", [(128, 128), (129, 40), (161, 256), (400, 300)])
def test_tiles_cover_the_grid_and_windows_stay_in_it(shape: tuple[int, int]) -> None:
    seen = np.zeros(shape, int)
    for w in state.tiles(shape):
        assert max(w.height, w.width) <= state.TILE
        seen[w.top : w.top + w.height, w.left : w.left + w.width] += 1
    assert seen.min() == 1
    for middle, corner in {(0, 0): (0, 0), (9, 11): (5, 7), (17, 21): (10, 14)}.items():
        assert around((18, 22), middle, 8) == (*corner, 8, 8)
        assert around((18, 22), middle, 90) == (0, 0, 18, 22)


# --- pixels and figures ---
def test_crops_outline_the_block(shown: State) -> None:
    corner = shown.looked((19, 0))  # the window moves into the picture
    for crop in page.crops(corner, 12):
        scale = 1 if crop.title == "LR" else 4
        assert crop.image.shape == (12 * scale, 12 * scale, 3)
        assert crop.box == (11 * scale, 0, scale, scale)
        large = crop.zoomed(8 // scale)
        assert large.shape == (96, 96, 3)
        assert large[92, 8].tolist() == [240, 228, 66], "the outline, in yellow"
        np.testing.assert_array_equal(large[92, 7], crop.image[23 * scale // 2, scale - 1])
    clicked = shown.looked((5, 6))
    assert page.attention_map(clicked, 0.0) is clicked.sample.lr
    grey = replace(clicked.sample, lr=np.full_like(clicked.sample.lr, 60))
    strong = page.attention_map(replace(clicked, sample=grey), 1.0).astype(int).sum(2)
    top = clicked.copied.iloc[0].astype(int)
    assert strong[top.row, top.column] == strong.max(), "magma ends in its lightest colour"
    harm, colours = clicked.harm, page.harm_map(clicked, 0.0)[0].astype(int)
    worst, best = (np.unravel_index(at, harm.shape) for at in (harm.argmax(), harm.argmin()))
    assert colours[worst][0] > colours[worst][2], "red harmed"
    assert colours[best][2] > colours[best][0], "blue helped"
    hidden = page.harm_map(clicked, shown.threshold)[0][np.abs(harm) <= shown.threshold]
    assert len(np.unique(hidden, axis=0)) == 1, "within chance there is one colour"
    *_, deeper = shown.looked((5, 6)).deeper()
    figure: Any = page.sheet(deeper)
    words = " ".join(text.get_text() for text in figure.findobj(Text))
    block, spread = page.lines(deeper)
    for _, value, _ in block + spread:
        assert value in words
    drawn = sum(len(ax.images) for ax in figure.get_axes())
    assert drawn == 2 + 9 + 10, "two maps, nine crops; query, mix and eight copies"


# --- the notebook's session ---
def test_headless_session_saves_static_panels(runs: Path) -> None:
    run = explorer.begin(GIVEN)
    run.show()
    run.finish()
    (folder,) = runs.iterdir()
    content = json.loads((folder / "manifest.json").read_text())
    assert [figure["name"] for figure in content["figures"]] == ["position_1"]
    assert {"mini/astronaut/x4/lr", f"{N}.safetensors"} <= content["inputs"].keys()
    assert content["verdicts"][0]["holds"] is True
    data = pd.read_csv(folder / "figures" / "position_1.csv").set_index(["row", "column"])
    assert len(data) == 16 * 16
    assert data["attention"].sum() == pytest.approx(1)
    numbers = json.loads((folder / "figures" / "position_1.json").read_text())
    assert numbers["harm"] == pytest.approx(data.loc[(3, 4), "harm"])


def test_positions_are_chosen_in_the_picture_or_refused(runs: Path) -> None:
    explorer.begin(GIVEN | {"positions": []}).show()
    made = [json.loads(file.read_text()) for file in runs.glob("*/figures/*.json")]
    assert {(one["row"], one["column"]) for one in made} == {(2, 4), (8, 11)}
    for at in ([16, 3], [3, -1], [3]):
        run = explorer.begin(GIVEN | {"positions": [[3, 4], at]})
        refused(r"position: expected .* row 0 to 15 and col", run.show)


# --- the command ---
def test_command_shows_page_or_jupyterlab(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    became: list[Any] = []
    monkeypatch.setattr(os, "execve", lambda *given: became.append(given[1:]))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DTFN_DATA", "mine")
    (tmp_path / "mine.png").write_bytes(png(noise(48, 56, 3)))
    cli.explore(image=Path("mine.png"), port=1, ip="0.0.0.0")
    cli.explore(lab=True, allow_root=True, browser=False)
    (voila, variables), (lab, _) = became
    notebook = str(paths.NOTEBOOKS / f"{explorer.NOTEBOOK}.ipynb")
    assert {"voila", "--port=1", "--Voila.ip=0.0.0.0", notebook} <= set(voila)
    address = "--LabApp.default_url=/lab/tree/07_explore.ipynb"
    assert {"jupyterlab", "--allow-root", "--no-browser", address} <= set(lab)
    assert variables["DTFN_DATA"] == str(tmp_path / "mine")
    monkeypatch.setattr(os, "environ", variables)
    assert explorer.opened({**GIVEN, "tile": []}).shape == (12, 14)
    (tmp_path / "broken.png").write_bytes(b"broken")
    refused("broken", cli.explore, tmp_path / "broken.png")
    monkeypatch.setattr(cli, "find_spec", lambda name: None)
    refused(r"voila.*pip install", cli.explore)


# --- the view, without a browser ---
def finish(view: Any) -> None:
    """Wait for what the worker computes after a click."""
    view._worker.submit(lambda: None).result()


@pytest.fixture
def view(runs: Path) -> Iterator[Any]:
    made = View(lambda own, **how: explorer.send(own, GIVEN, **how))
    made.start(lambda tell: look(SWITCHED, tell=tell))
    yield made
    finish(made)
    made.page.close_all()


def text(view: Any, name: str) -> str:
    return str(view.texts[name].value)


def mouse(view: Any, x: float, y: float) -> None:
    """Click a place of the map of attention, in LR positions."""
    canvas, axes = view.attention, view.attention.axes
    at = axes.transData.transform((x, y))
    event = MouseEvent("button_press_event", canvas, at[0], at[1], MouseButton.LEFT)
    canvas.callbacks.process("button_press_event", event)


def test_view_shows_the_state(view: Any) -> None:
    mouse(view, 6.3, 4.6)
    assert "Row 5, column 6" in text(view, "numbers")
    assert "attention off" in text(view, "crops")
    finish(view)
    assert WITHOUT in text(view, "crops")
    assert "DI" in text(view, "crops")
    for key in ("right", "shift+down", "q"):
        event = KeyEvent("key_press_event", view.harm, key)
        view.harm.callbacks.process("key_press_event", event)
    mouse(view, -40, 5)
    assert view.state.position == (13, 7)
    assert (view.controls["network"].value, view.controls["tile"].value) == (N, TILE)
    assert view.controls["layer"].options[0][0].startswith("1 of 4")
    view.controls["baseline"].value = N
    assert 'class="error"' in text(view, "status")
    assert "two different networks" in text(view, "status")
    assert view.controls["baseline"].value == OFF, "the menu says what is shown"
    assert "<script" not in message("<script>alert(1)</script>", is_error=True)
    mouse(view, 3, 4)
    assert "error" not in text(view, "status")
    view.controls["network"].value = NULL
    assert "no attention layer" in text(view, "looked")
    assert view.controls["layer"].value == ""
    view.controls["network"].value = N
    assert "multiples of uniform" in text(view, "looked")


def test_view_follows_its_menus_and_sliders(view: Any) -> None:
    def sets(name: str, value: Any, part: str) -> str:
        before = text(view, part)
        view.controls[name].value = value
        assert text(view, part) != before
        return text(view, part)

    sets("layer", FIRST, "looked")
    assert view.state.choice.layer == FIRST
    sets("zoom", 6, "crops")
    assert sets("ringed", 3, "patches").count("<img") == 5
    sets("quantile", 0.5, "share")
    view.controls["overlay"].value = 0
    np.testing.assert_array_equal(view.attention.picture.get_array(), view.state.sample.lr)
    assert "chance is not known" in sets("control", (), "share")
    assert "choose a control" in text(view, "numbers")
    assert "by chance" in sets("baseline", L, "share")
    assert view.state.choice.control == view.controls["control"].value == (NULL, L)
    for button, part in ((view.help, 3), (view.more, 2)):
        assert view.page.children[part].layout.display == "none"
        button.value = True
        assert view.page.children[part].layout.display == ""


def test_view_takes_uploads(view: Any) -> None:
    def bring(data: bytes) -> None:
        file = {"name": "mine.png", "type": "image/png", "size": len(data)}
        file |= {"content": memoryview(data), "last_modified": datetime.datetime.now(datetime.UTC)}
        view.upload.value = (file,)

    bring(b"broken")
    assert "mine.png" in text(view, "status")
    assert view.state.choice.dataset == "mini"
    for truth, display in ((False, "none"), (True, "")):
        view.controls["truth"].value = truth
        bring(png(noise(64, 64)))
        assert "grey" in text(view, "status")
        assert view.controls["dataset"].value == FILES
        assert view.harm.layout.display == display


def test_view_sends_a_run(view: Any, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mouse(view, 6, 5)
    view.masked.value = True
    view.send.click()
    assert "Saved" in text(view, "status")
    (folder,) = runs.iterdir()
    names = {file.name for file in (folder / "figures").iterdir()}
    assert names == {f"view.{ending}" for ending in ("svg", "png", "csv", "json")}
    parameters = json.loads((folder / "manifest.json").read_text())["parameters"]
    assert parameters["positions"] == [[5, 6]]
    again = explorer.opened(parameters)
    assert again.choice == view.state.choice
    np.testing.assert_array_equal(again.harm, view.state.harm)

    monkeypatch.setattr(view, "_save", mock.Mock(side_effect=OSError("no space left")))
    view.send.click()
    assert "no space left" in text(view, "status")
