"""Where attention harms, and how much is at stake: pairs of methods, measured block by block.

A `Pair` holds two methods that differ in attention, and its controls: methods that differ by chance
alone. Harm of a block is its error with attention less that without it, from outputs that are not
rounded. All figures weigh a block by its error. A harmed texture is a region that chance does not
make, see `dtfn.regions`.
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
from dtfn.regions import PLACE, Region, discoveries, find_regions, heaviest, judge, region_limit
from dtfn.subpixel import Float, interior, psnr_of

EFFECT_DB = 0.01  # dB of a picture set's PSNR: below it, nothing that matters
EFFECT_SHARE = 0.5  # % of the error of a fifth: the same
FIFTHS = 5
KINDS = ("switch", "choice", "placebo", "twin")
ROLE, PICTURE = ["pair", "kind", "seed", "role"], statistics.PICTURE


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
    needed: bool = True,
) -> list[Pair]:
    """Return the pairs that the zoo has at a scale, those whose attention does most first.

    Controls and replicates of a switch pair are the same network under other hash seeds, or under
    flips of the picture where it does not hash. Of the other kinds, controls are two local networks
    of different training seeds. The placebo has a switch pair alone.

    Variants are those with attention, e.g. ``"nlsa"``, weights files, or networks of a user's own,
    each of which has a choice pair whatever the kinds; without variants or training seeds all are
    taken. One that is not there at this scale is an `InputError`, and so is no pair, if ``needed``.
    """
    rows = [row for row in zoo.registry() if row["scale"] == scale]
    best = sorted(rows, key=lambda row: -(row.get("gate") or 0))
    names = {(row["variant"], int(row["seed"])): row["name"] for row in best}
    local = {seed for variant, seed in names if variant == "local"}
    attentive = {v for v, _ in names if not v.startswith("local")}
    short, found, rest = labels(filter(zoo.own, variants)), list[Pair](), list[str]()
    for name in dict.fromkeys(variants):
        if name in short:
            found.append(_within(short[name], "choice", 0, name, "uniform"))
        elif Path(name).suffix in zoo.SUFFIXES:
            recipe = zoo.recipe(name)
            if recipe.scale != scale:
                raise InputError(name, f"scale {scale}", recipe.scale, "choose another file")
            if needed and not recipe.attention_off:
                wanted, remedy = "weights trained with attention on and off", "choose another file"
                raise InputError(name, wanted, "a recipe without attention_off", remedy)
            if recipe.attention_off and "switch" in kinds:
                variant = recipe.network.removeprefix("mini-")
                found.append(_within(variant, "switch", recipe.seed, name, "off"))
        else:
            rest.append(name)
    if variants and not rest:
        names, seeds = {}, ()
    for given, known in ((rest, attentive), (seeds, {seed for _, seed in names})):
        wanted = f"one of {', '.join(map(str, sorted(known))) or 'none'}"
        for one in given:
            require_known(str(one), set(map(str, known)), f"zoo x{scale}", wanted)
    for (variant, seed), name in names.items():
        if variant not in (rest or attentive) or (seeds and seed not in seeds):
            continue
        if "switch" in kinds and zoo.switched(name):
            found.append(_within(variant, "switch", seed, name, "off"))
        # The next local network of another seed, and that of this seed, else of a further one.
        others = sorted(local - {seed}, key=lambda s: (s <= seed, s))
        own = [seed] if seed in local else others[1:][-1:]
        if variant == "placebo" or not others or not own:  # of a placebo only the switch is asked
            continue
        control = names["local", own[0]], names["local", others[0]]
        for kind, off in (("placebo", names.get(("placebo", seed))), ("twin", control[1])):
            if kind in kinds and off:
                found.append(Pair(variant, kind, seed, name, off, (control,)))
    named = [f"{pair.name} s{pair.seed} ({pair.kind})" for pair in found]
    if twice := [name for name in named if named.count(name) > 1]:
        wanted, remedy = "one network of a variant and training seed", "measure one after the other"
        raise InputError("variants", wanted, f"{twice[0]} twice", remedy)
    if needed and not found:
        wanted = f"a pair of kind {' or '.join(kinds)}"
        there = ", ".join(row["name"] for row in rows) or "no network"
        remedy = "choose another scale or kind, or train networks with `dtfn train`"
        raise InputError(f"zoo x{scale}", wanted, there, remedy)
    return found


def switches(scale: int, variants: Sequence[str] = (), seeds: Sequence[int] = ()) -> list[Pair]:
    """Return the switch pairs of `pairs_of_zoo`, perhaps none; a placebo looks at nothing."""
    ours = [one for one in variants if not zoo.own(one)]
    if variants and not ours:
        return []
    pairs = pairs_of_zoo(scale, ours, ("switch",), seeds, needed=False)
    return [pair for pair in pairs if pair.name != "placebo"]


def _within(variant: str, kind: str, seed: int, name: str, change: str) -> Pair:
    off = f"{name}@{change}"
    again = [(f"{name}@turn({k})", f"{off}+turn({k})") for k in range(1, 5)]
    if hashes(name):
        again = [(f"{name}@hash({k})", off) for k in range(1, 5)]
    controls = tuple((on, name) for on, _ in again[:2])
    return Pair(variant, kind, seed, name, off, controls, tuple(again))


def measure(
    pairs: Sequence[Pair],
    samples: Iterable[Sample],
    errors: Callable[[Sequence[str], Sample], Mapping[str, Float]] = evaluation.block_errors,
) -> Measured:
    """Measure pairs and their controls on pictures with their truth, one in memory at a time.

    ``errors`` returns method -> block errors (H, W). No picture, or two methods of a pair that are
    equal on every picture, are an `InputError`.
    """
    used = [(*pair.roles.values(), *pair.replicates) for pair in pairs]
    methods = list(dict.fromkeys(m for all_ in used for two in all_ for m in two))
    keys = [*ROLE, *PICTURE]
    pictures, fifths, found, equal = [], [], [], dict.fromkeys(pairs)
    for sample in samples:
        made = errors(methods, sample)
        severity = interior(texture.severity(sample.hr, sample.scale))
        rank = severity.argsort(axis=None, kind="stable").argsort().reshape(severity.shape)
        fifth = 1 + rank * FIFTHS // severity.size
        for pair in pairs:
            harms = {role: made[a] - made[b] for role, (a, b) in pair.roles.items()}
            limit = region_limit([*harms.values()][1:] or [*harms.values()])  # of the controls
            if harms["pair"].any():
                equal.pop(pair, None)
            again = [made[a] - made[b] for a, b in pair.replicates]
            alike = (p for p in pairs if (p.name, p.kind) == (pair.name, pair.kind))
            retrained = [made[p.on] - made[p.off] for p in alike if p.seed != pair.seed]
            for role, two in pair.roles.items():
                place = (pair.name, pair.kind, pair.seed, role, sample.dataset, sample.image)
                on, off = (interior(made[method]) for method in two)
                psnr = psnr_of(on), psnr_of(off)
                pictures.append((*place, *psnr, np.nan, on.mean(), off.mean(), on.size))
                for number in range(1, FIFTHS + 1):
                    here = fifth == number
                    change = (on - off)[here]
                    parts = off[here].mean(), change.clip(0).mean(), (-change).clip(0).mean()
                    fifths.append((*place, number, here.sum(), *parts))
                known = (again, retrained) if role == "pair" else ((), ())
                rows = find_regions(harms[role], limit, *known)
                found += [dict(zip(keys, place, strict=True)) | row for row in rows]
    if not pictures:
        raise InputError("pictures", "one or more", "none", "name some")
    for pair in equal:
        same = f"{pair.on} and {pair.off} have equal outputs on every picture"
        wanted, remedy = "two methods that differ", "name another method"
        raise InputError(f"pair {pair.name!r}", wanted, same, remedy)
    columns = [*keys, "fifth", "positions", "off", "added", "removed"]
    by_fifth = pd.DataFrame(fifths, columns=columns)
    columns = [*keys, "side", *PLACE, "mass", "held", "retrained", "strength", "p", "region"]
    regions = judge(pd.DataFrame(found, columns=columns))
    columns = [*keys, "psnr_on", "psnr_off", "gain", "mse_on", "mse_off", "positions"]
    table = pd.DataFrame(pictures, columns=columns)
    table["gain"] = (table["psnr_on"] - table["psnr_off"]).fillna(0)  # both infinite
    seeds = table.groupby(["pair", "kind"])["seed"].transform("nunique")
    alone = (seeds < 2) | (table["role"] != "pair")
    sides = ("harm", "harmed", "lost", "mse_on"), ("help", "helped", "won", "mse_off")
    for side, area, cost, base in sides:
        sums = discoveries(regions[regions["side"] == side]).groupby(keys)
        sums = sums[["area", "held", "retrained"]].sum().astype(float)
        sums = sums.reindex(pd.MultiIndex.from_frame(table[keys]), fill_value=0).reset_index()
        table[area] = 100 * sums["area"] / table["positions"]
        shares = sums[["held", "retrained"]].div(table["positions"] * table[base], axis=0)
        decibels = -10 * np.log10(1 - shares.clip(upper=1 - 1e-12).fillna(0))
        table[cost] = decibels["held"]
        table[f"{cost}_retrained"] = decibels["retrained"].mask(alone)
    return Measured(table, by_fifth, regions)


def curve(fifths: pd.DataFrame) -> pd.DataFrame:
    """Return the harm curve: what attention does to the error of each fifth of severity.

    A row a pair, kind, role (one ``control``) and fifth: net (the change of error in % of that
    without attention; above 0, attention harms) with low and high, the ends of its 95 % interval;
    added and removed, its two parts (%); seeds, pictures.
    """
    changes = one_control(fifths)
    changes[["added", "removed"]] *= 100
    changes["net"] = changes["added"] - changes["removed"]
    by = ["pair", "kind", "role", "fifth"]
    table = statistics.crossed_by(changes, by, ["net", "added", "removed"], "off")
    table = table.rename(columns={"net_low": "low", "net_high": "high"})
    return table.drop(columns=list(table.filter(regex="_(low|high)$")))


def gains(pictures: pd.DataFrame) -> pd.DataFrame:
    """Return gain, lost and won (dB) of `measure`'s pictures, by role and dataset."""
    by = ["pair", "kind", "role", "dataset"]
    return statistics.crossed_by(one_control(pictures), by, ["gain", "lost", "won"])


