"""PSNR on pictures held out of training, while a network trains."""

from __future__ import annotations

import math

import lightning_fabric as lightning
import numpy as np
from torch import nn

from dtfn import evaluation, images, metrics, models, patches, paths
from dtfn.recipes import Recipe
from dtfn.training.states import gathered

Pair = tuple[images.UInt8, images.UInt8]


class Validation:
    """PSNR on the validation pictures, measured by the first process.

    Parameters
    ----------
    recipe
        Names the pictures, and the hyperparameters in testing.
    fabric
        Of the run.

    Raises
    ------
    InputError
        There are no such pictures.
    """

    def __init__(self, recipe: Recipe, fabric: lightning.Fabric) -> None:
        self.scale, self.active = recipe.scale, fabric.is_global_zero
        if self.active:
            self.pairs = pairs(recipe)
            # A network of its own: the trained one keeps its mode, its counters and its device.
            self.network = tested(recipe).to(fabric.device)

    def psnr(self, weights: nn.Module) -> float:
        """Return the mean PSNR (dB; Y, border = scale); every process has to call it."""
        state = gathered(weights.state_dict())
        if not self.active:
            return math.nan
        self.network.load_state_dict(state)
        made = [(evaluation.upscale(self.network, lr), hr) for lr, hr in self.pairs]
        return float(np.mean([metrics.psnr(sr, hr, self.scale) for sr, hr in made]))


def tested(recipe: Recipe) -> models.Network:
    """Return the recipe's network as it is tested, with any weights."""
    values = dict(recipe.hyperparameters) | dict(recipe.testing)
    return models.create(recipe.network, recipe.scale, hash_seed=recipe.seed, **values)


def sources(recipe: Recipe) -> dict[str, patches.Source]:
    """Return the validation pictures by name, not yet decoded.

    The folder is looked for in `dtfn.paths.validation_root`.

    Raises
    ------
    InputError
        There is no such folder, or no picture in it.
    """
    if recipe.validation == patches.EMBEDDED:
        found = patches.sources([patches.EMBEDDED], ())
    else:
        folder = paths.validation_root() / recipe.validation
        found = {f"{folder.name}/{file.stem}": file for file in patches.files(folder)}
    return dict(list(found.items())[: recipe.validation_count])


def pairs(recipe: Recipe) -> list[Pair]:
    """Return (LR, HR) uint8 RGB pairs of the validation pictures.

    Raises
    ------
    InputError
        As `sources`.
    """
    large = [
        images.modcrop(patches.decode(source), recipe.scale) for source in sources(recipe).values()
    ]
    return [(images.degrade(hr, recipe.scale), hr) for hr in large]
