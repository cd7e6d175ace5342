"""Click a texture: what attention looked at, what it copied, and what that did.

    run = explorer.begin(globals())
    run.show()                  # the view; static panels where nobody is there to click
    run.finish()

`dtfn.explorer.state` is the explorer without widgets; `dtfn.explorer.view` shows it and is the only
importer of ipywidgets and ipympl.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from dtfn import evaluation, images, provenance, reports, zoo
from dtfn.explorer import page
from dtfn.explorer.state import (
    FILES,
    Choice,
    Deeper,
    Explorer,
    Tell,
    Upload,
    Window,
    controls,
    usual,
)
from dtfn.reports import Run, Verdict, runs

__all__ = ["IMAGE", "NETWORK", "NOTEBOOK", "Session", "begin", "is_headless", "opened", "send"]

IMAGE = "DTFN_EXPLORE"
"""Environment variable with a picture's file that takes the place of the notebook's."""

NETWORK = "DTFN_EXPLORE_NETWORK"
"""Environment variable with a network that takes the place of the notebook's."""

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

            view = View(lambda state, deeper, **shown: send(state, self._given, deeper, **shown))
            view.start(lambda tell: opened(self._given, tell))
            return
        state = opened(self._given)
        _note_inputs(self._run, state)
        missed = []
        for index, (row, column) in enumerate(self._given["positions"], start=1):
            state.click(column, row)
            *_, deeper = Deeper(), *state.deeper()  # the last one has everything
            _save(self._run, f"position_{index}", state, deeper)
            if state.answer.attention is not None:
                missed.append(abs(float(state.answer.attention.sum()) - 1))
        if missed:
            claim = "every attention map that is shown sums to 1, to 1e-5"
            self._run.verdict(Verdict(claim, max(missed), None, max(missed) < 1e-5, "{:.1e}"))

    def finish(self) -> None:
        """Finish the run of static panels; with a view, say where its pictures will go."""
        if self._run is not None:
            self._run.finish()
        else:
            print("Nothing is saved until you press Send to report.")


def begin(namespace: Mapping[str, Any]) -> Session:
    """Begin a session of the notebook, whose parameters live in ``globals()``."""
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
    network = os.environ.get(NETWORK) or given["network"]
    scale = int(evaluation.network(network).scale) if network else given["scale"]  # type: ignore[arg-type]
    dataset, image = str(given["dataset"]), str(given["image"])
    files: dict[str, Upload] = {}
    named = Path(os.environ.get(IMAGE) or image).expanduser()
    if named.suffix.lower() in images.SUFFIXES:
        images.read(named)  # a clear error where it is no picture
        files[named.name] = Upload(named.read_bytes(), truth=True)
        dataset, image = FILES, named.name
    pair = usual(scale, network)
    if given["baseline"]:
        pair["baseline"] = given["baseline"]
        pair["control"] = controls(scale, pair["network"], given["baseline"], given["hash_seed"])[0]
    pair["control"] = tuple(given["control"]) or pair["control"]
    kept: dict[str, Any] = {name: given[name] for name in ("third", "layer", "hash_seed")}
    kept["tile"] = tuple(given["tile"])
    state = Explorer(Choice(dataset, image, scale, **pair, **kept), files=files, tell=tell)
    state.quantile = float(given["quantile"])
    return state


def send(
    state: Explorer, given: Mapping[str, Any], deeper: Deeper | None = None, **shown: Any
) -> Path:
    """Save what is looked at as a run of its own, and return the run's folder.

    Parameters
    ----------
    state
        The explorer.
    given
        The notebook's parameters; those that the reader changed are noted as they are now.
    deeper, **shown
        As for `dtfn.explorer.page.sheet`.
    """
    run = reports.begin(NOTEBOOK, {**given, **parameters(state)})
    _note_inputs(run, state)
    _save(run, "view", state, deeper, **shown)
    run.finish()
    return run.folder


def parameters(state: Explorer) -> dict[str, Any]:
    """Return the notebook's parameters that show what the state shows."""
    choice = state.choice
    more = {"quantile": state.quantile, "positions": [list(state.position)]}
    lists = {"control": list(choice.control), "tile": list(choice.tile)}
    return {**vars(choice), **lists, **more}


def _save(run: Run, name: str, state: Explorer, deeper: Deeper | None = None, **shown: Any) -> None:
    """Save what is looked at: figure (SVG, PNG), maps (CSV) and numbers (JSON)."""
    scene, answer, choice = state.scene, state.answer, state.choice
    rows, columns = scene.shape
    at = pd.MultiIndex.from_product([range(rows), range(columns)], names=["row", "column"])
    maps = {"attention": answer.attention, "harm": scene.harm, "chance": scene.chance}
    maps |= {f"error_{name}": error for name, error in scene.errors.items()}
    table = {name: map_.ravel() for name, map_ in maps.items() if map_ is not None}
    part = f", {Window(*choice.tile)}" if choice.tile else ""
    caption = (
        f"{choice.dataset}/{choice.image}{part}: row {answer.position[0]}, "
        f"column {answer.position[1]} (×{choice.scale}, Y, no border left out). What "
        f"{choice.network} attended to, what it copied, and how its errors differ from those of "
        f"{choice.baseline}. Yellow: the block; rings: the most attended positions. 'differs': "
        "squared difference of a patch's HR detail from the query's, over the latter."
    )
    figure = page.sheet(scene, answer, deeper, **{"threshold": state.threshold, **shown})
    data = pd.DataFrame(table, index=at).reset_index()
    run.figure(name, figure, data=data, caption=caption)
    numbers = {
        **parameters(state),
        "row": answer.position[0],
        "column": answer.position[1],
        "threshold": state.threshold,
        **{name: float(map_[answer.position]) for name, map_ in maps.items() if map_ is not None},
        "spread": answer.spread,
        "copied": [copy._asdict() for copy in answer.copied],
    }
    text = json.dumps(runs.plain(numbers), indent=1, allow_nan=False)
    (run.folder / "figures" / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def _note_inputs(run: Run, state: Explorer) -> None:
    sample = state.whole()[0]
    for kind, image in (("lr", sample.lr), ("hr", sample.hr)):
        if image.size:
            key = f"{sample.dataset}/{sample.image}/x{sample.scale}/{kind}"
            run.record["inputs"][key] = provenance.array_hash(image)
    names = {evaluation.split_change(method)[0] for method in state.choice.methods}
    run.uses(files=[zoo.file_of(name) for name in sorted(names)])
