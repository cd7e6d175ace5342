"""Where attention harms, and how much is at stake: pairs of methods, measured block by block.

A `Pair` holds two methods that differ in attention, and its controls: methods that differ by chance
alone. Harm of a block is its error with attention less that without it, from outputs that are not
rounded. All figures weigh a block by its error, so a smooth block that differs by a hair counts for
nothing.

A harmed texture is a region that chance does not make, see `dtfn.regions`.
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dtfn import datasets, evaluation, statistics, texture, zoo
from dtfn.datasets import Sample
from dtfn.errors import InputError, require_known
from dtfn.methods import hashes, labels, network
from dtfn.regions import LEVEL, PLACE, Region, discoveries, find_regions, judge, region_limit
from dtfn.subpixel import PEAK, Float, interior, psnr_of

EFFECT_DB = 0.01  # dB of a picture set's PSNR: below it, nothing that matters
EFFECT_SHARE = 0.5  # % of the error of a fifth: the same
FIFTHS = 5
REPLICATES = 4  # of a switch pair
KINDS = ("switch", "choice", "placebo", "twin")
ROLE, PICTURE = ["pair", "kind", "seed", "role"], statistics.PICTURE

Errors = Callable[[Sequence[str], Sample], Mapping[str, Float]]
"""(methods, picture) -> method -> block errors (H, W)."""


@dataclass(frozen=True)
class Pair:
    """Two methods that differ in attention, and methods that differ by chance alone.

    A ``switch`` pair is attention on and off in one network that was trained for both. A
    ``choice`` pair is a user's own network as it is, and with equal weights for the same keys. A
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
    won (dB of PSNR in harmed and helped textures that chance does not make), lost_retrained,
    won_retrained (the same textures, measured in the pairs of other training seeds; NaN without),
    harmed, helped (their share of the positions, %). ``fifths``, a row a picture and fifth of
    severity (1 to 5): positions, off (mean error without attention), added, removed (mean error
    that attention adds, and removes; MSE). ``regions``, a row a texture: side (``harm`` or
    ``help``), top, left, height, width, area (LR positions), mass (MSE times positions), held and
    retrained (mean mass of the replicates, and in the pairs of other training seeds), strength
    (excess of smoothed harm, summed, in thresholds), p, q, region.
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
    flips of the picture where it does not hash. Of the other kinds, controls are two local networks
    of different training seeds, replicates the pairs of two or more other training seeds.

    Variants are those with attention, e.g. ``"nlsa"``, or networks of a user's own, each of which
    has a choice pair whatever the kinds; without variants or training seeds all are taken. One that
    the zoo does not have at this scale, or no pair at all, is an `InputError`. The placebo has a
    switch pair alone: a control of what an attention does that cannot choose.
    """
    found = _pairs(scale, variants, kinds, seeds)
    if not found:
        names = ", ".join(row["name"] for row in zoo.registry() if row["scale"] == scale)
        remedy = "choose another scale or kind, or train networks with `dtfn train`"
        wanted = f"a pair of kind {' or '.join(kinds)}"
        raise InputError(f"zoo x{scale}", wanted, names or "no network", remedy)
    return found


def switches(scale: int, variants: Sequence[str] = (), seeds: Sequence[int] = ()) -> list[Pair]:
    """Return the switch pairs of the zoo, or of variants and weights files; perhaps none.

    A user's own network has no switch, and a placebo looks at nothing. Parameters and errors are
    those of `pairs_of_zoo`; a weights file of another scale is an `InputError`, too.
    """
    found, names = [], [one for one in variants if not zoo.own(one)]
    for file in [name for name in names if Path(name).suffix in zoo.SUFFIXES]:
        names.remove(file)
        recipe = zoo.recipe(file)
        if recipe.scale != scale:
            raise InputError(file, f"scale {scale}", recipe.scale, "choose another file")
        if recipe.attention_off:
            variant = recipe.network.removeprefix("mini-")
            found.append(_within(variant, "switch", recipe.seed, file, "off"))
    if names or not variants:
        pairs = _pairs(scale, names, ("switch",), seeds)
        found += [pair for pair in pairs if pair.name != "placebo"]
    return found


def _pairs(
    scale: int, variants: Sequence[str], kinds: Sequence[str], seeds: Sequence[int]
) -> list[Pair]:
    rows = [row for row in zoo.registry() if row["scale"] == scale]
    rows.sort(key=lambda row: -(row.get("gate") or 0))
    names = {(row["variant"], int(row["seed"])): row["name"] for row in rows}
    attentive = {v for v, _ in names if not v.startswith("local")}
    mine = [variant for variant in variants if zoo.own(variant)]
    found = [_within(s, "choice", 0, name, "uniform") for name, s in labels(mine).items()]
    variants = [variant for variant in variants if variant not in mine]
    if mine and not variants:
        return found
    for given, known in ((variants, attentive), (seeds, {seed for _, seed in names})):
        wanted = f"one of {', '.join(map(str, sorted(known))) or 'none'}"
        for one in given:
            require_known(str(one), set(map(str, known)), f"zoo x{scale}", wanted)
    local = sorted(seed for variant, seed in names if variant == "local")
    for (variant, seed), name in names.items():
        if variant not in (variants or attentive) or (seeds and seed not in seeds):
            continue
        if "switch" in kinds and zoo.switched(name):
            found.append(_within(variant, "switch", seed, name, "off"))
        # The next local network of another seed, and that of this seed, else of a further one.
        others = sorted((s for s in local if s != seed), key=lambda s: (s <= seed, s))
        if not others:
            continue
        other, own = (names["local", s] for s in (others[0], seed if seed in local else others[-1]))
        if variant == "placebo":  # a control itself: nothing but the switch is asked of it
            continue
        if "placebo" in kinds and ("placebo", seed) in names:
            off = names["placebo", seed]
            found.append(Pair(variant, "placebo", seed, name, off, ((own, other),)))
        if "twin" in kinds and own != other:
            found.append(Pair(variant, "twin", seed, name, other, ((own, other),)))
    for number, pair in enumerate(found):
        again = [p for p in found if (p.name, p.kind) == (pair.name, pair.kind) and p.on != pair.on]
        # As replicates of chance they must be independent, so no two may share a network.
        apart = len({pair.off, *(p.off for p in again)}) == len(again) + 1
        if len(again) > 2 and apart and not pair.replicates:
            found[number] = replace(pair, replicates=tuple((p.on, p.off) for p in again))
    return found


def _within(variant: str, kind: str, seed: int, name: str, change: str) -> Pair:
    """Return the pair of a network and the same network with its attention changed."""
    off = f"{name}@{change}"
    again = [(f"{name}@turn({k})", f"{off}+turn({k})") for k in range(1, REPLICATES + 1)]
    if hashes(name):
        again = [(f"{name}@hash({k})", off) for k in range(1, REPLICATES + 1)]
    controls = tuple((on, name) for on, _ in again[:2])
    return Pair(variant, kind, seed, name, off, controls, tuple(again))


def measure(
    pairs: Sequence[Pair], samples: Iterable[Sample], errors: Errors = evaluation.block_errors
) -> Measured:
    """Measure pairs and their controls on pictures with their truth, one in memory at a time.

    No picture, or two methods of a pair that are equal on every picture, are an `InputError`.
    """
    used = [(*pair.roles.values(), *pair.replicates) for pair in pairs]
    methods = list(dict.fromkeys(m for all_ in used for two in all_ for m in two))
    others = {
        pair: [
            p for p in pairs if (p.name, p.kind) == (pair.name, pair.kind) and p.seed != pair.seed
        ]
        for pair in pairs
    }
    keys = [*ROLE, *PICTURE]
    pictures, fifths, found = [], [], []
    for sample in samples:
        made = errors(methods, sample)
        severity = interior(texture.severity(sample.hr, sample.scale))
        rank = severity.argsort(axis=None, kind="stable").argsort().reshape(severity.shape)
        fifth = 1 + rank * FIFTHS // severity.size
        for pair in pairs:
            harms = {role: made[a] - made[b] for role, (a, b) in pair.roles.items()}
            limit = region_limit([*harms.values()][1:] or [*harms.values()])  # of the controls
            again = np.array([made[a] - made[b] for a, b in pair.replicates])
            retrained = np.array([made[p.on] - made[p.off] for p in others[pair]])
            for role, two in pair.roles.items():
                one = (pair.name, pair.kind, pair.seed, role, sample.dataset, sample.image)
                key = dict(zip(keys, one, strict=True))
                on, off = (interior(made[method]) for method in two)
                means = {"mse_on": on.mean(), "mse_off": off.mean(), "positions": on.size}
                pictures.append(key | means)
                for number in range(1, FIFTHS + 1):
                    here = fifth == number
                    change = (on - off)[here]
                    row = {"fifth": number, "positions": here.sum(), "off": off[here].mean()}
                    row |= {"added": change.clip(0).mean(), "removed": (-change).clip(0).mean()}
                    fifths.append(key | row)
                known = (again, retrained) if role == "pair" else (again[:0], retrained[:0])
                found += [key | row for row in find_regions(harms[role], limit, *known)]
    if not pictures:
        raise InputError("pictures", "one or more", "none", "name some")
    by_fifth = pd.DataFrame(fifths)
    ours = by_fifth[by_fifth["role"] == "pair"].groupby(["pair", "kind"])
    differ = ours[["added", "removed"]].any().any(axis=1)
    for pair in pairs:
        if not differ[pair.name, pair.kind]:
            equal = f"{pair.on} and {pair.off} have equal outputs on every picture"
            wanted, remedy = "two methods that differ", "name another method"
            raise InputError(f"pair {pair.name!r}", wanted, equal, remedy)
    columns = [*keys, "side", *PLACE, "mass", "held", "retrained", "strength", "p", "region"]
    regions = judge(pd.DataFrame(found, columns=columns))
    table = pd.DataFrame(pictures)
    with np.errstate(divide="ignore", invalid="ignore"):
        for side in ("on", "off"):
            table[f"psnr_{side}"] = 10 * np.log10(PEAK**2 / table[f"mse_{side}"])
        table["gain"] = (table["psnr_on"] - table["psnr_off"]).fillna(0)  # both infinite
    table = table[[*keys, "psnr_on", "psnr_off", "gain", "mse_on", "mse_off", "positions"]]
    seeds = table.groupby(["pair", "kind"])["seed"].transform("nunique")
    alone = (seeds < 2) | (table["role"] != "pair")
    masses = ["area", "held", "retrained"]
    for side, area, cost, base in (
        ("harm", "harmed", "lost", "mse_on"),
        ("help", "helped", "won", "mse_off"),
    ):
        sums = discoveries(regions[regions["side"] == side]).groupby(keys)[masses].sum()
        sums = sums.reindex(pd.MultiIndex.from_frame(table[keys]), fill_value=0).astype(float)
        shares = sums.to_numpy() / table[["positions"]].to_numpy()
        table[area] = 100 * shares[:, 0]
        for column, mass in ((cost, shares[:, 1]), (f"{cost}_retrained", shares[:, 2])):
            share = (mass / table[base]).clip(upper=1 - 1e-12).fillna(0)
            table[column] = -10 * np.log10(1 - share)
        table[f"{cost}_retrained"] = table[f"{cost}_retrained"].mask(alone)
    return Measured(table, by_fifth, regions)


def curve(fifths: pd.DataFrame) -> pd.DataFrame:
    """Return the harm curve: what attention does to the error of each fifth of severity.

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
    """Return gain, lost and won (dB) of `measure`'s pictures, by role and dataset."""
    by = ["pair", "kind", "role", "dataset"]
    return statistics.crossed_by(one_control(pictures), by, ["gain", "lost", "won"])


