"""The explorer: what it says is right, what it refuses it says, and it lives on."""

from __future__ import annotations

import datetime
import importlib.util
import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.backend_bases import KeyEvent, MouseButton, MouseEvent
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio

from dtfn import capture, datasets, evaluation, images, models, paths, zoo
from dtfn.cli import explore as cli_explore
from dtfn.errors import InputError
from dtfn.explorer import networks, numbers, page, panels, pictures, pixels, session
from dtfn.explorer.choice import FILES, Choice, changed
from dtfn.explorer.pictures import Window
from dtfn.explorer.state import Explorer

# ipympl passes its canvas on to traitlets, which will refuse that one day.
pytestmark = pytest.mark.filterwarnings("ignore:Passing unrecognized arguments:DeprecationWarning")

N, DENSE, L, NULL = "dtfn-x4-s0", "nla-x4-s0", "local-x4-s0", "local-x4-s1"
TEAM = networks.Team(N, L, NULL, DENSE)
TILE = Window(8, 12, 20, 24)
CHOICE = Choice("mini", "brick", 4, TEAM, window=TILE)
GIVEN: dict[str, Any] = {
    "dataset": "mini", "image": "astronaut", "scale": 4, "network": N, "twin": L, "null": NULL,
    "beside": DENSE, "layer": "", "hash_seed": 0, "quantile": 0.5, "tile": [40, 40, 16, 16],
    "positions": [[3, 4]],
}  # fmt: skip


@pytest.fixture(scope="module")
def shown() -> Explorer:
    """A state that no test changes but by looking elsewhere."""
    return Explorer(CHOICE)


@pytest.fixture
def state() -> Explorer:
    return Explorer(CHOICE)


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")
    return tmp_path / "runs"


NOW = datetime.datetime.now(datetime.UTC)


