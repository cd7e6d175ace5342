"""The trainer: one loop for CPU and GPUs, exactly resumable, as every step depends on its number.

`train` is the whole of it; `main` is what the command line calls. `run` holds the loop, `steps` one
step, `states` what changes and its checkpoints, `processes` the hardware, `history` and
`validation` what is seen of it. Recipes are in `dtfn.recipes`.
"""

from dtfn.recipes import Recipe, preset
from dtfn.training.run import Diverged, main, train
from dtfn.training.steps import Objective, one_step
from dtfn.training.validation import pairs as validation_pairs

__all__ = [
    "Diverged",
    "Objective",
    "Recipe",
    "main",
    "one_step",
    "preset",
    "train",
    "validation_pairs",
]