def textures(measured: Measured) -> pd.DataFrame:
    """Return how many textures each pair harms and helps, and what is at stake in them.

    A row a pair, kind and role: seeds, pictures, harmed and helped (numbers of `discoveries`),
    harmed_area, helped_area (% of the positions), lost, won (dB of PSNR in them, mean over
    pictures). All controls of a pair are one role, ``control``.
    """
    keys = ["pair", "kind", "role"]
    pictures = one_control(measured.pictures)
    pictures["picture"] = pictures["dataset"] + "/" + pictures["image"]
    groups = pictures.groupby(keys, sort=False)
    table = groups.agg(seeds=("seed", "nunique"), pictures=("picture", "nunique"))
    found = one_control(discoveries(measured.regions))
    for side in ("harm", "help"):
        counts = found[found["side"] == side].groupby(keys).size()
        table[f"{side}ed"] = counts.reindex(table.index, fill_value=0)
    means = groups[["harmed", "helped", "lost", "won"]].mean()
    means = means.rename(columns={"harmed": "harmed_area", "helped": "helped_area"})
    return table.join(means).reset_index()


def one_control(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table of `measure` with all controls of a pair as one role, ``control``."""
    return table.assign(role=table["role"].str.split(" ").str[0])


@dataclass(frozen=True, eq=False)
class Case:
    """A region with all that shows it; maps are on the whole LR grid ``(H, W)``, MSE."""

    sample: Sample  # the whole picture with the outputs of the methods
    side: str  # harm or help
    pair: str
    methods: tuple[str, ...]  # on and off of the pair, then others
    region: Region
    p: float  # see `judge`, also q; NaN without controls
    q: float
    errors: Mapping[str, Float]  # of each method

    @property
    def harm(self) -> Float:
        """Error of the first method less that of the second."""
        return self.errors[self.methods[0]] - self.errors[self.methods[1]]

    @property
    def window(self) -> tuple[int, int, int, int]:
        """What is shown: top, left, height, width (LR positions)."""
        return self.region.window(self.harm.shape)

    @property
    def view(self) -> Sample:
        """The window of LR, HR and all outputs."""
        return self.sample.crop(*self.window)

    @functools.cached_property
    def maps(self) -> dict[str, dict[str, Float]]:
        """Method -> measure -> `dtfn.texture.distortion_maps` of the whole picture."""
        one = self.sample
        return {m: texture.distortion_maps(one.outputs[m], one.hr, one.scale) for m in self.methods}

    def crop(self, values: NDArray[Any], pixels: int = 1) -> NDArray[Any]:
        """Return the window of a map over the LR grid, or of a picture of more pixels."""
        top, left, height, width = (pixels * n for n in self.window)
        return values[top : top + height, left : left + width]

    def outline(self) -> NDArray[np.bool_]:
        """Return which positions of the window belong to the region."""
        whole = np.zeros(self.harm.shape, bool)
        whole[self.region.place] = self.region.inside
        return self.crop(whole)


def cases(
    measured: Measured,
    pair: Pair,
    most: int = 3,
    samples: Iterable[Sample] | None = None,
    errors: Errors = evaluation.block_errors,
    more: Sequence[str] = (),
) -> list[Case]:
    """Return the heaviest textures of harm, then those of help; one a picture and side at most.

    ``most`` is how many of each side. Discoveries come first; where there are fewer, other regions
    follow, and their ``q`` says so. The methods ``more`` are shown, too, and of results in
    folders the controls. ``samples`` are where the pictures are found; without, benchmarks.
    Networks run on what is shown, unless the outputs are there. ``errors`` is as for `measure`.
    """
    table = measured.regions
    table = table[(table[ROLE] == [pair.name, pair.kind, pair.seed, "pair"]).all(axis=1)]
    table = table.assign(open=~(table["q"] <= LEVEL), light=-table["mass"])
    chosen = table.sort_values(["side", "open", "light"], kind="stable")
    chosen = chosen.drop_duplicates(["side", *PICTURE]).groupby("side").head(most)
    if samples is None and len(chosen):
        scale = int(network(pair.on).scale)  # type: ignore[arg-type]
        places = dict.fromkeys(zip(chosen["dataset"], chosen["image"], strict=True))
        samples = (datasets.sample(*place, scale) for place in places)
    others = [method for method, _ in pair.controls] if pair.kind == "results" else []
    methods = (pair.on, pair.off, *others, *more)
    found: dict[object, Case] = {}
    for sample in samples or ():
        here = chosen[(chosen[PICTURE] == [sample.dataset, sample.image]).all(axis=1)]
        if here.empty:
            continue
        made = errors(methods, sample)
        lacking = [method for method in methods if method not in sample.outputs]
        outputs = {name: one.image for name, one in evaluation.outputs(lacking, sample).items()}
        sample = replace(sample, outputs={**sample.outputs, **outputs})
        for row in here.itertuples():
            place = (row.side, pair.name, methods, row.region, row.p, row.q)
            found[row.Index] = Case(sample, *place, made)
        if len(found) == len(chosen):
            break
    return [found[index] for index in chosen.index if index in found]


def case_table(cases: Sequence[Case]) -> pd.DataFrame:
    """Return how good each method is in each region: a row a case and method.

    number (from 1), pair, side, dataset, image, `PLACE`, p, q, severity (MSE that bicubic has
    there), method, psnr (dB), and the measures of `dtfn.texture.distortion_maps`, all means over
    the region's positions.
    """
    rows = []
    for number, case in enumerate(cases, start=1):
        of, sample = case.region.of, case.sample
        lost = of(texture.severity(sample.hr, sample.scale)).mean()
        row = (number, case.pair, case.side, sample.dataset, sample.image, *case.region.numbers)
        for method in case.methods:
            measures = [of(case.maps[method][measure]).mean() for measure in texture.DISTORTIONS]
            psnr = psnr_of(of(case.errors[method]))
            rows.append((*row, case.p, case.q, lost, method, psnr, *measures))
    names = ["number", "pair", "side", *PICTURE, *PLACE, "p", "q", "severity", "method", "psnr"]
    return pd.DataFrame(rows, columns=[*names, *texture.DISTORTIONS])