def png(image: np.ndarray[Any, Any]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


def noise(*shape: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


# ---------------------------------------------------------------- what it says


def test_block_is_that_of_the_pixels(shown: Explorer) -> None:
    """Against scikit-image's PSNR and a search over all mixtures, on blocks cut by hand."""
    sample = datasets.sample("mini", "brick", 4)
    lr = sample.lr[8:28, 12:36]
    hr = sample.hr[32:112, 48:144].astype(float)  # a grey file: Y is the grey value
    weights = np.array([65.481, 128.553, 24.966]) / 219  # Y of a grey file is not squeezed
    made = {name: evaluation.upscale(models.load(name), lr) @ weights for name in TEAM.names}
    for row, column in [(0, 0), (7, 11), (19, 23)]:
        assert shown.click(column + 0.3, row - 0.4)
        found = shown.answer
        assert (found.row, found.column) == (row, column)
        at = np.s_[4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        n, l, y = made[N][at], made[L][at], hr[at]
        errors = {"with": n, "without": l, "beside": made[DENSE][at]}
        for role, block in errors.items():
            mse = np.mean((block - y) ** 2)
            assert found.block[f"error_{role}"] == pytest.approx(mse, abs=1e-9)
            expected = peak_signal_noise_ratio(y, block, data_range=255)  # type: ignore[no-untyped-call]
            assert found.block[f"psnr_{role}"] == pytest.approx(expected)
        harm = np.mean((n - y) ** 2) - np.mean((l - y) ** 2)
        assert found.block["harm"] == pytest.approx(harm, abs=1e-9)
        luck = np.mean((made[NULL][at] - y) ** 2) - np.mean((l - y) ** 2)
        assert found.block["null_harm"] == pytest.approx(luck, abs=1e-9)
        share = np.linspace(0, 1, 10001)[:, None, None]
        mixed = np.mean((share * n + (1 - share) * l - y) ** 2, axis=(1, 2))
        best = 10 * np.log10(255**2 / mixed.min())
        assert found.block["fusion"] == pytest.approx(best, abs=1e-4)
        assert found.block["fusion_weight"] == pytest.approx(share[mixed.argmin(), 0, 0], abs=1e-3)
        assert found.block["selection"] == pytest.approx(
            max(found.block["psnr_with"], found.block["psnr_without"])
        )


def test_attention_is_that_of_the_live_layer(shown: Explorer) -> None:
    network = models.load(N)
    with capture.record(network) as record:
        evaluation.upscale(network, shown.scene.subject.lr)
    layer = network.get_submodule("body.3.body.4")
    expected = capture.attention_map(layer, record.features["body.3.body.4"], (5, 6)).numpy()
    assert shown.click(6, 5)
    found = shown.answer
    assert found.layer == "body.3.body.4"
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
    hr = shown.scene.subject.hr
    assert hr is not None
    lost = hr.astype(float) - images.imresize(images.degrade(hr, 4), 4)
    assert shown.click(6, 5)
    own = lost[20:24, 24:28]
    for copy in shown.answer.copied:
        r, c = 4 * copy.row, 4 * copy.column
        other = lost[r : r + 4, c : c + 4]
        expected = np.sum((own - other) ** 2) / np.sum(own**2)
        assert copy.disagreement == pytest.approx(expected, rel=1e-4)


def test_harm_of_the_picture_beside_luck(shown: Explorer) -> None:
    harm, luck = shown.scene.harm, shown.scene.null_harm
    assert harm is not None
    assert luck is not None
    tau = shown.threshold
    assert tau == pytest.approx(np.median(np.abs(luck)))
    ours, chance = pixels.beyond(shown.scene, tau)
    assert ours == pytest.approx(np.mean(harm[1:-1, 1:-1] > tau))
    assert chance == pytest.approx(np.mean(luck[1:-1, 1:-1] > tau))
    assert f"{ours:.1%}" in numbers.share(shown.scene, tau)


# ---------------------------------------------------------------- how fast


def test_networks_run_once_a_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    upscale = evaluation.upscale

    def counted(network: models.Network, lr: Any) -> Any:
        ran.append(network.name)
        return upscale(network, lr)

    monkeypatch.setattr(evaluation, "upscale", counted)
    told: list[tuple[float, str]] = []
    state = Explorer(CHOICE, tell=lambda share, what: told.append((share, what)))
    assert sorted(ran) == ["mini-dtfn", "mini-local", "mini-local", "mini-nla"]
    shares = [share for share, _ in told]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0, 1)
    assert len(set(shares)) > 12, "each network tells several times"
    ran.clear()
    assert state.click(1, 1)
    assert state.choose(layer="body.0.body.4")
    assert state.move(1, 0)
    assert state.answer.attention is not None
    assert ran == []
    assert state.choose(with_=DENSE, beside=N)
    assert ran == [], "only the roles changed"
    assert state.choose(with_=N, beside=None)
    before = state.answer.attention
    assert state.choose(with_=N, beside=None, hash_seed=5)
    assert ran == ["mini-dtfn"], "a network without hashing does not depend on the seed"
    after = state.answer.attention
    assert before is not None
    assert after is not None
    assert not np.array_equal(before, after)


def test_a_click_takes_less_than_300_ms() -> None:
    """In processor time, on 128 x 128 positions: all that the kernel does, both maps drawn."""
    from dtfn.explorer.view import View

    view = View(lambda *_, **__: Path())
    view.start(lambda tell: Explorer(Choice("mini", "brick", 4, networks.Team(N, L, NULL, None)),
                                     tell=tell))  # fmt: skip
    assert view.state.scene.subject.shape == (128, 128)
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


def refused(state: Explorer, act: Any, *words: str) -> None:
    """Check that an event is refused with words, and that all is as it was, and lives on."""
    before = (state.choice, state.position, state.scene, dict(state.files))
    assert act() is False
    assert state.message.is_error
    for word in words:
        assert word in state.message.text
    assert (state.choice, state.position, state.scene, state.files) == before
    assert state.move(0, 1)
    assert not state.message.is_error
    assert state.answer.attention is not None


@pytest.mark.parametrize(("x", "y"), [(None, None), (24, 3), (3, 20), (-0.6, 3), (3, -0.6)])
def test_click_outside(state: Explorer, x: float | None, y: float | None) -> None:
    words = ("20 x 24", "outside") if x is None else ("row 0 to 19", "column 0 to 23")
    refused(state, lambda: state.click(x, y), *words, "inside")


def test_steps_stop_at_the_border(state: Explorer) -> None:
    assert state.move(-99, 99)
    assert state.position == (0, 23)


def test_broken_uploads(state: Explorer) -> None:
    whole = png(noise(64, 64, 3))
    for data in (b"", b"not a picture", whole[: len(whole) // 2]):
        refused(state, lambda d=data: state.upload("x.png", d, truth=True), "x.png", "whole")
    small = png(noise(20, 64, 3))
    refused(state, lambda: state.upload("s.png", small, truth=True), "32 x 32", "20 x 64")
    assert FILES not in state.datasets


def test_a_broken_upload_leaves_the_one_of_its_name(state: Explorer) -> None:
    assert state.upload("x.png", png(noise(48, 48, 3)), truth=True)
    kept = state.files["x.png"]
    assert state.upload("x.png", b"broken", truth=True) is False
    assert state.files["x.png"] is kept
    assert state.choice.image == "x.png"


@pytest.mark.parametrize(
    ("image", "notes"),
    [
        (noise(50, 47), ["grey"]),
        (noise(50, 47, 4), ["white"]),
        (noise(50, 47, 2), ["grey", "white"]),
        (noise(50, 47).astype(np.uint16) * 257, ["grey", "16 bits"]),
    ],
)
def test_grey_alpha_and_deep_uploads(
    state: Explorer, image: np.ndarray[Any, Any], notes: list[str]
) -> None:
    assert state.upload("mine.png", png(image), truth=True), state.message
    for note in notes:
        assert note in state.message.text
    subject = state.scene.subject
    assert subject.shape == (12, 11)
    assert subject.hr is not None
    assert (subject.hr.ndim == 2) == ("grey" in notes)
    assert state.answer.block["error_with"] > 0
    assert (state.choice.dataset, state.images) == (FILES, ["mine.png"])


def test_without_truth_everything_that_needs_it_says_so(state: Explorer) -> None:
    assert state.upload("lr.png", png(noise(20, 24, 3)), truth=False)
    scene, found = state.scene, state.answer
    assert scene.subject.shape == (20, 24)
    assert found.block == {}
    assert scene.harm is None
    assert "disagreeing" not in found.spread
    titles = [crop.title for crop in pixels.crops(scene, state.position, 12)]
    assert titles == ["LR", f"L: {L}", f"N: {N}", DENSE]
    for text in (page.harm(scene, 0.0), page.figures(scene, found, 0.0)):
        assert numbers.NO_TRUTH in text
    said = " ".join(t.get_text() for t in texts(panels.sheet(scene, found)))
    assert "needs the truth" in said


def test_too_large_is_shown_by_a_tile(state: Explorer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "DENSE", 2600)
    assert state.upload("wide.png", png(noise(20, 140, 3)), truth=False)
    assert state.scene.subject.shape == (20, 128)
    assert [str(w) for w in state.windows] == [
        "rows 0–19, columns 0–127", "rows 0–19, columns 12–139",
    ]  # fmt: skip
    for word in ("2600 LR positions", DENSE, "50 x 50", "20 x 140", "128 x 128", "tile 1 of 2"):
        assert word in state.message.text
    assert not state.message.is_error
    assert state.choose(window=state.windows[1])
    np.testing.assert_array_equal(state.scene.subject.lr, noise(20, 140, 3)[:, 12:])
    assert state.choose(beside=None, window=None), "the others take the whole"
    assert state.scene.subject.shape == (20, 140)


def test_a_layer_without_attention(state: Explorer) -> None:
    refused(state, lambda: state.choose(layer="head"), "layer", "'head'", "body.3.body.4")


def test_a_network_without_attention_has_no_map(state: Explorer) -> None:
    assert state.choose(with_=NULL, null=None)
    found = state.answer
    assert found.attention is None
    assert NULL in found.missing
    assert found.block["harm"] != 0
    assert found.missing in page.attention(state.scene, found)
    assert found.missing in page.patches([], found.missing)
    assert panels.sheet(state.scene, found)
    assert state.choose(with_=N)
    assert state.answer.attention is not None


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"with_": L}, "two different networks"),
        ({"with_": "dtfn-x4-s77"}, "did you mean"),
        ({"image": "bricks"}, "did you mean 'brick'"),
        ({"dataset": "Set6"}, "Set6"),
        ({"dataset": FILES, "image": "nothing.png"}, "nothing.png"),
        ({"scale": 7}, "7"),
        ({"window": Window(0, 0, 200, 20)}, "tile"),
        ({"windw": None}, "did you mean 'window'"),
    ],
)
def test_a_choice_that_cannot_be(state: Explorer, changes: dict[str, Any], word: str) -> None:
    refused(state, lambda: state.choose(**changes), word)


