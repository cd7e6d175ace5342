"""What the menus offer and say: labels and values, without widgets."""

from __future__ import annotations

from typing import Any

from dtfn.explorer import networks
from dtfn.explorer.choice import Choice
from dtfn.explorer.state import Explorer

NOTHING = ""  # stands for None: a menu shows None as if nothing were chosen

Option = tuple[str, Any]


def values(choice: Choice) -> dict[str, Any]:
    """Return what each menu shows as chosen: fields of the choice and of its team."""
    chosen = {**vars(choice), **vars(choice.team)}
    return {field: NOTHING if value is None else value for field, value in chosen.items()}


def meant(value: Any) -> Any:
    """Return what a value of a menu stands for."""
    return None if isinstance(value, str) and value == NOTHING else value


def options(state: Explorer) -> dict[str, list[Option]]:
    """Return label and value of all that each menu offers; what is chosen is always among them."""
    chosen, layers = values(state.choice), state.scene.layers
    known = [(name, name) for name in networks.names(state.choice.scale)]
    optional = [("none", NOTHING), *known]
    count = len(layers)
    found: dict[str, list[Option]] = {
        "dataset": [(name, name) for name in state.datasets],
        "image": [(name, name) for name in state.images],
        "window": [("the whole picture", NOTHING), *((str(w), w) for w in state.windows)],
        "scale": [(f"×{scale}", scale) for scale in networks.scales()],
        "with_": [*known],
        "without": [*known],
        "null": [*optional],
        "beside": [*optional],
        "layer": [(f"{i} of {count} ({name})", name) for i, name in enumerate(layers, start=1)]
        or [("none", NOTHING)],
    }
    for field, offered in found.items():
        if chosen[field] not in [value for _, value in offered]:  # the reader's own tile or weights
            offered.append((str(chosen[field]), chosen[field]))
    return found
