"""Training recipes: all that decides the weights of a run, as frozen data. Imports no torch."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError

from dtfn.errors import InputError, nearest, require_known


def _read(value: Any) -> Any:
    """Read text of a command line: ``{"name": value, ...}``, or parts with commas between."""
    if isinstance(value, str):
        parts = [part.strip() for part in value.split(",") if part.strip()]
        value = json.loads(value) if value.strip().startswith(("{", "[")) else parts
    return list(value.items()) if isinstance(value, dict) else value


Pairs = Annotated[tuple[tuple[str, Any], ...], BeforeValidator(_read)]
Names = Annotated[tuple[str, ...], BeforeValidator(_read)]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class Recipe:
    """All that decides the weights of a training run, apart from the software; see `preset`."""

    network: str  # with scale, seed and hyperparameters: see `dtfn.models.create`
    scale: Annotated[int, Field(ge=2, le=4)]
    seed: Annotated[int, Field(ge=0)] = 0  # of initial weights, patches and hash rotations
    hyperparameters: Pairs = ()
    # See `dtfn.patches.sources`.
    sets: Annotated[Names, Field(min_length=1)] = ("T91", "BSD200", "General100", "BSDS500_test200")
    validation: str = "DIV2K_valid_crop256"  # a folder of pictures, or "embedded"
    validation_count: Count = 12
    steps: Count = 8000  # of the optimiser
    batch: Count = 16  # patches of a global batch
    patch: Count = 48  # LR pixels a side
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1e-3  # at its peak
    warmup: Annotated[int, Field(ge=0)] = 500  # steps after which it is reached, linearly
    attention_off: Share = 0.0  # probability that a picture of a batch skips all attention layers
    ema: Share = 0.999  # decay of the averaged weights, which are validated and shipped; 0: none
    clip: Amount = 1.0  # largest gradient norm; 0: none
    loss: Literal["l1", "charbonnier"] = "l1"  # charbonnier: sqrt(d^2 + 1e-6)
    validate_every: Count = 500  # steps
    checkpoint_every: Amount = 120.0  # seconds
    # After the warm-up a cosine down to 0 at the last step; or halved at each of the milestones.
    schedule: Literal["cosine", "steps"] = "cosine"
    milestones: Annotated[tuple[int, ...], BeforeValidator(_read)] = ()
    testing: Pairs = ()  # hyperparameters that differ in testing; the weights must fit all the same
    start: str = ""  # a name of the zoo or a file, see `dtfn.models.start_from`
    # Pictures to leave out, "<set>/<stem>": this one is Set5/woman. It is left out by name, so that
    # a recipe means the same pictures where the benchmarks are not at hand.
    exclude: Names = ("BSD200/302003",)
    precision: Literal["32", "32-true", "bf16-mixed", "16-mixed"] = "bf16-mixed"

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, which counts from 0."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        if self.schedule == "steps" or self.milestones:
            return self.learning_rate * 0.5 ** sum(step >= mark for mark in self.milestones)
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


_RECIPE = TypeAdapter(Recipe)

# The zoo's variants: the names that `dtfn.models.create` knows with "mini-" before them.
VARIANTS = (
    *("local", "local-wide", "placebo", "nla", "nla+tfs", "nlsa", "nlsa+tfs", "gla", "gla+tfs"),
    *("hspa", "hspa+tfs", "dtfn-notfs", "dtfn"),
)
# What a demonstration changes: seconds to a minute on a CPU, and no picture to fetch.
DEMO: dict[str, Any] = {
    **{"sets": ("embedded",), "validation": "embedded", "validation_count": 1, "steps": 200},
    **{"patch": 24, "batch": 8, "warmup": 20, "ema": 0.98, "validate_every": 50},
}
# Constants of the authors' recipe: DIV2K 1-800, L1, Adam without clipping or averaging, in float32;
# an epoch has 1000 iterations. Three hash rounds in training, four in testing.
_AUTHORS: dict[str, Any] = {
    **{"network": "dtfn", "sets": ("DIV2K_train_HR",), "validation": "DIV2K_valid_HR"},
    **{"validation_count": 10, "batch": 16, "patch": 48, "learning_rate": 1e-4, "warmup": 0},
    **{"ema": 0.0, "clip": 0.0, "loss": "l1", "schedule": "steps", "precision": "32-true"},
    **{"validate_every": 1000, "checkpoint_every": 600.0},
    **{"hyperparameters": (("n_hashes", 3),), "testing": (("n_hashes", 4),)},
    # x3 and x4. A milestone at the last of the 200 epochs would never be reached.
    **{"steps": 200_000, "milestones": (50_000, 100_000, 150_000)},
    "start": "dtfn_x2/weights.safetensors",
}
AUTHORS: dict[str, dict[str, Any]] = {
    f"dtfn_x{scale}": _AUTHORS | {"scale": scale} for scale in (2, 3, 4)
}
_HALVINGS = (300_000, 600_000, 900_000, 1_200_000)
AUTHORS["dtfn_x2"] |= {"steps": 1_500_000, "milestones": _HALVINGS, "start": ""}


def preset(name: str, **changes: Any) -> Recipe:
    """Return a named recipe, with changes.

    The name is ``<variant>-x<scale>-s<seed>`` as in the zoo, e.g. ``"nla-x4-s0"``; ``scratch-...``
    for the same network from fresh weights, the zoo's first stage; ``demo-...`` for a short run of
    it on the embedded pictures; ``dtfn_x2``, ``dtfn_x3`` or ``dtfn_x4`` for the full network by the
    authors' recipe. The changes are fields of `Recipe`, also as text of a command line.
    """
    return from_json({**(AUTHORS.get(name) or _mini(name)), **changes})


def _mini(name: str) -> dict[str, Any]:
    parts = re.fullmatch(r"(demo-|scratch-|)(.+)-x([234])-s(\d+)", name)
    if parts is None or parts[2] not in VARIANTS:
        plain = re.sub("^(demo|scratch)-", "", name)
        known = [*AUTHORS, *(f"{variant}-x{s}-s0" for variant in VARIANTS for s in (2, 3, 4))]
        expected = f"<variant>-x<scale>-s<seed> or {', '.join(AUTHORS)}"
        raise InputError("preset", expected, repr(name), nearest(plain, known))
    kind, variant, scale, seed = parts[1], parts[2], int(parts[3]), int(parts[4])
    fields = {"network": f"mini-{variant}", "scale": scale, "seed": seed}
    if kind:
        return fields | (DEMO if kind == "demo-" else {"steps": 8797})
    # The later stages: one in which half of the pictures skip the attention, if there is any, and
    # for which TFS is added; from x4 the other scales, with a new upsampler.
    fields |= {"batch": 8, "warmup": 100, "validate_every": 250}
    fields["attention_off"] = 0.0 if variant.startswith("local") else 0.5
    if scale != 4:
        return fields | {"steps": 3000, "learning_rate": 5e-4, "start": f"{variant}-x4-s{seed}"}
    start = f"scratch-{without_tfs(variant)}-x4-s{seed}/weights.safetensors"
    return fields | {"steps": 2000, "learning_rate": 3e-4, "start": start}


def without_tfs(name: str) -> str:
    """Return the variant or network that is the same but for TFS, or the name if that is it."""
    return f"{name}-notfs" if name in ("dtfn", "mini-dtfn") else name.removesuffix("+tfs")


def from_json(values: Mapping[str, Any]) -> Recipe:
    """Return the recipe of some fields; what is unknown, missing or unfit is an `InputError`."""
    for key in values:
        require_known(key, Recipe.__dataclass_fields__, "recipe", "a known field")
    try:
        return _RECIPE.validate_python(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        what, said = f"{first['loc'][0]} of a recipe", first["msg"].removeprefix("Input should be ")
        raise InputError(what, said, repr(first["input"]), "correct it") from None
