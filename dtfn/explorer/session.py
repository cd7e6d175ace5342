"""A notebook's session with the explorer: from its parameters to the view, or to static panels."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from dtfn import provenance, reports, zoo
from dtfn.explorer import panels, pixels
from dtfn.explorer.answer import Answer
from dtfn.explorer.choice import FILES, Choice
from dtfn.explorer.networks import Team, team
from dtfn.explorer.pictures import Window
from dtfn.explorer.scene import Tell
from dtfn.explorer.state import Explorer, Upload
from dtfn.images import SUFFIXES
from dtfn.reports import Run, Verdict, runs

IMAGE = "DTFN_EXPLORE"
"""Environment variable with a picture's file that takes the place of the notebook's."""

NOTEBOOK = "07_explore"


class Session:
    """What the notebook does with its parameters; made by `begin`."""

    def __init__(self, namespace: Mapping[str, Any]) -> None:
        self._given = dict(namespace)
        self._run = reports.begin(NOTEBOOK, namespace) if is_headless() else None

    def show(self) -> None:
        """Show the view; static panels of the parameter ``positions`` where nobody can click."""
        if self._run is None:
            from dtfn.explorer.view import View

            view = View(lambda state, **shown: send(state, self._given, **shown))
            view.start(lambda tell: opened(self._given, tell))
            return
        state = opened(self._given)
        _note_inputs(self._run, state)
        sums = []
        for index, (row, column) in enumerate(self._given["positions"], start=1):
            if not state.click(column, row):
                raise ValueError(state.message.text)
            save(self._run, f"position_{index}", state, threshold=state.threshold)
            if state.answer.attention is not None:
                sums.append(abs(float(state.answer.attention.sum()) - 1))
        self._run.verdict(*_verdicts(state, sums))

    def finish(self) -> None:
        """Finish the run of static panels; with a view, say where its pictures will go."""
        if self._run is not None:
            self._run.finish()
        else:
            print("Nothing is saved until you press Send to report.")


def begin(namespace: Mapping[str, Any]) -> Session:
    """Begin a session of the notebook.

    Parameters
    ----------
    namespace
        Where the parameters live, i.e. ``globals()``.
    """
    return Session(namespace)


def is_headless() -> bool:
    """Return whether nobody is there to click: run by the suite, by papermill or by nbconvert.

    A front end that a reader sits at can be asked for input; Voila cannot, but says who it is.
    """
    from IPython import get_ipython

    if reports.RUN_DIR in os.environ:
        return True
    if os.environ.get("SERVER_SOFTWARE", "").startswith("voila/"):
        return False
    kernel = getattr(get_ipython(), "kernel", None)
    return not getattr(kernel, "_allow_stdin", False)


def opened(given: Mapping[str, Any], tell: Tell | None = None) -> Explorer:
    """Return the state that the notebook's parameters ask for.

    Raises
    ------
    InputError
        They cannot be shown.
    """
    scale = int(given["scale"])
    dataset, image = str(given["dataset"]), str(given["image"])
    files: dict[str, Upload] = {}
    named = Path(os.environ.get(IMAGE) or image).expanduser()
    if named.suffix.lower() in SUFFIXES:
        files[named.name] = Upload(read(named), truth=True)
        dataset, image = FILES, named.name
    usual = team(scale, given["network"] or None)
    chosen = Team(
        usual.with_,
        given["twin"] or usual.without,
        given["null"] or usual.null,
        given["beside"] or usual.beside,
    )
    window = Window(*given["tile"]) if given["tile"] else None
    choice = Choice(
        dataset, image, scale, chosen, given["layer"] or None, int(given["hash_seed"]), window
    )
    state = Explorer(choice, files=files, tell=tell)
    state.quantile = float(given["quantile"])
    return state


def read(path: Path) -> bytes:
    """Return the bytes of a picture's file.

    Raises
    ------
    InputError
        It is not there, or no picture.
    """
    from dtfn import images

    images.read(path)
    return path.read_bytes()


def save(run: Run, name: str, state: Explorer, **shown: Any) -> None:
    """Save what is looked at: figure (SVG, PNG), maps (CSV) and numbers (JSON).

    Parameters
    ----------
    run
        Where to.
    name
        Of the files.
    state
        The explorer.
    **shown
        As for `dtfn.explorer.panels.sheet`.
    """
    scene, found = state.scene, state.answer
    figure = panels.sheet(scene, found, **shown)
    run.figure(name, figure, data=frame(state), caption=caption(state))
    text = json.dumps(runs.plain(record(state)), indent=1, allow_nan=False)
    (run.folder / "figures" / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def send(state: Explorer, given: Mapping[str, Any], **shown: Any) -> Path:
    """Save what is looked at as a run of its own, and return the run's folder.

    Parameters
    ----------
    state
        The explorer.
    given
        The notebook's parameters; those that the reader changed are noted as they are now.
    **shown
        As for `dtfn.explorer.panels.sheet`.
    """
    run = reports.begin(NOTEBOOK, {**given, **parameters(state)})
    _note_inputs(run, state)
    save(run, "view", state, **shown)
    run.finish()
    return run.folder


def parameters(state: Explorer) -> dict[str, Any]:
    """Return the notebook's parameters that show what the state shows."""
    c = state.choice
    w = c.window
    return {
        "dataset": c.dataset, "image": c.image, "scale": c.scale, "network": c.team.with_,
        "twin": c.team.without, "null": c.team.null or "", "beside": c.team.beside or "",
        "layer": c.layer or "", "hash_seed": c.hash_seed, "quantile": state.quantile,
        "tile": [w.top, w.left, w.height, w.width] if w else [],
        "positions": [list(state.position)],
    }  # fmt: skip


