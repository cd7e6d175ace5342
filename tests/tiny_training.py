"""A training run of seconds: three smooth pictures, a network of eight features, a few steps.

Run as a program it is a process that can be killed, or one of several that train together::

    python tiny_training.py WORLD OUT '{"devices": 2}'
"""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from dtfn import images, paths, recipes, training
from dtfn.recipes import Recipe

HERE = Path(__file__)


def make(world: Path) -> None:
    """Write three training pictures and one to validate on."""
    rng = np.random.default_rng(0)
    for index in range(4):
        smooth = gaussian_filter(rng.random((70, 80, 3)), (1.5, 1.5, 0))
        low, high = smooth.min(), smooth.max()
        folder = world / ("val/v" if index == 3 else "train/t")
        folder.mkdir(parents=True, exist_ok=True)
        pixels = (255 * (smooth - low) / (high - low)).astype(np.uint8)
        images.write(folder / f"{index}.png", pixels)
    (world / "benchmarks").mkdir()


def places(world: Path) -> dict[str, str]:
    """Return the environment in which `make`'s pictures are the only ones."""
    return {"DTFN_DATA": str(world / "benchmarks"), "DTFN_TRAIN": str(world / "train")}


def enter(patch: pytest.MonkeyPatch, world: Path) -> None:
    """Make the pictures of `make`, and a cache beside them, the only ones."""
    for name, value in places(world).items():
        patch.setenv(name, value)
    patch.setattr(paths, "CACHE", world / "cache")


def recipe(name: str = "dtfn-x2-s0", **changes: Any) -> Recipe:
    """Return a recipe with hashed attention and an average, in float32."""
    small: dict[str, Any] = {"sets": ("t",), "validation": "v", "validation_count": 1, "steps": 6}
    small |= {"batch": 4, "patch": 12, "warmup": 2, "validate_every": 3, "checkpoint_every": 0.0}
    small |= {"ema": 0.9, "precision": "32-true", "start": "", "learning_rate": 1e-3}
    sizes = {"n_feats": 8, "n_resgroups": 1, "n_resblocks": 1, "chunk_size": 16}
    return recipes.preset(name, **small | {"hyperparameters": sizes} | changes)


@contextlib.contextmanager
def stopped(before: int | None) -> Iterator[None]:
    """End the training in a block before a step, as a kill does: nothing is written then."""

    def ending(take: Callable[..., Any]) -> Callable[..., Any]:
        def step(run: training.Run, *rest: Any) -> Any:
            if run.tally.step == before:
                raise SystemExit
            return take(run, *rest)

        return step

    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(SystemExit):
        patch.setattr(training.Run, "step", ending(training.Run.step))
        patch.setattr(training.Lane, "turn", ending(training.Lane.turn))
        yield


if __name__ == "__main__":
    place, options = Path(sys.argv[1]), json.loads(sys.argv[3])
    os.environ.update(places(place))
    paths.CACHE = place / "cache"
    with stopped(options.pop("stop", None)):
        training.train(recipe(), Path(sys.argv[2]), accelerator="cpu", threads=1, **options)