def test_a_position_outside_at_the_start() -> None:
    with pytest.raises(InputError, match="row 0 to 19"):
        Explorer(CHOICE, (20, 0))


# ---------------------------------------------------------------- what follows from a choice


def test_what_no_longer_fits_follows() -> None:
    full = Choice("mini", "brick", 4, TEAM, "body.0.body.4", 3, TILE)
    names = {"mini": ["astronaut", "brick"]}.__getitem__
    assert changed(full, {"image": "astronaut"}, names).window is None
    assert changed(full, {"null": None}, names).team.null is None
    assert changed(full, {"hash_seed": 4}, names) == Choice(
        "mini", "brick", 4, TEAM, "body.0.body.4", 4, TILE
    )
    assert changed(full, {"with_": DENSE}, names).layer is None
    other = Choice("Set5", "baby", 4, TEAM)
    assert changed(other, {"dataset": "mini"}, names).image == "astronaut"


def test_team_is_a_pair_and_the_null_differs_from_it_in_attention_alone() -> None:
    team = networks.team(4)
    rows = {name: zoo.entry(name) for name in team.names}
    assert not networks.is_local(team.with_)
    assert rows[team.without]["variant"] == "local"
    assert rows[team.without]["seed"] != rows[team.with_]["seed"]
    assert team.null is not None
    assert rows[team.null]["variant"] == "local"
    assert rows[team.null]["seed"] == rows[team.with_]["seed"]
    assert team.beside not in (team.with_, None)
    assert networks.team(4, DENSE).with_ == DENSE
    with pytest.raises(InputError, match="dtfn train"):
        networks.team(7)


