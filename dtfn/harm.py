"""Where attention harms, and how much is at stake: pairs of methods, measured block by block.

A `Pair` holds two methods that differ in attention, and its controls: methods that differ by chance
alone. Harm of a block is its error with attention less that without it, from outputs that are not
rounded. `measure` looks at every picture once. `curve` and `textures` sum up what it found. They
weigh a block by its error, so a smooth block that differs by a hair counts for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from dtfn import datasets, evaluation, regions, statistics, texture, zoo
from dtfn.datasets import Sample
from dtfn.errors import InputError, require_known
from dtfn.metrics import Float
from dtfn.subpixel import block_error, interior, luma, psnr_of

EFFECT_DB = 0.01  # dB of a picture set's PSNR: below it, nothing that matters
EFFECT_SHARE = 0.5  # % of the error of a fifth: the same
FIFTHS = 5
REPLICATES = 4  # of a switch pair
KINDS = ("switch", "placebo", "twin")
ROLE, PICTURE = ["pair", "kind", "seed", "role"], statistics.PICTURE

Errors = Callable[[Sequence[str], Sample], Mapping[str, Float]]
"""(methods, picture) -> method -> block errors (H, W)."""


@dataclass(frozen=True)
class Pair:
    """Two methods that differ in attention, and methods that differ by chance alone.

    A ``switch`` pair is attention on and off in one network that was trained for both. A
    ``placebo`` is the network whose weights were uniform in training, too; a ``twin`` is a network
    without attention. A harmed texture is one where the replicates agree.
    """

    name: str  # the variant, e.g. nlsa
    kind: str  # of `KINDS`, or "results"
    seed: int  # of training
    on: str  # the methods with attention and without it
    off: str
    controls: tuple[tuple[str, str], ...] = ()  # two that differ by chance alone
    replicates: tuple[tuple[str, str], ...] = ()  # on and off again, with other chance

    @property
    def roles(self) -> dict[str, tuple[str, str]]:
        """``"pair"`` and ``"control 1"`` and so on -> (with attention, without)."""
        named = {f"control {n}": two for n, two in enumerate(self.controls, start=1)}
        return {"pair": (self.on, self.off), **named}


class Measured(NamedTuple):
    """What `measure` found; every row also holds pair, kind, seed, role, dataset and image.

    ``pictures``, a row a picture: psnr_on, psnr_off, gain (dB), mse_on, mse_off, positions, lost,
    won (dB of PSNR in harmed and helped textures that chance does not make), harmed, helped (their
    share of the positions, %). ``fifths``, a row a picture and fifth of severity (1 to 5):
    positions, off (mean error without attention), added, removed (mean error that attention adds,
    and removes; MSE). ``regions``, a row a texture: side (``harm`` or ``help``), top, left, height,
    width, area (LR positions), mass (MSE times positions), held (mean mass of the replicates),
    strength, p, q, region.
    """

    pictures: pd.DataFrame
    fifths: pd.DataFrame
    regions: pd.DataFrame


def pairs_of_zoo(
    scale: int,
    variants: Sequence[str] = (),
    kinds: Sequence[str] = KINDS,
    seeds: Sequence[int] = (),
) -> list[Pair]:
    """Return the pairs that the zoo has at a scale, those whose attention does most first.

    Controls and replicates of a switch pair are the same network under other hash seeds, or under
    flips of the picture where it does not hash. Controls of the other kinds are two local networks
    of different training seeds; such a pair without them is left out. Replicates are the pairs of
    other training seeds, where there are two or more.

    Variants are those with attention, e.g. ``"nlsa"``; without variants or training seeds all are
    taken. One that the zoo does not have at this scale, or no pair at all, is an `InputError`.
    """
    found = _pairs(scale, variants, kinds, seeds)
    if not found:
        names = ", ".join(row["name"] for row in zoo.registry() if row["scale"] == scale)
        remedy = "choose another scale or kind, or train networks with `dtfn train`"
        wanted = f"a pair of kind {' or '.join(kinds)}"
        raise InputError(f"zoo x{scale}", wanted, names or "no network", remedy)
    return found


def switches(scale: int, variants: Sequence[str] = (), seeds: Sequence[int] = ()) -> list[Pair]:
    """Return the switch pairs of the zoo and of weights files; none where there is none.

    Parameters are those of `pairs_of_zoo`; variants may be weights files too. A user's own network
    has no switch. An unknown variant, or a weights file of another scale, is an `InputError`.
    """
    found, names = [], [one for one in variants if not zoo.own(one)]
    for file in [name for name in names if Path(name).suffix in zoo.SUFFIXES]:
        names.remove(file)
        recipe = zoo.recipe(file)
        if recipe.scale != scale:
            raise InputError(file, f"scale {scale}", recipe.scale, "choose another file")
        if recipe.attention_off:
            found.append(_switch(recipe.network.removeprefix("mini-"), recipe.seed, file))
    return found if variants and not names else [*found, *_pairs(scale, names, ("switch",), seeds)]


def _pairs(
    scale: int, variants: Sequence[str], kinds: Sequence[str], seeds: Sequence[int]
) -> list[Pair]:
    rows = [row for row in zoo.registry() if row["scale"] == scale]
    rows.sort(key=lambda row: -(row.get("gate") or 0))
    names = {(row["variant"], int(row["seed"])): row["name"] for row in rows}
    attentive = {v for v, _ in names if not v.startswith(("local", "placebo"))}
    for variant in variants:
        if zoo.own(variant):
            remedy = "`dtfn gate` takes it, and 09_audit a twin of your choice: -p methods="
            wanted = "a network of the zoo, whose pairs are known"
            remedy += f"{variant},TWIN,CONTROL"
            raise InputError(f"pairs of {variant}", wanted, "a network of your own", remedy)
    for given, known in ((variants, attentive), (seeds, {seed for _, seed in names})):
        wanted = f"one of {', '.join(map(str, sorted(known))) or 'none'}"
        for one in given:
            require_known(str(one), set(map(str, known)), f"zoo x{scale}", wanted)
    local = sorted(seed for variant, seed in names if variant == "local")
    found = []
    for (variant, seed), name in names.items():
        if variant not in (variants or attentive) or (seeds and seed not in seeds):
            continue
        if "switch" in kinds and zoo.switched(name):
            found.append(_switch(variant, seed, name))
        # The next local network of another seed, and that of this seed, else of a further one.
        others = sorted((s for s in local if s != seed), key=lambda s: (s <= seed, s))
        if not others:
            continue
        other, own = (names["local", s] for s in (others[0], seed if seed in local else others[-1]))
        if "placebo" in kinds and ("placebo", seed) in names:
            off = names["placebo", seed]
            found.append(Pair(variant, "placebo", seed, name, off, ((own, other),)))
        if "twin" in kinds and own != other:
            found.append(Pair(variant, "twin", seed, name, other, ((own, other),)))
    again = {
        p: [q for q in found if (q.name, q.kind) == (p.name, p.kind) and q != p] for p in found
    }
    return [
        replace(pair, replicates=tuple((p.on, p.off) for p in others))
        if len(others) > 1 and not pair.replicates
        else pair
        for pair, others in again.items()
    ]


def _switch(variant: str, seed: int, name: str) -> Pair:
    off = f"{name}@off"
    again = [(f"{name}@turn({k})", f"{off}+turn({k})") for k in range(1, REPLICATES + 1)]
    if hashes(name):
        again = [(f"{name}@hash({k})", off) for k in range(1, REPLICATES + 1)]
    controls = tuple((on, name) for on, _ in again[:2])
    return Pair(variant, "switch", seed, name, off, controls, tuple(again))


def hashes(method: str) -> bool:
    """Return whether the attention of a method's network hashes."""
    from dtfn.models.attention import HashedAttention  # torch is not needed for folders

    layers = evaluation.network(method).modules()
    return any(isinstance(layer, HashedAttention) for layer in layers)


