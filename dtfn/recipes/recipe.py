"""What a training recipe is, and reading it from text and JSON."""

from __future__ import annotations

import dataclasses
import functools
import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from dtfn import parameters
from dtfn.errors import InputError, nearest

CHOICES: Mapping[str, tuple[object, ...]] = MappingProxyType({
    "scale": (2, 3, 4),
    "loss": ("l1", "charbonnier"),
    "schedule": ("cosine", "steps"),
    "precision": ("32", "32-true", "bf16-mixed", "16-mixed"),
})  # fmt: skip
# Pictures of the training sets that are test pictures under another name. Left out by name, not by
# the leak guard, so that a recipe means the same pictures where the benchmarks are not at hand.
KNOWN_LEAKS = ("BSD200/302003",)  # = Set5/woman

Pairs = tuple[tuple[str, Any], ...]


@functools.cache
def _kinds() -> dict[str, Any]:
    return typing.get_type_hints(Recipe)


def check_known(key: str) -> None:
    """Raise `InputError` unless a recipe has this field."""
    if key not in _kinds():
        raise InputError(
            "recipe", expected="a known field", found=repr(key), remedy=nearest(key, _kinds())
        )


def _check_type(key: str, value: Any) -> None:
    kind = _kinds()[key]
    if kind in (int, float, str):
        accepted = (int, float) if kind is float else kind
        fits = isinstance(value, accepted) and not isinstance(value, bool)
    elif kind == Pairs:
        fits = isinstance(value, tuple) and all(
            isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str)
            for pair in value
        )
    else:
        inner = typing.get_args(kind)[0]
        fits = isinstance(value, tuple) and all(type(part) is inner for part in value)
    if not fits:
        raise _wrong(key, value)


def _wrong(
    key: str, value: object, expected: str = "", remedy: str = "pass such a value"
) -> InputError:
    kind = _kinds()[key]
    wanted = "pairs (name, value)" if kind == Pairs else parameters.type_name(kind)
    return InputError(
        f"{key} of a recipe", expected=expected or wanted, found=repr(value), remedy=remedy
    )


@dataclass(frozen=True)
class Recipe:
    """All that decides the weights of a training run, beside the software.

    How the work is spread (devices, accumulation, workers, compilation) is no part of it: that
    changes the weights by rounding only, and is given to `dtfn.training.train`.

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
        upsampler is new; or of the local twin: then the attentions are. Empty: fresh weights.
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
    steps: int = 4000
    batch: int = 16
    patch: int = 32
    learning_rate: float = 1e-3
    warmup: int = 200
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
        for key, value in dataclasses.asdict(self).items():
            _check_type(key, value)
            if key in CHOICES and value not in CHOICES[key]:
                known = [str(choice) for choice in CHOICES[key]]
                near = nearest(str(value), known)
                raise _wrong(key, value, " or ".join(known), near)
        for key in ("validation_count", "steps", "batch", "patch", "validate_every"):
            self._require(key, "1 or more", getattr(self, key) >= 1)
        for key in ("seed", "warmup", "clip", "checkpoint_every"):
            self._require(key, "0 or more", 0 <= getattr(self, key) < math.inf)
        self._require("learning_rate", "a number above 0", 0 < self.learning_rate < math.inf)
        self._require("ema", "0 or more and below 1", 0 <= self.ema < 1)
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
    for key in values:
        check_known(key)
    missing = {"network", "scale"} - values.keys()
    if missing:
        found = f"no {' and '.join(sorted(missing))}"
        raise InputError("recipe", expected="network and scale", found=found, remedy="write them")
    return Recipe(**{key: _as_tuples(value) for key, value in values.items()})


def _read(key: str, text: str) -> Any:
    check_known(key)
    kind = _kinds()[key]
    try:
        if kind == Pairs:
            return tuple(parameters.convert(text, dict).items())
        if typing.get_origin(kind) is tuple:
            inner = typing.get_args(kind)[0]
            return tuple(parameters.convert(part, inner) for part in parameters.convert(text, list))
        return parameters.convert(text, kind)
    except (ValueError, TypeError):
        raise _wrong(key, text) from None


def _as_tuples(value: Any) -> Any:
    return tuple(_as_tuples(part) for part in value) if isinstance(value, list) else value