def record(state: Explorer) -> dict[str, Any]:
    """Return the numbers of what is looked at, for JSON."""
    found: Answer = state.answer
    return {
        **parameters(state), "row": found.row, "column": found.column, "threshold": state.threshold,
        "block": dict(found.block), "spread": dict(found.spread),
        "copied": [vars(copy) for copy in found.copied],
    }  # fmt: skip


def frame(state: Explorer) -> pd.DataFrame:
    """Return the maps of what is looked at: a row an LR position."""
    scene, found = state.scene, state.answer
    rows, columns = scene.subject.shape
    at = pd.MultiIndex.from_product([range(rows), range(columns)], names=["row", "column"])
    maps = {"attention": found.attention, "harm": scene.harm, "null_harm": scene.null_harm}
    maps |= {f"error_{name}": error for name, error in scene.errors.items()}
    columns_ = {name: map_.ravel() for name, map_ in maps.items() if map_ is not None}
    return pd.DataFrame(columns_, index=at).reset_index()


def caption(state: Explorer) -> str:
    """Return what is seen, in one or two sentences."""
    scene, found, team_ = state.scene, state.answer, state.choice.team
    seed = f", hash seed {scene.hash_seed}" if scene.hash_seed else ""
    return (
        f"{scene.subject.name}: row {found.row}, column {found.column} of what is shown "
        f"(×{scene.subject.scale}, Y, no border left out{seed}). What N = {team_.with_} attended "
        f"to, what it copied, and how its errors differ from those of L = {team_.without}. Yellow: "
        "the block; rings: the most attended positions. 'differs': squared difference of a "
        "patch's HR detail from the query's over the query's, 2 for unrelated ones."
    )


def _note_inputs(run: Run, state: Explorer) -> None:
    subject = state.whole()
    for kind, image in (("lr", subject.lr), ("hr", subject.hr)):
        if image is not None:
            key = f"{subject.source}/{subject.image}/x{subject.scale}/{kind}"
            run.record["inputs"][key] = provenance.array_hash(image)
    run.uses(files=[zoo.file_of(name) for name in state.choice.team.names])


def _verdicts(state: Explorer, sums: list[float]) -> list[Verdict]:
    found = []
    if sums:
        claim = "every attention map that is shown sums to 1, to 1e-5"
        found.append(Verdict(claim, max(sums), None, max(sums) < 1e-5, "{:.1e}"))
    if state.scene.null_harm is not None:
        ours, luck = pixels.beyond(state.scene, state.threshold)
        name = state.choice.team.with_
        claim = f"{name} harms more of this picture's blocks beyond the threshold than luck does"
        found.append(Verdict(claim, ours - luck, None, None, "{:+.1%}"))  # one picture decides none
    return found