def measure(
    pairs: Sequence[Pair], samples: Iterable[Sample], errors: Errors = evaluation.block_errors
) -> Measured:
    """Measure pairs and their controls on pictures with their truth, one in memory at a time.

    ``errors`` is where block errors come from; `folder_errors` for results in folders. No picture,
    or two methods of a pair that are equal on every picture, are an `InputError`.
    """
    used = [(*pair.roles.values(), *pair.replicates) for pair in pairs]
    methods = list(dict.fromkeys(m for all_ in used for two in all_ for m in two))
    pictures, fifths, textures = [], [], []
    for sample in samples:
        made = errors(methods, sample)
        severity = interior(texture.severity(sample.hr, sample.scale))
        for pair in pairs:
            harms = {role: made[a] - made[b] for role, (a, b) in pair.roles.items()}
            chance = [harm for role, harm in harms.items() if role != "pair"]
            limit = regions.region_limit(np.stack(chance or [-harms["pair"]]))
            again = np.array([made[a] - made[b] for a, b in pair.replicates])
            for role, methods_of in pair.roles.items():
                key = (pair.name, pair.kind, pair.seed, role, sample.dataset, sample.image)
                on, off = (interior(made[method]) for method in methods_of)
                psnr, mse = (psnr_of(on), psnr_of(off)), (float(on.mean()), float(off.mean()))
                rise = psnr[0] - psnr[1] if mse[0] != mse[1] else 0.0
                pictures.append((*key, *psnr, rise, *mse, on.size))
                fifths += [(*key, *row) for row in _fifths(on, off, severity)]
                known = again if role == "pair" else again[:0]
                textures += [(*key, *row) for row in regions.rows(harms[role], limit, known)]
    if not pictures:
        raise InputError("pictures", "one or more", "none", "name some")
    keys = [*ROLE, *PICTURE]
    numbers = ["psnr_on", "psnr_off", "gain", "mse_on", "mse_off", "positions"]
    table = pd.DataFrame(pictures, columns=[*keys, *numbers])
    columns = [*keys, "fifth", "positions", "off", "added", "removed"]
    by_fifth = pd.DataFrame(fifths, columns=columns)
    ours = by_fifth[by_fifth["role"] == "pair"].groupby(["pair", "kind"])
    differ = ours[["added", "removed"]].any().any(axis=1)
    for pair in pairs:
        if not differ[pair.name, pair.kind]:
            found = f"{pair.on} and {pair.off} have equal outputs on every picture"
            wanted, remedy = "two methods that differ", "name another method"
            raise InputError(f"pair {pair.name!r}", wanted, found, remedy)
    judged = regions.judge(pd.DataFrame(textures, columns=[*keys, *regions.COLUMNS, "region"]))
    return Measured(_at_stake(table, judged), by_fifth, judged)


