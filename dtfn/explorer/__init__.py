"""Click a texture: what attention looked at, what it copied, and what that did.

    run = explorer.begin(globals())
    run.show()                  # the view; static panels where nobody is there to click
    run.finish()

`dtfn.explorer.state` is the explorer without widgets; `dtfn.explorer.view` shows it and is the only
importer of ipywidgets and ipympl.
"""

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from dtfn import files, images, methods, reports, zoo
from dtfn.explorer import page
from dtfn.explorer.state import FILES, Choice, State, Tell, Window, look, usual
from dtfn.reports import Run, Verdict

NOTEBOOK = "07_explore"


class Session:
    """What the notebook does with its parameters, which live in ``globals()``."""

    def __init__(self, namespace: Mapping[str, Any]) -> None:
        from IPython import get_ipython

        self._given, kernel = dict(namespace), getattr(get_ipython(), "kernel", None)
        is_voila = os.environ.get("SERVER_SOFTWARE", "").startswith("voila/")
        # Nobody can click where the suite, papermill or nbconvert runs it.
        is_live = is_voila or getattr(kernel, "_allow_stdin", False)
        is_live = is_live and reports.RUN_DIR not in os.environ
        self._run = None if is_live else reports.begin(NOTEBOOK, namespace)

    def show(self) -> None:
        """Show the view; static panels of ``positions``, or of two, where nobody can click."""
        if self._run is None:
            from dtfn.explorer.view import View

            view = View(lambda state, **shown: send(state, self._given, **shown))
            view.start(lambda tell: opened(self._given, tell))
            return
        state = opened(self._given)
        print(state.notes)
        rows, columns = state.shape
        usual = [(rows // 6, columns // 4), (rows // 2, 7 * columns // 10)]
        states = [state.looked(tuple(at)) for at in self._given["positions"] or usual]
        for index, clicked in enumerate(states, start=1):
            *_, deepest = clicked, *clicked.deeper()
            _save(self._run, f"position_{index}", deepest)
        maps = (clicked.attention for clicked in states)
        if missed := [abs(float(one.sum()) - 1) for one in maps if one is not None]:
            claim = "every attention map that is shown sums to 1, to 1e-5"
            self._run.verdict(Verdict(claim, max(missed), None, max(missed) < 1e-5, "{:.1e}"))

    def finish(self) -> None:
        """Finish the run of static panels; with a view, say where its pictures will go."""
        if self._run is not None:
            self._run.finish()
        else:
            print("Nothing is saved until you press Send to report.")


begin = Session


def opened(given: Mapping[str, Any], tell: Tell = lambda share, what: None) -> State:
    """Return the state that the notebook's parameters ask for; `InputError` if it cannot be.

    `dtfn explore` sets ``DTFN_EXPLORE``, a picture's file, and ``DTFN_EXPLORE_NETWORK``, which take
    the place of the notebook's own.
    """
    network = os.environ.get("DTFN_EXPLORE_NETWORK") or given["network"]
    scale = int(methods.network(network).scale) if network else given["scale"]  # type: ignore[arg-type]
    chosen = usual(scale, network, given["baseline"], given["hash_seed"])
    chosen["control"] = tuple(given["control"]) or chosen["control"]
    names = ("dataset", "image", "third", "layer", "hash_seed", "quantile")
    chosen |= {name: given[name] for name in names} | {"tile": tuple(given["tile"])}
    file, brought = Path(os.environ.get("DTFN_EXPLORE") or given["image"]).expanduser(), {}
    if file.suffix.lower() in images.SUFFIXES:
        images.read(file)  # a clear error where it is no picture
        brought[file.name] = file.read_bytes(), True
        chosen |= {"dataset": FILES, "image": file.name}
    return look(Choice(scale=scale, **chosen), brought, tell)


def send(state: State, given: Mapping[str, Any], **shown: Any) -> Path:
    """Save what is looked at as a run with the notebook's parameters, and return its folder."""
    run = reports.begin(NOTEBOOK, {**given, **asdict(state.choice), "positions": [state.position]})
    _save(run, "view", state, **shown)
    run.finish()
    return run.folder


def _save(run: Run, name: str, state: State, **shown: Any) -> None:
    """Save what is looked at: figure (SVG, PNG), maps (CSV) and numbers (JSON)."""
    choice, (row, column), (rows, columns) = state.choice, state.position, state.shape
    used = sorted({methods.split_change(method)[0] for method in choice.methods})
    run.uses([state.whole], [zoo.file_of(network) for network in used])
    maps = {"attention": state.attention, "harm": state.harm, "chance": state.chance}
    maps |= {f"error_{method}": output.error for method, output in state.outputs.items()}
    at = pd.MultiIndex.from_product([range(rows), range(columns)], names=["row", "column"])
    known = {key: values.ravel() for key, values in maps.items() if values is not None}
    data = pd.DataFrame(known, at).dropna(axis=1)
    part, labels = f", {Window(*choice.tile)}" if choice.tile else "", choice.labels
    caption = (
        f"{choice.dataset}/{choice.image}{part}: row {row}, column {column} (×{choice.scale}, Y, "
        f"no border left out). What {labels[choice.network]} attended to, what it copied, and how "
        f"its errors differ from those of {labels[choice.baseline]}. Yellow: the block; rings: the "
        "most attended positions. 'differs': squared difference of a patch's HR detail from the "
        "query's, over the latter."
    )
    run.figure(name, page.sheet(state, **shown), data=data.reset_index(), caption=caption)
    numbers = asdict(choice) | data.loc[(row, column)].to_dict() | {"spread": state.spread}
    numbers |= {"row": row, "column": column, "threshold": state.threshold}
    numbers["copied"] = state.copied.to_dict("records")
    files.write_json(run.folder / "figures" / f"{name}.json", reports.plain(numbers))
