"""Named recipes: the zoo's, short demonstrations of them, and the authors'."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from dtfn.errors import InputError, nearest
from dtfn.recipes.recipe import CHOICES, Recipe, check_known

# The zoo's variants: the names that `dtfn.models.create` knows with "mini-" before them.
VARIANTS = (
    "local", "local-wide", "nla", "nla+tfs", "nlsa", "nlsa+tfs", "gla", "gla+tfs",
    "hspa", "hspa+tfs", "dtfn-notfs", "dtfn",
)  # fmt: skip
# Constants of the authors' recipe: DIV2K 1-800, L1, Adam without clipping or averaging, in float32;
# an epoch has 1000 iterations. Three hash rounds in training, four in testing.
_AUTHORS: Mapping[str, Any] = MappingProxyType({
    "network": "dtfn", "sets": ("DIV2K_train_HR",), "validation": "DIV2K_valid_HR",
    "validation_count": 10, "batch": 16, "patch": 48, "learning_rate": 1e-4, "warmup": 0,
    "ema": 0.0, "clip": 0.0, "loss": "l1", "validate_every": 1000, "checkpoint_every": 600.0,
    "schedule": "steps", "precision": "32-true",
    "hyperparameters": (("n_hashes", 3),), "testing": (("n_hashes", 4),),
})  # fmt: skip
_LATER: Mapping[str, Any] = MappingProxyType({
    # A milestone at the last of the 200 epochs would never be reached.
    "steps": 200_000, "milestones": (50_000, 100_000, 150_000),
    "start": "dtfn_x2/weights.safetensors",
})  # fmt: skip
AUTHORS: Mapping[str, Recipe] = MappingProxyType({
    "dtfn_x2": Recipe(
        scale=2, steps=1_500_000, milestones=(300_000, 600_000, 900_000, 1_200_000), **_AUTHORS
    ),
    "dtfn_x3": Recipe(scale=3, **_LATER, **_AUTHORS),
    "dtfn_x4": Recipe(scale=4, **_LATER, **_AUTHORS),
})  # fmt: skip
# Every network of the zoo takes the same further steps from one local network of its scale, so
# that variants differ in these steps and in what they add, not in a long common beginning.
_FURTHER: Mapping[str, Any] = MappingProxyType({
    "steps": 1500, "batch": 8, "learning_rate": 5e-4, "warmup": 100, "ema": 0.998,
})  # fmt: skip
# Where they start: a wider network needs a wider beginning.
STARTS: Mapping[str, str] = MappingProxyType({"start": "local", "start-wide": "local-wide"})
_START_STEPS = 6000
# At another scale they go on from those of x4 with a new upsampler, as the authors' do from x2.
_FIRST_SCALE, _LATER_STEPS = 4, 4000
# What a demonstration changes: seconds to a minute on a CPU, and no picture to fetch.
DEMO: Mapping[str, Any] = MappingProxyType({
    "sets": ("embedded",), "validation": "embedded", "validation_count": 1, "steps": 200,
    "patch": 24, "batch": 8, "warmup": 20, "ema": 0.98, "validate_every": 50,
})  # fmt: skip


def preset(name: str, **changes: Any) -> Recipe:
    """Return a named recipe, with changes.

    Parameters
    ----------
    name
        ``<variant>-x<scale>-s<seed>`` as in the zoo, e.g. ``"nla-x4-s0"``, also written
        ``mini_nla_x4`` (seed 0); ``start-x<scale>`` or ``start-wide-x<scale>``, from which those
        of the zoo go on; ``demo-...`` for a short run of the same network on the embedded pictures;
        ``dtfn_x2``, ``dtfn_x3`` or ``dtfn_x4`` for the full network by the authors' recipe.
    **changes
        Fields of `Recipe` to change.

    Raises
    ------
    InputError
        Unknown name or field, or a value of the wrong type.
    """
    for key in changes:
        check_known(key)
    recipe = AUTHORS.get(name) or _mini(name)
    return dataclasses.replace(recipe, **changes)


def split_name(name: str) -> tuple[str, int, int] | None:
    """Return (variant, scale, seed) of a name of the zoo; None if it is no such name."""
    parts = re.fullmatch(r"(?P<variant>.+)-x(?P<scale>[234])-s(?P<seed>\d+)", name)
    if parts is None or parts["variant"] not in VARIANTS:
        return None
    return parts["variant"], int(parts["scale"]), int(parts["seed"])


def _mini(name: str) -> Recipe:
    begin = re.fullmatch(r"(start|start-wide)-x([234])", name)
    if begin:
        network, scale = f"mini-{STARTS[begin[1]]}", int(begin[2])
        if scale == _FIRST_SCALE:
            return Recipe(network=network, scale=scale, steps=_START_STEPS)
        first = f"{begin[1]}-x{_FIRST_SCALE}"
        return Recipe(network=network, scale=scale, steps=_LATER_STEPS, start=first)
    plain = name.removeprefix("demo-")
    long = re.fullmatch(r"mini_(.+)_x(\d+)", plain)
    parts = split_name(f"{long[1]}-x{long[2]}-s0" if long else plain)
    if parts is None:
        known = [*AUTHORS, *(f"{v}-x{s}-s0" for v in VARIANTS for s in CHOICES["scale"])]
        raise InputError(
            "preset", expected=f"<variant>-x<scale>-s<seed> or {', '.join(AUTHORS)}",
            found=repr(name), remedy=nearest(plain, known),
        )  # fmt: skip
    variant, scale, seed = parts
    if name.startswith("demo-"):
        return Recipe(network=f"mini-{variant}", scale=scale, seed=seed, **DEMO)
    start = next((s for s, wide in STARTS.items() if wide == variant), "start")
    changes = dict(_FURTHER) | {"start": f"{start}-x{scale}"}
    return Recipe(network=f"mini-{variant}", scale=scale, seed=seed, **changes)