def _fifths(on: Float, off: Float, severity: Float) -> Iterator[tuple[float, ...]]:
    """Yield fifth, positions, and the means of e_off and of what attention adds and removes."""
    rank = rankdata(severity, method="ordinal").reshape(severity.shape) - 1
    fifth = rank * FIFTHS // severity.size
    harm = on - off
    for number in range(FIFTHS):
        here = fifth == number
        added, removed = (np.clip(sign * harm[here], 0, None).mean() for sign in (1, -1))
        yield number + 1, int(here.sum()), float(off[here].mean()), float(added), float(removed)


def _at_stake(pictures: pd.DataFrame, judged: pd.DataFrame) -> pd.DataFrame:
    """Return the pictures with what is lost and won in their discoveries."""
    keys, found = [*ROLE, *PICTURE], regions.discoveries(judged)
    table = pictures
    for side, area, decibels, base in (
        ("harm", "harmed", "lost", "mse_on"),
        ("help", "helped", "won", "mse_off"),
    ):
        ours = found[found["side"] == side].groupby(keys)[["area", "held"]].sum()
        ours = ours.astype(float).rename(columns={"area": area}).reset_index()
        table = table.merge(ours, on=keys, how="left").fillna({area: 0.0, "held": 0.0})
        share = table.pop("held") / table["positions"] / table[base]
        table[area] *= 100 / table["positions"]
        table[decibels] = -10 * np.log10(1 - share.clip(0, 1 - 1e-12).fillna(0))
    return table


def folder_errors(methods: Sequence[str], sample: Sample) -> dict[str, Float]:
    """Return the block errors of 8-bit results that the sample holds; ties are exact."""
    y = luma(sample.hr)
    return {m: block_error(sample.outputs[m], y, sample.scale) for m in methods}


def curve(fifths: pd.DataFrame) -> pd.DataFrame:
    """Return the harm curve: what attention does to the error of each fifth of severity.

    ``fifths`` is of `measure`.

    Returns
    -------
    A row a pair, kind, role and fifth: net (the change of error in % of the error without
    attention; above 0, attention harms) with low and high, the ends of its 95 % interval; added and
    removed, its two parts (%); seeds, pictures. All controls of a pair are one role, ``control``.
    """
    changes = one_control(fifths)
    changes[["added", "removed"]] *= 100
    changes["net"] = changes["added"] - changes["removed"]
    by, parts = ["pair", "kind", "role", "fifth"], ["added", "removed"]
    table = statistics.crossed_by(changes, by, ["net", *parts], "off")
    table = table.rename(columns={"net_low": "low", "net_high": "high"})
    return table.drop(columns=[f"{part}{end}" for part in parts for end in ("_low", "_high")])


