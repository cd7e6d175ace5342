"""What is compared with what: networks of the zoo, or anybody's results in folders.

A `Study` pairs each network that has attention, N, with a local twin of another training seed, L,
and the same L with the local twin of N's own seed, L' (the null pair). So N and L' differ in the
attention alone: they saw the same patches in the same order, and L saw others. A study knows where
the pictures come from, so what measures it need not.

`measure_all` measures every network and folder of pictures at once, for tables of PSNR and SSIM.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from dtfn import audit, datasets, evaluation, files, images, regions, statistics, texture, zoo
from dtfn import tiling as cutting
from dtfn.datasets import Sample
from dtfn.errors import InputError, nearest
from dtfn.evaluation import BICUBIC
from dtfn.metrics import Array, Float
from dtfn.pairs import NULL, Pairs, measure, methods_of, pictures
from dtfn.subpixel import interior

__all__ = [
    "CAUSES",
    "Study",
    "causes_of",
    "choose",
    "contenders",
    "forecast_all",
    "measure_all",
    "of_zoo",
    "present",
    "published_names",
    "weights_of",
    "without_fidelity",
]

FAMILY = ("nla", "nlsa", "gla", "hspa", "dtfn-notfs", "dtfn")
"""The variants with attention, each also with ``+tfs``, in the order in which they are shown."""

CAUSES = ("severity", "aliasing", "inconsistency", "recurrence", "coherence", "variance")
"""What harm is correlated with: maps of `dtfn.texture.describe`."""

DECILES = 10
CLASSICAL = f"{BICUBIC}, grey as Y"  # the rule of the classical tables, see `dtfn.metrics`
SEARCHED = 50_000  # positions asked about in a larger picture: some ten seconds


@dataclass(frozen=True)
class Study:
    """Pairs of results, and the pictures on which they are compared.

    Attributes
    ----------
    design
        Training seed -> pairs of that seed, name -> (with, without).
    null
        The null pair's name in each of them; None where there is no second local twin.
    scale
        s.
    without
        What the pairs are compared with, in words.
    look
        Networks -> the pictures with their outputs, one at a time.
    inputs
        Name -> hash of what the study reads in addition to the benchmarks.
    datasets, count
        The benchmarks, and how many pictures of each (None: all); none where there are folders.
    """

    design: Mapping[int, Pairs]
    null: str | None
    scale: int
    without: str
    look: Callable[[Sequence[str]], Iterator[Sample]]
    inputs: Mapping[str, str]
    datasets: tuple[str, ...] = ()
    count: int | None = None

    def samples(self) -> Iterator[Sample]:
        """Yield the benchmarks' samples without outputs."""
        return evaluation.samples(self.datasets, self.scale, self.count)

    @property
    def names(self) -> list[str]:
        """The pairs' names without the null pair's, in order."""
        names = dict.fromkeys(name for pairs in self.design.values() for name in pairs)
        return [name for name in names if name != self.null]

    @property
    def plain(self) -> list[str]:
        """The pairs' names without those whose N has TFS; all of them if there are no others."""
        return without_fidelity(self.names)

    @property
    def partners(self) -> dict[str, str | None]:
        """Names of `plain` -> the pair whose N has TFS in addition; else DTFN; else None.

        DTFN differs from another variant in more than TFS: in hashing, learned scores and
        deformable values.
        """
        partners: dict[str, str | None] = {}
        for name in self.plain:
            own = "dtfn" if name == "dtfn-notfs" else f"{name}+tfs"
            known = [other for other in (own, "dtfn") if other in self.names and other != name]
            partners[name] = known[0] if known else None
        return partners

    @property
    def first(self) -> dict[str, tuple[str, str]]:
        """The pairs of the first seed, which is the one that examples are shown of."""
        return dict(self.design[min(self.design)])

    @property
    def methods(self) -> list[str]:
        """All that is compared, each once."""
        return list(dict.fromkeys(m for pairs in self.design.values() for m in methods_of(pairs)))

    def named(self, name: str) -> str:
        """Return the name of a pair; raise `InputError` where the study has none of this name."""
        return _known(name, dict.fromkeys(self.names), self.scale)

    def pictures(self) -> Iterator[Sample]:
        """Yield the pictures with the results of all methods, one in memory at a time."""
        return self.look(self.methods)

    def example(self, file: str = "") -> tuple[str, Array]:
        """Return the name and the HR of a picture to describe: of a file, else the first one."""
        if file:
            hr = images.modcrop(images.as_rgb(images.read(Path(file))), self.scale)
            return Path(file).stem, hr
        first = next(self.look(self.methods[:1]))
        return f"{first.dataset} {first.image}", first.hr

    def measure(self) -> pd.DataFrame:
        """Return `dtfn.pairs.measure`'s table with the column seed, a row a seed too."""
        tables = (measure(self.look(methods_of(p)), p, self.null) for p in self.design.values())
        seeded = (table.assign(seed=s) for s, table in zip(self.design, tables, strict=True))
        return pd.concat(seeded, ignore_index=True)

    def causes(self, step: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Return what harm goes with, over all positions; borders and ties are left out.

        Positions where the two networks tie lie in smooth places, and would speak of these. Similar
        patches are searched at every ``step`` rows and columns; 0: as time allows.

        Returns
        -------
        deciles
            pair, severity, inconsistency (1 to 10, deciles within each picture), positions,
            harm_rate (of these), over all pictures and seeds.
        correlations
            A row a pair, seed and picture: pair, dataset, image, seed, and for each of `CAUSES` the
            rank correlation of being harmed with it; NaN where there is none.
        """
        counts: dict[str, Float] = {}
        rows = []
        for sample in self.pictures():
            maps = causes_of(sample.hr, sample.scale, step)
            causes = {name: interior(maps[name]).ravel() for name in CAUSES}
            errors = regions.block_errors(sample, self.methods)
            errors = {name: interior(error).ravel() for name, error in errors.items()}
            cells = _cells(causes["severity"], causes["inconsistency"])
            for seed, pairs in self.design.items():
                for name, (n, l) in pairs.items():
                    untied, harmed = errors[n] != errors[l], errors[n] > errors[l]
                    counted = np.stack([_counted(cells[flags]) for flags in (untied, harmed)])
                    counts[name] = counts.get(name, np.zeros_like(counted)) + counted
                    row = [
                        statistics.rank_correlation(harmed[untied], values[untied])
                        for values in causes.values()
                    ]
                    rows.append((name, sample.dataset, sample.image, seed, *row))
        columns = ["pair", "dataset", "image", "seed", *CAUSES]
        return _rates(counts), pd.DataFrame(rows, columns=columns)

    def cases(
        self, table: pd.DataFrame, pair: str, most: int = 3, others: Sequence[str] = ()
    ) -> dict[str, list[regions.Case]]:
        """Return `dtfn.regions.cases` of a pair in the first seed; ``table`` is of `survey`."""
        shown = self.look(list(dict.fromkeys([*self.first[pair], *others])))
        return regions.cases(table, shown, pair, self.first, most, others)

    def survey(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Return `dtfn.regions.survey` of the first seed.

        Without a null pair the threshold of a region is that of the first pair's own harm turned
        round: what is shown are the worst regions, which may be chance; p and q are NaN.
        """
        if self.null is not None:
            return regions.survey(self.look(self.methods), self.first)
        turned = {NULL: self.first[self.names[0]][::-1]}
        table, distortions = regions.survey(self.look(self.methods), self.first | turned)
        table = table[table["pair"] != NULL].assign(p=np.nan, q=np.nan)
        return table, distortions[distortions["pair"] != NULL]


def of_zoo(
    datasets: Sequence[str],
    scale: int,
    count: int | None = None,
    *,
    variants: Sequence[str] = (),
    twin: str = "local",
    seeds: Sequence[int] = (),
    twin_seed: int = -1,
) -> Study:
    """Return the study of the zoo's networks on benchmarks.

    Parameters
    ----------
    datasets, scale, count
        As for `dtfn.evaluation.evaluate`.
    variants
        Networks with attention, also a user's own; none: all that the zoo has at this scale.
    twin
        The variant without attention, or a user's own network.
    seeds
        Training seeds; none: all that a variant and its twin share, but ``twin_seed``.
    twin_seed
        Training seed of L; -1: for each seed the twin's next one, in a circle. Without a twin of
        another seed, L has the seed of N and there is no null pair.

    Raises
    ------
    InputError
        For a variant or seed that the zoo does not have at this scale, before anything runs.
    """
    known: dict[str, dict[int, str]] = {}
    for row in zoo.registry():
        if row["scale"] == scale:
            known.setdefault(row["variant"], {})[int(row["seed"])] = row["name"]
    for name in (twin, *variants):  # a user's own network has a single training
        if zoo.own(name):
            at = twin_seed if name == twin else next(iter(seeds), 0)
            known[name] = {max(at, 0): name}
    family = [name for base in FAMILY for name in (base, f"{base}+tfs") if name in known]
    chosen = [_known(v, known, scale) for v in variants or family]
    twins = known[_known(twin, known, scale)]
    if not chosen:
        raise InputError(
            f"zoo x{scale}",
            expected="a network with attention",
            found=", ".join(known),
            remedy="train one with `dtfn train`, or choose another scale",
        )
    for seed in (*seeds, *([twin_seed] if twin_seed >= 0 else [])):
        if seed not in twins:
            raise InputError(
                "seed",
                expected=f"one of {twin} x{scale}: {sorted(twins)}",
                found=seed,
                remedy="train it with `dtfn train`",
            )
    design: dict[int, dict[str, tuple[str, str]]] = {}
    asked = set(seeds) or set(twins) - {twin_seed} or set(twins)
    null = NULL if len(twins) > 1 and twin_seed not in asked else None
    circle = sorted(twins)
    for seed in sorted(asked):
        next_one = circle[(circle.index(seed) + 1) % len(circle)]
        other = next_one if twin_seed < 0 else twin_seed
        pairs = {v: (known[v][seed], twins[other]) for v in chosen if seed in known[v]}
        if pairs:
            design[seed] = ({NULL: (twins[seed], twins[other])} if null else {}) | pairs
    if not design:
        raise InputError(
            "seeds",
            expected=f"those of {', '.join(chosen)} and of {twin} at x{scale}",
            found=list(seeds) or "none in common",
            remedy="choose others, or train the twin",
        )

    def look(methods: Sequence[str]) -> Iterator[Sample]:
        evaluation.require(methods, scale)
        return pictures(methods, datasets, scale, count)

    names = {name for pairs in design.values() for name in methods_of(pairs)}
    inputs = {f"{name}.safetensors": files.sha256(zoo.file_of(name)) for name in names}
    without = f"a local twin ({twin}{', of another seed' if null else ''})"
    return Study(design, null, scale, without, look, inputs, tuple(datasets), count)


def of_folders(hr: Path, with_: Path, without: Path, scale: int, *controls: Path) -> Study:
    """Return the study of results in folders, matched by name; see `dtfn.audit.audit`.

    Errors are those of `dtfn.audit.matched`.
    """
    matches, pairs = audit.matched(hr, with_, without, scale, controls[:1])
    inputs = {
        f"{role}/{file.name}": files.sha256(file)
        for one in matches
        for role, file in {"hr": one.hr, **one.results}.items()
    }

    def look(methods: Sequence[str]) -> Iterator[Sample]:
        return audit.matched_samples(matches, hr, scale)

    control = NULL if controls else None
    return Study({0: pairs}, control, scale, f"the results in {without.name}", look, inputs)


def choose(
    folders: Sequence[str], datasets: Sequence[str], scale: int, count: int, **options: Any
) -> Study:
    """Return `of_folders` if folders are named, else `of_zoo`; ``options`` are those of `of_zoo`.

    Folders are those of HR, with, without and perhaps controls, of which the first counts; fewer
    than three are an `InputError`. ``count`` is 0 for all pictures.
    """
    if not folders:
        return of_zoo(datasets, scale, count or None, **options)
    if len(folders) < 3:
        raise InputError(
            "folders",
            expected="those of HR, with, without, and perhaps controls",
            found=", ".join(folders),
            remedy="name three or more",
        )
    hr, with_, without, *controls = (Path(folder) for folder in folders)
    return of_folders(hr, with_, without, scale, *controls)


def without_fidelity(variants: Sequence[str]) -> list[str]:
    """Return the variants that have no TFS; all of them if there are no others."""
    plain = [v for v in variants if v != "dtfn" and not v.endswith("+tfs")]
    return plain or list(variants)


def causes_of(hr: Array, scale: int, step: int = 0) -> dict[str, Float]:
    """Return `dtfn.texture.describe` of a picture, its similar patches from the cache.

    ``step`` 0 searches at all positions up to 50 000, and at fewer rows and columns of a larger
    picture, so that it takes no longer.
    """
    rows, columns = hr.shape[0] // scale, hr.shape[1] // scale
    step = step or max(1, math.ceil(rows * columns / SEARCHED))
    count = max(1, min(texture.COUNT, rows * columns - 1))
    found = texture.remembered_patches(images.degrade(hr, scale), count, step)
    return texture.describe(hr, scale, found=found)


def _cells(severity: Float, inconsistency: Float) -> Array:
    """Return which cell of deciles of severity and inconsistency a position is in, or -1."""
    known = ~np.isnan(inconsistency)
    tenths = [
        ((rankdata(values[known]) - 0.5) * DECILES / max(known.sum(), 1)).astype(int)
        for values in (severity, inconsistency)
    ]
    cells = np.full(known.shape, -1)
    cells[known] = tenths[0] * DECILES + tenths[1]
    return cells


def _counted(cells: Array) -> Array:
    """Return how many positions each cell has, ``(10, 10)``."""
    counted = np.bincount(cells[cells >= 0], minlength=DECILES**2)
    return counted.reshape(DECILES, DECILES)


def _rates(counts: Mapping[str, Array]) -> pd.DataFrame:
    severity, inconsistency = (tenth.ravel() + 1 for tenth in np.indices((DECILES, DECILES)))
    parts = []
    for pair, (positions, harmed) in counts.items():
        table = pd.DataFrame({"pair": pair, "severity": severity, "inconsistency": inconsistency})
        rate = harmed.ravel() / np.where(positions > 0, positions, np.nan).ravel()
        parts.append(table.assign(positions=positions.ravel(), harm_rate=rate))
    return pd.concat(parts, ignore_index=True)


def _known(variant: str, known: Mapping[str, object], scale: int) -> str:
    if variant not in known:
        raise InputError(
            f"variant {variant!r}",
            expected=f"one that the zoo has at x{scale}",
            found=", ".join(known) or "none",
            remedy=nearest(variant, known or ["another scale"]),
        )
    return variant


# --- PSNR and SSIM of everything --------------------------------------------------------------


def measure_all(
    benchmarks: Sequence[str],
    scales: Sequence[int],
    folders: Sequence[str] = (),
    tilings: Sequence[str] = ("whole",),
    ensembles: Sequence[bool] = (False,),
    *,
    methods: Sequence[str] = (),
    count: int | None = None,
    device: str = "cpu",
    rounded: bool = False,
) -> pd.DataFrame:
    """Measure networks on every benchmark, at every scale, in every way; and folders of pictures.

    Parameters
    ----------
    benchmarks, scales, count, device, rounded
        As for `dtfn.evaluation.evaluate`; several scales.
    folders
        Pictures that others have made, each ``NAME=FOLDER``; in FOLDER, ``{dataset}`` and
        ``{scale}`` stand for these. A folder that does not exist is left out, if another does.
    tilings
        Each as for `dtfn.tiling.way`.
    ensembles
        Whether by self-ensemble; ``(False, True)`` does both.
    methods
        As for `contenders`: none for all.

    Returns
    -------
    `dtfn.evaluation.evaluate` by scale, bicubic first, then folders, whose seconds are NaN; with
    network, the name of the method alone, and ensemble. The method's name says the way too:
    ``dtfn-x4+, chop`` is a self-ensemble, chopped.

    Raises
    ------
    InputError
        As `dtfn.evaluation.evaluate`; or for a folder of another form, that does not exist for any
        benchmark and scale, or whose pictures do not match.
    """
    parts = [_measured_folder(text, benchmarks, scales, rounded) for text in folders]
    for scale in scales:
        for chosen, tiling, ensemble in _ways(scale, methods, tilings, ensembles):
            options: dict[str, Any] = {"self_ensemble": ensemble, "device": device}
            options |= {"tiling": cutting.way(tiling), "rounded": rounded}
            made = evaluation.evaluate(chosen, benchmarks, scale, count, **options)
            labels = [_label(name, tiling, ensemble) for name in made["method"]]
            parts.append(made.assign(network=made["method"], method=labels, ensemble=ensemble))
            if chosen == [BICUBIC]:
                grey = evaluation.evaluate(
                    chosen, benchmarks, scale, count, grey="y", rounded=rounded
                )
                if (grey["psnr"] != made["psnr"]).any():
                    parts.append(grey.assign(network=BICUBIC, method=CLASSICAL, ensemble=False))
    table = pd.concat(parts, ignore_index=True)
    bicubic = table["method"].isin([BICUBIC, CLASSICAL])
    order = np.lexsort((~bicubic, table["scale"]))  # stable
    return table.iloc[order].reset_index(drop=True)


def forecast_all(
    benchmarks: Sequence[str],
    scales: Sequence[int],
    tilings: Sequence[str] = ("whole",),
    ensembles: Sequence[bool] = (False,),
    *,
    methods: Sequence[str] = (),
    count: int | None = None,
    device: str = "cpu",
) -> pd.DataFrame:
    """Return what `measure_all` will cost: `dtfn.evaluation.forecast` with its method and scale."""
    parts = [pd.DataFrame(columns=["method", "scale", "pictures", "tiles", "seconds", "memory"])]
    for scale in scales:
        for chosen, tiling, ensemble in _ways(scale, methods, tilings, ensembles):
            if chosen != [BICUBIC]:
                options: dict[str, Any] = {"self_ensemble": ensemble, "device": device}
                options["tiling"] = cutting.way(tiling)
                part = evaluation.forecast(chosen, benchmarks, scale, count, **options)
                labels = [_label(name, tiling, ensemble) for name in part["method"]]
                parts.append(part.assign(method=labels, scale=scale))
    return pd.concat(parts[1:] or parts, ignore_index=True)[list(parts[0])]


def present(required: Sequence[str], optional: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the benchmarks that are here, and the optional ones that are not.

    A required one that is not here, or none at all, is an `InputError`.
    """
    for name in required:
        datasets.names(name)
    here, absent = list(required), []
    for name in optional:
        try:
            datasets.names(name)
            here.append(name)
        except InputError:
            absent.append(name)
    if not here:
        raise InputError(
            "benchmarks",
            expected="at least one that is here",
            found=", ".join(absent) or "none",
            remedy="name one, e.g. mini, or run `dtfn data fetch benchmarks`",
        )
    return list(dict.fromkeys(here)), absent


def contenders(scale: int | None, only: Sequence[str] = (), *, own: bool = False) -> list[str]:
    """Return bicubic, every imported network and every one of the zoo, of a scale (None: of all).

    If ``only`` is given, return these methods but those of the zoo or imported for other scales.
    ``own`` leaves out the zoo.
    """
    if only:
        other = {row["name"] for row in zoo.everything() if row["scale"] != scale}
        return [method for method in only if method not in other]
    rows = zoo.imported() if own else [*zoo.imported(), *zoo.registry()]
    return [BICUBIC, *(row["name"] for row in rows if scale in (None, row["scale"]))]


def weights_of(scales: Sequence[int], methods: Sequence[str] = ()) -> list[Path]:
    """Return the weights of all networks that `measure_all` runs."""
    names = [name for scale in scales for name in contenders(scale, methods)]
    return [zoo.file_of(name) for name in dict.fromkeys(names) if name != BICUBIC]


def published_names(results: pd.DataFrame) -> dict[str, str]:
    """Return for each method of `measure_all` what published tables may call it, if anything.

    Self-ensembles and small networks have no published values.
    """
    known = {row["name"]: _published(row) for row in zoo.imported()}
    known |= {row["name"]: "" for row in zoo.registry()} | {BICUBIC: "Bicubic"}
    if CLASSICAL in set(results["method"]):  # bicubic's published values follow this rule
        results = results[results["method"] != BICUBIC]
    pairs = results[["method", "network", "ensemble"]].drop_duplicates()
    return {
        method: known.get(network, network)
        for method, network, ensemble in pairs.itertuples(index=False)
        if not ensemble and known.get(network, network)
    }


def _published(row: Mapping[str, Any]) -> str:
    size = row["hyperparameters"]["n_feats"], row["hyperparameters"]["n_resblocks"]
    if (row["network"], size) == ("edsr", (64, 16)):
        return "EDSR-baseline"
    return row["network"].upper() if row["full_size"] else ""


def _ways(
    scale: int, methods: Sequence[str], tilings: Sequence[str], ensembles: Sequence[bool]
) -> Iterator[tuple[list[str], str, bool]]:
    """Yield what to run at a scale, and how: bicubic once, the networks in every way."""
    names = contenders(scale, methods)
    chosen = [name for name in names if name != BICUBIC]
    if len(chosen) < len(names):
        yield [BICUBIC], "whole", False
    for tiling in tilings if chosen else ():
        for ensemble in ensembles:
            yield chosen, tiling, ensemble


def _label(method: str, tiling: str, ensemble: bool) -> str:
    name = f"{method}+" if ensemble else method
    if tiling == "whole":
        own = None if method == BICUBIC else evaluation.card_tiling(method)
        return name if own is None else f"{name}, tiles of {own.size}"
    if tiling == "chop":
        return f"{name}, chop"
    return f"{name}, tiles of {tiling}" if tiling.isdigit() else f"{name}, within {tiling}"


def _measured_folder(
    text: str, benchmarks: Sequence[str], scales: Iterable[int], rounded: bool
) -> pd.DataFrame:
    name, _, pattern = text.partition("=")
    if not name or not pattern:
        raise InputError(
            "folder of pictures",
            expected="NAME=FOLDER",
            found=repr(text),
            remedy="write e.g. RCAN=results/{dataset}/x{scale}",
        )
    rows: list[dict[str, object]] = []
    for dataset in (b for b in benchmarks if b != datasets.MINI):
        hr = datasets.files(dataset)[0].parent
        for scale in scales:
            folder = Path(pattern.format(dataset=dataset, scale=scale)).expanduser()
            for one in audit.match_folders(hr, {name: folder}, scale) if folder.is_dir() else ():
                truth, made = audit.read_match(one, scale)
                both = (evaluation.psnr, evaluation.ssim)
                scores = (f(made[name], truth, scale, rounded=rounded) for f in both)
                place = (name, hr.parent.name, one.image, scale, *scores)
                keys = ("method", "dataset", "image", "scale", "psnr", "ssim")
                rows.append(dict(zip(keys, place, strict=True)))
    if not rows:
        raise InputError(
            f"pictures of {name}",
            expected="a folder for one of the benchmarks and scales",
            found=f"none, e.g. {folder}",
            remedy="mend the path",
        )
    return pd.DataFrame(rows).assign(seconds=np.nan, network=name, ensemble=False)
