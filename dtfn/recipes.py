"""Training recipes: all that decides the weights of a run, as frozen data. Imports no torch."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from pydantic import TypeAdapter, ValidationError

from dtfn.errors import InputError, nearest

Pairs = tuple[tuple[str, Any], ...]

CHOICES: Mapping[str, tuple[object, ...]] = MappingProxyType(
    {
        "scale": (2, 3, 4),
        "loss": ("l1", "charbonnier"),
        "schedule": ("cosine", "steps"),
        "precision": ("32", "32-true", "bf16-mixed", "16-mixed"),
    }
)
# Pictures of the training sets that are test pictures under another name. Left out by name, not by
# the leak guard, so that a recipe means the same pictures where the benchmarks are not at hand.
KNOWN_LEAKS = ("BSD200/302003",)  # = Set5/woman


@dataclass(frozen=True)
class Recipe:
    """All that decides the weights of a training run, apart from the software.

    How the work is spread (devices, accumulation, workers, compilation) is not part of it: that
    changes the weights by rounding only, and is an argument of `dtfn.training.train`.

    Attributes
    ----------
    network, scale, seed, hyperparameters
        See `dtfn.models.create`; the seed decides initial weights, patches and hash rotations.
    sets
        Training sets (see `dtfn.patches.sources`).
    validation, validation_count
        Folder of validation pictures (or ``"embedded"``), and how many of them.
    steps, batch, patch
        Optimiser steps, patches of a global batch, LR size of a patch.
    learning_rate, warmup
        Peak of the learning rate, reached linearly after ``warmup`` steps.
    attention_off
        Probability in [0, 1) that a picture of a batch has all its attention layers skipped. Such
        a network is trained for both: `dtfn.models.Network.attention` switches it at test time.
    ema
        Decay of the averaged weights, which are validated and shipped; 0 for none.
    clip
        Largest gradient norm; 0 for none.
    loss
        ``"l1"`` or ``"charbonnier"`` (sqrt(d^2 + 1e-6)).
    validate_every, checkpoint_every
        In steps and in seconds.
    schedule, milestones
        After the warm-up: ``"cosine"`` down to 0 at the last step, or ``"steps"``: halved at each
        of the milestones, which are step numbers.
    testing
        Hyperparameters that differ in testing; the weights must fit all the same.
    start
        Weights to start from (a name of the zoo or a file), perhaps of another scale: then the
        upsampler is new; or of the same network without TFS, which at first changes nothing. Empty:
        fresh weights.
    exclude
        Pictures to leave out, ``"<set>/<stem>"``.
    precision
        ``"32"`` (or ``"32-true"``), ``"bf16-mixed"`` or ``"16-mixed"``, as in Lightning Fabric.

    Raises
    ------
    InputError
        A value of the wrong type or outside its range.
    """

    network: str
    scale: int
    seed: int = 0
    hyperparameters: Pairs = ()
    sets: tuple[str, ...] = ("T91", "BSD200", "General100", "BSDS500_test200")
    validation: str = "DIV2K_valid_crop256"
    validation_count: int = 12
    steps: int = 8000
    batch: int = 16
    patch: int = 48
    learning_rate: float = 1e-3
    warmup: int = 500
    attention_off: float = 0.0
    ema: float = 0.999
    clip: float = 1.0
    loss: str = "l1"
    validate_every: int = 500
    checkpoint_every: float = 120.0
    schedule: str = "cosine"
    milestones: tuple[int, ...] = ()
    testing: Pairs = ()
    start: str = ""
    exclude: tuple[str, ...] = KNOWN_LEAKS
    precision: str = "bf16-mixed"

    def __post_init__(self) -> None:
        """Check every value, so that a recipe that exists can be run."""
        for key, value in vars(self).items():
            try:
                _adapter(key).validate_python(value, strict=True)
            except ValidationError:
                raise _wrong(key, value) from None
            if key in CHOICES and value not in CHOICES[key]:
                known = [str(choice) for choice in CHOICES[key]]
                raise _wrong(key, value, " or ".join(known), nearest(str(value), known))
        for key in ("validation_count", "steps", "batch", "patch", "validate_every"):
            self._require(key, "1 or more", getattr(self, key) >= 1)
        for key in ("seed", "warmup", "clip", "checkpoint_every"):
            self._require(key, "0 or more", 0 <= getattr(self, key) < math.inf)
        for key in ("ema", "attention_off"):
            self._require(key, "0 or more and below 1", 0 <= getattr(self, key) < 1)
        self._require("learning_rate", "a number above 0", 0 < self.learning_rate < math.inf)
        self._require("sets", "one or more sets", bool(self.sets))
        rising = all(a < b for a, b in zip((0, *self.milestones), self.milestones, strict=False))
        self._require("milestones", "rising step numbers", rising)
        fits = self.schedule == "steps" or not self.milestones
        self._require("milestones", "none with schedule 'cosine'", fits)

    def _require(self, key: str, expected: str, holds: bool) -> None:
        if not holds:
            raise _wrong(key, getattr(self, key), expected)

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, which counts from 0."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        if self.schedule == "steps":
            return self.learning_rate * 0.5 ** sum(step >= mark for mark in self.milestones)
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


@functools.cache
def _kinds() -> dict[str, Any]:
    return typing.get_type_hints(Recipe)


def _kind(key: str) -> Any:
    if key not in _kinds():
        raise InputError("recipe", "a known field", repr(key), nearest(key, _kinds()))
    return _kinds()[key]


@functools.cache
def _adapter(key: str) -> TypeAdapter[Any]:
    return TypeAdapter(_kind(key))


def _wrong(
    key: str, value: object, expected: str = "", remedy: str = "pass such a value"
) -> InputError:
    kind = _kinds()[key]
    names = {Pairs: "pairs (name, value)", float: "a number", int: "a whole number", str: "text"}
    expected = expected or names.get(kind) or str(kind).replace("tuple[", "a tuple of ").rstrip("]")
    return InputError(f"{key} of a recipe", expected, repr(value), remedy)


# --- recipes by name -----------------------------------------------------------------------------

# The zoo's variants: the names that `dtfn.models.create` knows with "mini-" before them.
VARIANTS = (
    *("local", "local-wide", "placebo", "nla", "nla+tfs", "nlsa", "nlsa+tfs", "gla", "gla+tfs"),
    *("hspa", "hspa+tfs", "dtfn-notfs", "dtfn"),
)
# The zoo's networks in stages: x4 from scratch; then one in which half of the pictures skip the
# attention, if there is any, and for which TFS is added; from x4 the other scales, with a new
# upsampler.
SCRATCH: Mapping[str, Any] = MappingProxyType({"steps": 8797})
_STAGE = {"batch": 8, "warmup": 100, "validate_every": 250}
SWITCH: Mapping[str, Any] = MappingProxyType({**_STAGE, "steps": 2000, "learning_rate": 3e-4})
RESCALED: Mapping[str, Any] = MappingProxyType({**_STAGE, "steps": 3000, "learning_rate": 5e-4})
# Constants of the authors' recipe: DIV2K 1-800, L1, Adam without clipping or averaging, in float32;
# an epoch has 1000 iterations. Three hash rounds in training, four in testing.
_AUTHORS: Mapping[str, Any] = MappingProxyType(
    {
        **{"network": "dtfn", "sets": ("DIV2K_train_HR",), "validation": "DIV2K_valid_HR"},
        **{"validation_count": 10, "batch": 16, "patch": 48, "learning_rate": 1e-4, "warmup": 0},
        **{"ema": 0.0, "clip": 0.0, "loss": "l1", "schedule": "steps", "precision": "32-true"},
        **{"validate_every": 1000, "checkpoint_every": 600.0},
        **{"hyperparameters": (("n_hashes", 3),), "testing": (("n_hashes", 4),)},
    }
)
# A milestone at the last of the 200 epochs would never be reached.
_LATER: Mapping[str, Any] = MappingProxyType(
    {"steps": 200_000, "milestones": (50_000, 100_000, 150_000), **_AUTHORS}
    | {"start": "dtfn_x2/weights.safetensors"}
)
AUTHORS: Mapping[str, Recipe] = MappingProxyType(
    {
        "dtfn_x2": Recipe(
            scale=2, steps=1_500_000, milestones=(300_000, 600_000, 900_000, 1_200_000), **_AUTHORS
        ),
        "dtfn_x3": Recipe(scale=3, **_LATER),
        "dtfn_x4": Recipe(scale=4, **_LATER),
    }
)
# What a demonstration changes: seconds to a minute on a CPU, and no picture to fetch.
DEMO: Mapping[str, Any] = MappingProxyType(
    {
        **{"sets": ("embedded",), "validation": "embedded", "validation_count": 1, "steps": 200},
        **{"patch": 24, "batch": 8, "warmup": 20, "ema": 0.98, "validate_every": 50},
    }
)


def preset(name: str, **changes: Any) -> Recipe:
    """Return a named recipe, with changes.

    Parameters
    ----------
    name
        ``<variant>-x<scale>-s<seed>`` as in the zoo, e.g. ``"nla-x4-s0"``, also written
        ``mini_nla_x4`` (seed 0); ``scratch-...`` for the same network from fresh weights, which is
        the first stage where the zoo's has several; ``demo-...`` for a short run of it on the
        embedded pictures; ``dtfn_x2``, ``dtfn_x3`` or ``dtfn_x4`` for the full network by the
        authors' recipe.
    **changes
        Fields of `Recipe` to change.

    Raises
    ------
    InputError
        Unknown name or field, or a value of the wrong type.
    """
    for key in changes:
        _kind(key)
    return dataclasses.replace(AUTHORS.get(name) or _mini(name), **changes)


def split_name(name: str) -> tuple[str, int, int] | None:
    """Return (variant, scale, seed) of a name of the zoo; None if it is no such name."""
    parts = re.fullmatch(r"(?P<variant>.+)-x(?P<scale>[234])-s(?P<seed>\d+)", name)
    if parts is None or parts["variant"] not in VARIANTS:
        return None
    return parts["variant"], int(parts["scale"]), int(parts["seed"])


def _mini(name: str) -> Recipe:
    kind, plain = re.fullmatch(r"(demo-|scratch-|)(.*)", name, re.DOTALL).groups()  # type: ignore[union-attr]
    long = re.fullmatch(r"mini_(.+)_x(\d+)", plain)
    parts = split_name(f"{long[1]}-x{long[2]}-s0" if long else plain)
    if parts is None:
        known = [*AUTHORS, *(f"{v}-x{s}-s0" for v in VARIANTS for s in CHOICES["scale"])]
        raise InputError(
            "preset",
            f"<variant>-x<scale>-s<seed> or {', '.join(AUTHORS)}",
            repr(name),
            nearest(plain, known),
        )
    variant, scale, seed = parts
    changes = DEMO if kind == "demo-" else SCRATCH if kind else _stage(variant, scale, seed)
    return Recipe(network=f"mini-{variant}", scale=scale, seed=seed, **changes)


def _stage(variant: str, scale: int, seed: int) -> dict[str, Any]:
    """Return what the last stage of a network of the zoo changes."""
    plain = variant.removesuffix("+tfs")
    changes, start = SWITCH, f"scratch-{plain}-x4-s{seed}/weights.safetensors"
    if scale != 4:
        changes, start = RESCALED, f"{variant}-x4-s{seed}"
    off = 0.0 if variant.startswith("local") else 0.5
    return {**changes, "start": start, "attention_off": off}


# --- recipes from text and JSON ------------------------------------------------------------------


def from_text(settings: Mapping[str, str]) -> dict[str, Any]:
    """Return changes for `preset` from text as a command line gives it.

    ``{"sets": "T91,BSD200"}`` is a tuple, ``{"hyperparameters": '{"n_feats": 16}'}`` are pairs.

    Raises
    ------
    InputError
        Unknown field, or text that is not of its type.
    """
    return {key: _read(key, text) for key, text in settings.items()}


def from_json(values: Mapping[str, Any]) -> Recipe:
    """Return the recipe that `dataclasses.asdict` made, after a trip through JSON.

    Raises
    ------
    InputError
        Unknown field, a missing one, or a value of the wrong type.
    """
    missing = {"network", "scale"} - values.keys()
    if missing:
        found = f"no {' and '.join(sorted(missing))}"
        raise InputError("recipe", "network and scale", found, "write them")
    fields = {}
    for key, value in values.items():
        try:
            fields[key] = _adapter(key).validate_json(json.dumps(value))
        except ValidationError:
            raise _wrong(key, value) from None
    return Recipe(**fields)


def _read(key: str, text: str) -> Any:
    kind = _kind(key)
    try:
        if kind == Pairs:
            return tuple(TypeAdapter(dict[str, Any]).validate_json(text).items())
        if typing.get_origin(kind) is tuple:
            parts = [part.strip() for part in text.strip("[]()").split(",") if part.strip()]
            inner = TypeAdapter(typing.get_args(kind)[0])
            return tuple(inner.validate_strings(part) for part in parts)
        return _adapter(key).validate_strings(text.strip())
    except ValidationError:
        raise _wrong(key, text) from None