def gains(pictures: pd.DataFrame) -> pd.DataFrame:
    """Return gain, lost and won of `measure`'s pictures: `statistics.crossed_by` role and dataset.

    All controls of a pair are one role, ``control``.
    """
    by = ["pair", "kind", "role", "dataset"]
    return statistics.crossed_by(one_control(pictures), by, ["gain", "lost", "won"])


def textures(measured: Measured) -> pd.DataFrame:
    """Return how many textures each pair harms and helps, and what is at stake in them.

    Returns
    -------
    A row a pair, kind and role: seeds, pictures, harmed and helped (textures that chance does not
    make, see `dtfn.regions.judge`: false discovery rate 5 %), harmed_area, helped_area (% of the
    positions), lost, won (dB of PSNR in them, mean over pictures). All controls of a pair are one
    role, ``control``.
    """
    keys, sides = ["pair", "kind", "role"], {"harm": "harmed", "help": "helped"}
    pictures = one_control(measured.pictures)
    pictures["picture"] = pictures["dataset"] + "/" + pictures["image"]
    groups = pictures.groupby(keys, sort=False)
    sizes = groups.agg(seeds=("seed", "nunique"), pictures=("picture", "nunique"))
    counts = one_control(regions.discoveries(measured.regions)).groupby([*keys, "side"]).size()
    counts = counts.unstack("side").reindex(index=sizes.index, columns=list(sides)).fillna(0)
    means = groups[["harmed", "helped", "lost", "won"]].mean()
    means = means.rename(columns={side: f"{side}_area" for side in sides.values()})
    return pd.concat([sizes, counts.astype(int).rename(columns=sides), means], axis=1).reset_index()


def one_control(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table of `measure` with all controls of a pair as one role, ``control``."""
    return table.assign(role=table["role"].str.split(" ").str[0])


def networks(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with the column network: variant and training seed."""
    return table.assign(network=table["pair"] + " " + table["seed"].astype(str))


def cases(
    measured: Measured,
    pair: Pair,
    most: int = 3,
    samples: Iterable[Sample] | None = None,
    errors: Errors = evaluation.block_errors,
) -> list[regions.Case]:
    """Return the heaviest textures of harm, then those of help; one a picture and side at most.

    Discoveries come first; where there are fewer than asked for, other regions follow, and their
    ``q`` says so. Of results in folders the controls are shown, too.

    Parameters
    ----------
    measured, pair
        Of `measure`, and one of the pairs that it measured.
    most
        How many of each side.
    samples
        Where the pictures are found; none: benchmarks. Networks run on what is shown, unless the
        outputs are there.
    errors
        As for `measure`.
    """
    table = measured.regions
    table = table[(table[ROLE] == [pair.name, pair.kind, pair.seed, "pair"]).all(axis=1)]
    table = table.assign(open=~(table["q"] <= regions.LEVEL), light=-table["mass"])
    chosen = table.sort_values(["side", "open", "light"], kind="stable")
    chosen = chosen.drop_duplicates(["side", *PICTURE]).groupby("side").head(most)
    wanted = dict.fromkeys(zip(chosen["dataset"], chosen["image"], strict=True))
    if samples is None and wanted:
        scale = int(evaluation.network(pair.on).scale)  # type: ignore[arg-type]
        samples = (datasets.sample(*place, scale) for place in wanted)
    others = [method for method, _ in pair.controls] if pair.kind == "results" else []
    methods = (pair.on, pair.off, *others)
    found: dict[int, regions.Case] = {}
    for sample in samples or ():
        here = chosen[(chosen["dataset"] == sample.dataset) & (chosen["image"] == sample.image)]
        if here.empty:
            continue
        made = dict(errors(methods, sample))
        lacking = [method for method in methods if method not in sample.outputs]
        outputs = evaluation.outputs(lacking, sample) if lacking else {}
        sample = sample.with_outputs({name: one.image for name, one in outputs.items()})
        harm = made[pair.on] - made[pair.off]
        for row in here.itertuples():
            window = row.region.window(harm.shape)
            place = (row.side, pair.name, methods, row.region, window, row.p, row.q)
            found[row.Index] = regions.Case(sample, *place, harm, made)
        if len(found) == len(chosen):
            break
    return [found[index] for index in chosen.index if index in found]