@pytest.mark.parametrize("shape", [(128, 128), (129, 40), (161, 256), (400, 300)])
def test_tiles_cover_the_grid(shape: tuple[int, int]) -> None:
    seen = np.zeros(shape, int)
    for w in pictures.tiles(shape):
        assert max(w.height, w.width) <= pictures.TILE
        seen[w.top : w.top + w.height, w.left : w.left + w.width] += 1
    assert seen.min() == 1


def test_a_tile_of_a_picture_is_a_cut_of_lr_and_of_hr() -> None:
    whole = pictures.of_benchmark("mini", "coffee", 3)
    tile = pictures.cut(whole, Window(5, 7, 9, 11))
    assert whole.hr is not None
    assert tile.hr is not None
    np.testing.assert_array_equal(tile.lr, whole.lr[5:14, 7:18])
    np.testing.assert_array_equal(tile.hr, whole.hr[15:42, 21:54])


# ---------------------------------------------------------------- pixels and figures


def test_crops_outline_the_block(shown: Explorer) -> None:
    assert shown.click(0, 19)  # a corner: the window moves into the picture
    for crop in pixels.crops(shown.scene, shown.position, 12):
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
    assert shown.click(6, 5)
    found = shown.answer
    assert found.attention is not None
    assert pixels.attention_map(scene, found, 0.0) is scene.subject.lr
    strong = pixels.attention_map(scene, found, 1.0).astype(int).sum(2)
    top = found.copied[0]
    assert strong[top.row, top.column] == strong.max(), "magma ends in its lightest colour"
    harm = scene.harm
    assert harm is not None
    colours = pixels.harm_map(scene, 0.0).astype(int)
    worst = np.unravel_index(harm.argmax(), harm.shape)
    best = np.unravel_index(harm.argmin(), harm.shape)
    assert colours[worst][0] > colours[worst][2], "red harmed"
    assert colours[best][2] > colours[best][0], "blue helped"
    hidden = pixels.harm_map(scene, shown.threshold)[np.abs(harm) <= shown.threshold]
    assert len(np.unique(hidden, axis=0)) == 1, "within luck there is one colour"
    low, high = pixels.attention_range(found)
    assert low <= 1 <= high