def textures(measured: Measured) -> pd.DataFrame:
    """Return how many textures each pair harms and helps, and what is at stake in them.

    A row a pair, kind and role (one ``control``): seeds, pictures, harmed and helped (numbers of
    `discoveries`), harmed_area, helped_area (% of the positions), lost, won (mean dB of PSNR).
    """
    keys = ["pair", "kind", "role"]
    pictures = one_control(measured.pictures)
    pictures["picture"] = pictures["dataset"] + "/" + pictures["image"]
    table = pictures.groupby(keys, sort=False).agg(
        seeds=("seed", "nunique"),
        pictures=("picture", "nunique"),
        harmed_area=("harmed", "mean"),
        helped_area=("helped", "mean"),
        lost=("lost", "mean"),
        won=("won", "mean"),
    )
    found = one_control(discoveries(measured.regions))
    for place, side in enumerate(("harm", "help"), start=2):
        counts = found[found["side"] == side].groupby(keys).size()
        table.insert(place, f"{side}ed", counts.reindex(table.index, fill_value=0))
    return table.reset_index()


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
        return self.region.window(self.sample.lr.shape[:2])

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
        whole = np.zeros(self.sample.lr.shape[:2], bool)
        whole[self.region.place] = self.region.inside
        return self.crop(whole)


