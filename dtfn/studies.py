"""What is compared with what: networks of the zoo, or anybody's results in folders.

A `Study` pairs each network that has attention, N, with a local twin of another training seed, L,
and the same L with the local twin of N's own seed, L' (the null pair). So N and L' differ in the
attention alone: they saw the same patches in the same order, and L saw others. A twin L of N's seed
would share its luck, which the null pair does not. A study knows where the pictures come from, so
what measures it need not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from dtfn import audit, evaluation, positions, provenance, subpixel, zoo
from dtfn.datasets import Sample
from dtfn.errors import InputError, nearest
from dtfn.subpixel import NULL, Pairs, Picture, regions

Design = Mapping[int, Pairs]

FAMILY = ("nla", "nlsa", "gla", "hspa", "dtfn-notfs", "dtfn")
"""The variants with attention, each also with ``+tfs``, in the order in which they are shown."""


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
        Methods -> the pictures with what these methods made of them, one at a time.
    inputs
        Name -> hash of what the study reads beside the benchmarks.
    datasets, count
        The benchmarks, and how many pictures of each (None: all); none where there are folders.
    """

    design: Design
    null: str | None
    scale: int
    without: str
    look: Callable[[Sequence[str]], Iterator[Picture]]
    inputs: Mapping[str, str]
    datasets: tuple[str, ...] = ()
    count: int | None = None

    def samples(self) -> Iterator[Sample]:
        """Yield the benchmarks' samples, which a run notes."""
        return evaluation.samples(self.datasets, self.scale, self.count)

    @property
    def names(self) -> list[str]:
        """The pairs' names without the null pair's, in order."""
        names = dict.fromkeys(name for pairs in self.design.values() for name in pairs)
        return [name for name in names if name != self.null]

    def named(self, name: str) -> str:
        """Return the name of a pair; raise `InputError` where the study has none of this name."""
        return _known(name, dict.fromkeys(self.names), self.scale)

    @property
    def plain(self) -> list[str]:
        """The pairs' names without those whose N has TFS; all of them if there are no others."""
        return [n for n in self.names if not has_fidelity(n)] or self.names

    @property
    def partners(self) -> dict[str, str | None]:
        """Names of `plain` -> the pair whose N has TFS in addition; see `with_fidelity`."""
        found = {name: with_fidelity(name, self.names) for name in self.plain}
        return {name: None if other == name else other for name, other in found.items()}

    @property
    def methods(self) -> list[str]:
        """All that is compared, each once."""
        return list(dict.fromkeys(m for pairs in self.design.values() for m in _methods(pairs)))

    @property
    def first(self) -> Pairs:
        """The pairs of the first seed, which is the one that examples are shown of."""
        return self.design[min(self.design)]

    def pictures(self) -> Iterator[Picture]:
        """Yield the pictures with the results of all methods, one in memory at a time."""
        return self.look(self.methods)

    def measure(self) -> pd.DataFrame:
        """Return `dtfn.subpixel.measure`'s table with the column seed, a row a seed too."""
        parts = []
        for seed, pairs in self.design.items():
            pictures = self.look(_methods(pairs))
            parts.append(subpixel.measure(pictures, pairs, self.null).assign(seed=seed))
        return pd.concat(parts, ignore_index=True)

    def positions(self, step: int = 0) -> positions.Positions:
        """Return `dtfn.positions.survey` of all seeds together."""
        return positions.survey(self.pictures(), self.design, step)

    def survey(self, most: int = 4) -> regions.Survey:
        """Return `dtfn.subpixel.regions.survey` of the first seed.

        Without a null pair the threshold of a region is that of the pairs' own harm turned round:
        what is shown are the worst regions, which need not be more than luck.
        """
        pairs = dict(self.first)
        if self.null is None:
            pairs[NULL] = (pairs[self.names[0]][1], pairs[self.names[0]][0])
        found = regions.survey(self.look(_methods(pairs)), pairs, NULL, most)
        if self.null is not None:
            return found
        density, table = (
            frame[frame["pair"] != NULL].reset_index(drop=True)
            for frame in (found.density, found.regions)
        )
        worst = {name: views for name, views in found.worst.items() if name != NULL}
        return regions.Survey(density, table, worst)