def texts(figure: Any) -> list[Any]:
    return figure.findobj(lambda artist: hasattr(artist, "get_text") and artist.get_text())


def test_sheet_draws_everything(shown: Explorer) -> None:
    assert shown.click(6, 5)
    figure = panels.sheet(shown.scene, shown.answer, threshold=shown.threshold)
    said = " ".join(text.get_text() for text in texts(figure))
    for line in (*numbers.block(shown.scene, shown.answer), *numbers.spread(shown.answer)):
        assert line.value in said
    drawn = sum(len(ax.images) for ax in figure.get_axes())
    assert drawn == 2 + 5 + 9, "two maps, five crops, the query and eight copies"


def test_html_escapes_what_a_reader_brings() -> None:
    from dtfn.explorer.state import Message

    assert "<script" not in page.message(Message("<script>alert(1)</script>", is_error=True))


# ---------------------------------------------------------------- the notebook's session


def test_headless_session_saves_static_panels(runs: Path) -> None:
    assert session.is_headless()
    run = session.begin(GIVEN)
    run.show()
    run.finish()
    (folder,) = (runs / session.NOTEBOOK).iterdir()
    content = json.loads((folder / "manifest.json").read_text())
    assert content["status"] == "complete"
    assert [figure["name"] for figure in content["figures"]] == ["position_1"]
    assert "mini/astronaut/x4/lr" in content["inputs"]
    assert f"{N}.safetensors" in content["inputs"]
    assert content["verdicts"][0]["holds"] is True
    data = pd.read_csv(folder / "figures" / "position_1.csv")
    assert len(data) == 16 * 16
    assert data["attention"].sum() == pytest.approx(1)
    numbers_ = json.loads((folder / "figures" / "position_1.json").read_text())
    here = data[(data["row"] == 3) & (data["column"] == 4)].iloc[0]
    assert numbers_["block"]["harm"] == pytest.approx(here["harm"])


def test_sent_view_is_a_run_that_brings_it_back(state: Explorer, runs: Path) -> None:
    assert state.click(6, 5)
    folder = session.send(state, GIVEN, strength=0.5, threshold=0.0, side=16)
    for ending in ("svg", "png", "csv", "json"):
        assert (folder / "figures" / f"view.{ending}").stat().st_size
    content = json.loads((folder / "manifest.json").read_text())
    again = session.opened(content["parameters"])
    assert again.click(*reversed(content["parameters"]["positions"][0]))
    assert again.choice == state.choice
    assert again.answer.block == state.answer.block


def test_a_file_takes_the_place_of_the_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "mine.png"
    file.write_bytes(png(noise(48, 56, 3)))
    given = {**GIVEN, "tile": []}
    assert session.opened({**given, "image": str(file)}).scene.subject.shape == (12, 14)
    monkeypatch.setenv(session.IMAGE, str(file))
    assert session.opened(given).choice.image == "mine.png"