def cases(
    measured: Measured,
    pair: Pair,
    most: int = 3,
    samples: Iterable[Sample] | None = None,
    more: Sequence[str] = (),
) -> list[Case]:
    """Return the heaviest textures of harm, then those of help; one a picture and side at most.

    ``most`` is how many of each side. The methods ``more`` are shown, too, and of results in
    folders the controls. ``samples`` are where the pictures are found; without, benchmarks.
    Networks run on what is shown, unless the outputs are there.
    """
    ours = heaviest(measured.regions, pair.name, pair.kind, pair.seed)
    chosen = ours.drop_duplicates(["side", *PICTURE]).groupby("side").head(most)
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
        made = evaluation.block_errors(methods, sample)
        lacking = [method for method in methods if method not in sample.outputs]
        outputs = {name: one["image"] for name, one in evaluation.outputs(lacking, sample).items()}
        sample = replace(sample, outputs={**sample.outputs, **outputs})
        for row in here.itertuples():
            place = (row.side, pair.name, methods, row.region, row.p, row.q)
            found[row.Index] = Case(sample, *place, made)
        if len(found) == len(chosen):
            break
    return [found[index] for index in chosen.index if index in found]


def case_table(cases: Sequence[Case]) -> pd.DataFrame:
    """Return how good each method is in each region: a row a case and method.

    number (from 1), pair, side, dataset, image, `PLACE`, p, q, severity (MSE of bicubic), method,
    psnr (dB), and the measures of `dtfn.texture.distortion_maps`, all means over the region.
    """
    rows = []
    for number, case in enumerate(cases, start=1):
        of, sample = case.region.of, case.sample
        lost = of(texture.severity(sample.hr, sample.scale)).mean()
        row = (number, case.pair, case.side, sample.dataset, sample.image, *case.region.numbers)
        for method in case.methods:
            psnr = psnr_of(of(case.errors[method]))
            measures = [of(case.maps[method][measure]).mean() for measure in texture.DISTORTIONS]
            rows.append((*row, case.p, case.q, lost, method, psnr, *measures))
    names = ["number", "pair", "side", *PICTURE, *PLACE, "p", "q", "severity", "method", "psnr"]
    return pd.DataFrame(rows, columns=[*names, *texture.DISTORTIONS])
