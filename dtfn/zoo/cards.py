"""Model cards: what a shipped network is, how it was trained and how well it does, as Markdown."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from dtfn.recipes import Recipe

CARD = """# {name}

{what}: {parameters:,} parameters, x{scale}, training seed {seed}. RGB in [0, 1], (N, 3, H, W) to
(N, 3, {scale}H, {scale}W).

- File: `{file}`, SHA-256 `{sha256}`
- Stored as {stored}
- Use: `dtfn.models.load("{name}")`
- Train it again and compare: `dtfn zoo retrain {name}`

## Quality

Mean PSNR (dB) and SSIM on the Y channel, not rounded, with a border of {scale} pixels left out; LR
by MATLAB's bicubic; {how}, no self-ensemble.

{quality}

On {validation_count} pictures of {validation}, by which nothing was chosen:
{validation_psnr:.3f} dB.

## Training

- Data: {sets}{without}
- Patches: every position in every picture equally likely, flipped and turned at random; LR by
  MATLAB's bicubic. No test picture is among the data: training refuses those.
- Start: {start}
- Steps: {steps}, of {batch} patches of {patch} x {patch} LR pixels; {skipped} skipped as not finite
- Time: {minutes:.1f} minutes, {seconds:.3f} s a step{loader}
- Machine: {machine}; processes: {processes}

The recipe, field by field:

{recipe}

The curve is in `{name}.csv`.

## Software

{versions}

## Limits

Trained to show what an architecture does at equal cost, not to lead a benchmark: the pictures are
few, and other degradations than MATLAB's bicubic were never seen.
"""


START = """# {name}

What networks of the zoo start from; no result of its own.

- File: `{name}.safetensors`, SHA-256 `{sha256}`

The recipe, field by field:

{recipe}

The curve is in `{name}.csv`.
"""


def card(
    entry: Mapping[str, Any], recipe: Recipe, run: Mapping[str, Any],
    history: Sequence[Mapping[str, float]],
) -> str:  # fmt: skip
    """Return a network's card.

    Parameters
    ----------
    entry
        Its entry in the zoo's registry.
    recipe
        How it was trained.
    run
        Facts of the run: ``run.json``.
    history
        Rows of its ``history.csv``, one or more.
    """
    numbers = (
        (name, f"{entry['psnr'][name]:.2f} / {entry['ssim'][name]:.4f}") for name in entry["psnr"]
    )
    versions = ((name, v) for name, v in run["versions"].items() if v != "missing")
    share = run["loader_share"]
    return CARD.format(
        **{key: entry[key] for key in ("name", "scale", "seed", "parameters", "file", "sha256")},
        stored=entry["stored"],
        how="tiles of {} LR pixels that overlap by {}".format(*entry["tile"])
        if entry["tile"]
        else "whole pictures",
        what=f"`{recipe.network}`",
        quality=table(("benchmark", "PSNR / SSIM"), numbers),
        validation=recipe.validation, validation_count=recipe.validation_count,
        validation_psnr=history[-1]["psnr"],
        steps=recipe.steps, batch=recipe.batch, patch=recipe.patch,
        minutes=run["seconds"] / 60, seconds=run["seconds"] / recipe.steps,
        loader="" if share is None else f", {100 * share:.1f} % of it waiting for patches",
        skipped=run["skipped"], processes=run["processes"],
        start=f"`{recipe.start}`, SHA-256 `{run['start']}`" if run.get("start") else recipe.start
        or "random weights",
        machine=", ".join(f"{key} {value}" for key, value in run["machine"].items()),
        sets=", ".join(recipe.sets),
        without=f" without {', '.join(recipe.exclude)}" if recipe.exclude else "",
        recipe=_fields(recipe),
        versions=table(("package", "version"), versions),
    )  # fmt: skip


def start(name: str, sha256: str, recipe: Recipe) -> str:
    """Return what is known of a network that others start from, by its name and SHA-256."""
    return START.format(name=name, sha256=sha256, recipe=_fields(recipe))


def _fields(recipe: Recipe) -> str:
    """Return a recipe as a table of the fields that say something."""
    fields = dataclasses.asdict(recipe).items()
    rows = ((key, f"`{value}`") for key, value in fields if value not in ("", ()))
    return table(("field", "value"), rows)


def table(head: tuple[str, str], rows: Any) -> str:
    """Return a Markdown table of two columns."""
    lines = [head, ("---", "---"), *rows]
    return "\n".join(f"| {left} | {right} |" for left, right in lines)
