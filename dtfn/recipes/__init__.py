"""Training recipes: all that decides the weights of a run, as frozen data. Imports no torch."""

from dtfn.recipes.presets import AUTHORS, DEMO, VARIANTS, preset, split_name
from dtfn.recipes.recipe import CHOICES, KNOWN_LEAKS, Recipe, from_json, from_text

__all__ = [
    "AUTHORS",
    "CHOICES",
    "DEMO",
    "KNOWN_LEAKS",
    "VARIANTS",
    "Recipe",
    "from_json",
    "from_text",
    "preset",
    "split_name",
]