def test_command_opens_the_notebook(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    notebook = Path("07_explore.ipynb")
    lab = cli_explore.command(notebook, voila=False, dark=False, port=1, browser=False)
    assert lab[1:4] == ["-m", "jupyterlab", "07_explore.ipynb"]
    page_ = cli_explore.command(notebook, voila=True, dark=True, port=1, browser=True)
    assert {"voila", "--theme=dark", "--port=1"} <= set(page_)
    (tmp_path / "broken.png").write_bytes(b"broken")
    with pytest.raises(InputError, match="broken"):
        cli_explore.explore(tmp_path / "broken.png")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"voila.*pip install"):
        cli_explore.explore(voila=True)


# ---------------------------------------------------------------- the view, without a browser


@pytest.fixture
def view(runs: Path) -> Iterator[Any]:
    from dtfn.explorer.view import View

    made = View(lambda state, **how: session.send(state, GIVEN, **how))
    made.start(lambda tell: Explorer(CHOICE, tell=tell))
    yield made
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
    press(view._harm.widget, "right")
    press(view._harm.widget, "shift+down")
    assert view.state.position == (13, 7)
    press(view._harm.widget, "q")
    assert view.state.position == (13, 7)
    assert view._menus["with_"].value == N
    assert view._menus["window"].value == TILE
    assert view._menus["layer"].options[0][0].startswith("1 of 4")


def test_view_follows_its_menus_and_sliders(view: Any) -> None:
    before = view._under_attention.value
    view._menus["layer"].value = "body.0.body.4"
    assert view.state.choice.layer == "body.0.body.4"
    assert view._under_attention.value != before
    crops = view._crops.value
    view._zoom.value = 6
    assert view._crops.value != crops
    view._most.value = 3
    assert view._patches.value.count("<img") == 4
    share = view._share.value
    view._quantile.value = 0.9
    assert view._share.value != share
    lit = view._attention._image.get_array().copy()
    view._overlay.value = False
    np.testing.assert_array_equal(view._attention._image.get_array(), view.state.scene.subject.lr)
    assert not np.array_equal(lit, view._attention._image.get_array())
    view._menus["null"].value = ""
    assert "no null pair" in view._share.value


def test_view_says_what_is_wrong_and_lives_on(view: Any) -> None:
    mouse(view, -40, 5)
    assert 'class="error"' in view._status.value
    assert "outside" in view._status.value
    mouse(view, 3, 4)
    assert "error" not in view._status.value
    view._menus["with_"].value = L
    assert "two different networks" in view._status.value
    assert view._menus["with_"].value == N, "the menu says what is shown"
    view._menus["with_"].value = NULL
    assert "no attention layer" in view._under_attention.value
    assert "no attention layer" in view._patches.value
    assert view._menus["layer"].value == ""
    view._menus["with_"].value = N
    assert "multiples of uniform" in view._under_attention.value


def test_view_takes_uploads(view: Any) -> None:
    def bring(data: bytes) -> None:
        file = {"name": "mine.png", "type": "image/png", "size": len(data)}
        view._upload.value = ({**file, "content": memoryview(data), "last_modified": NOW},)

    bring(b"broken")
    assert "mine.png" in view._status.value
    assert view.state.choice == CHOICE or view.state.choice.dataset == "mini"
    view._truth.value = False
    bring(png(noise(20, 22)))
    assert "grey" in view._status.value
    assert view._menus["dataset"].value == FILES
    assert numbers.NO_TRUTH in view._numbers.value
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
    (folder,) = (runs / session.NOTEBOOK).iterdir()
    assert (folder / "figures" / "view.svg").exists()

    def full(*_: Any, **__: Any) -> Path:
        raise OSError("no space left")

    monkeypatch.setattr(view, "_save", full)
    view._send.click()
    assert "no space left" in view._status.value


def test_view_tells_its_progress(view: Any) -> None:
    assert view._bar.layout.visibility == "hidden"
    view.tell(0.5, "running dtfn")
    assert (view._bar.layout.visibility, view._progress.value) == ("visible", 0.5)