def of_zoo(
    datasets: Sequence[str],
    scale: int,
    count: int | None = None,
    *,
    variants: Sequence[str] = (),
    twin: str = "local",
    seeds: Sequence[int] = (),
    twin_seed: int | None = None,
) -> Study:
    """Return the study of the zoo's networks on benchmarks.

    Parameters
    ----------
    datasets, scale, count
        As for `dtfn.evaluation.evaluate`.
    variants
        Networks with attention; none: all that the zoo has at this scale.
    twin
        The variant without attention.
    seeds
        Training seeds; none: all that a variant and its twin share, but ``twin_seed``.
    twin_seed
        Training seed of L; None: for each seed the twin's next one, in a circle. Without a twin of
        another seed, L has the seed of N and there is no null pair.

    Raises
    ------
    InputError
        For a variant or seed that the zoo does not have at this scale, before anything runs.
    """
    known = networks(scale)
    chosen = [_known(v, known, scale) for v in variants or with_attention(scale)]
    twins = known[_known(twin, known, scale)]
    if not chosen:
        raise InputError(
            f"zoo x{scale}", expected="a network with attention", found=", ".join(known),
            remedy="train one with `dtfn train`, or choose another scale",
        )  # fmt: skip
    for seed in (*seeds, *(() if twin_seed is None else (twin_seed,))):
        if seed not in twins:
            raise InputError(
                "seed", expected=f"one of {twin} x{scale}: {sorted(twins)}", found=seed,
                remedy="train it with `dtfn train`",
            )  # fmt: skip
    design: dict[int, dict[str, tuple[str, str]]] = {}
    asked = set(seeds) or set(twins) - {twin_seed} or set(twins)
    null = NULL if len(twins) > 1 and twin_seed not in asked else None
    for seed in sorted(asked):
        other = _next(seed, sorted(twins)) if twin_seed is None else twin_seed
        pairs = {v: (known[v][seed], twins[other]) for v in chosen if seed in known[v]}
        if pairs:
            design[seed] = ({NULL: (twins[seed], twins[other])} if null else {}) | pairs
    if not design:
        raise InputError(
            "seeds", expected=f"those of {', '.join(chosen)} and of {twin} at x{scale}",
            found=list(seeds) or "none in common", remedy="choose others, or train the twin",
        )  # fmt: skip

    def look(methods: Sequence[str]) -> Iterator[Picture]:
        evaluation.require(methods, scale)
        return subpixel.pictures(methods, datasets, scale, count)

    names = {name for pairs in design.values() for name in _methods(pairs)}
    inputs = {f"{name}.safetensors": provenance.file_hash(zoo.file_of(name)) for name in names}
    without = f"a local twin ({twin}{', of another seed' if null else ''})"
    return Study(design, null, scale, without, look, inputs, tuple(datasets), count)


def of_folders(hr: Path, with_: Path, without: Path, scale: int, null: Path | None = None) -> Study:
    """Return the study of results in folders, matched by name; see `dtfn.audit.audit`.

    Raises
    ------
    InputError
        As `dtfn.audit.matched`.
    """
    matches, pairs = audit.matched(hr, with_, without, scale, null)
    inputs = {
        f"{role}/{file.name}": provenance.file_hash(file)
        for one in matches
        for role, file in {"hr": one.hr, **one.results}.items()
    }

    def look(methods: Sequence[str]) -> Iterator[Picture]:
        return audit.pictures(matches, hr.resolve().name, scale)

    has_null = NULL if null else None
    return Study({0: pairs}, has_null, scale, f"the results in {without.name}", look, inputs)


def choose(
    folders: Sequence[str], datasets: Sequence[str], scale: int, count: int, **options: Any
) -> Study:
    """Return `of_folders` if folders are named, else `of_zoo`; ``options`` are those of `of_zoo`.

    Parameters
    ----------
    folders
        HR, with, without and perhaps null; none for the zoo.
    datasets, scale
        As for `of_zoo`.
    count
        0 for all pictures.

    Raises
    ------
    InputError
        For another number of folders; else as the two.
    """
    if not folders:
        return of_zoo(datasets, scale, count or None, **options)
    if len(folders) not in (3, 4):
        raise InputError(
            "folders", expected="those of HR, with, without, and perhaps null",
            found=", ".join(folders), remedy="name three or four",
        )  # fmt: skip
    hr, with_, without, *null = (Path(folder) for folder in folders)
    return of_folders(hr, with_, without, scale, *null)


def networks(scale: int) -> dict[str, dict[int, str]]:
    """Return the zoo's networks of a scale: variant -> training seed -> name."""
    found: dict[str, dict[int, str]] = {}
    for row in zoo.registry():
        if row["scale"] == scale:
            found.setdefault(row["variant"], {})[int(row["seed"])] = row["name"]
    return found


def with_attention(scale: int) -> list[str]:
    """Return the zoo's variants of a scale that have attention, in the order of `FAMILY`."""
    order = [name for base in FAMILY for name in (base, f"{base}+tfs")]
    return [name for name in order if name in networks(scale)]


def has_fidelity(variant: str) -> bool:
    """Return whether a variant has TFS."""
    return variant == "dtfn" or variant.endswith("+tfs")


def with_fidelity(variant: str, known: Sequence[str]) -> str | None:
    """Return the known variant that has TFS in addition, else DTFN; None if there is neither.

    DTFN differs from a variant that is not its own in more than TFS: in hashing, learned scores and
    deformable values.
    """
    own = "dtfn" if variant == "dtfn-notfs" else f"{variant}+tfs"
    return next((name for name in (own, "dtfn") if name in known), None)


def _methods(pairs: Pairs) -> list[str]:
    return list(dict.fromkeys(method for two in pairs.values() for method in two))


def _known(variant: str, known: Mapping[str, object], scale: int) -> str:
    if variant not in known:
        raise InputError(
            f"variant {variant!r}", expected=f"one that the zoo has at x{scale}",
            found=", ".join(known) or "none", remedy=nearest(variant, known or ["another scale"]),
        )  # fmt: skip
    return variant


def _next(seed: int, seeds: Sequence[int]) -> int:
    return seeds[(seeds.index(seed) + 1) % len(seeds)]
