"""The textures that non-local attention changed most, for the worse and for the better.

Regions, not pixels: those of `dtfn.subpixel.discoveries`, the heaviest first, one a picture, with
what each network made of them and how far that is from the truth (`dtfn.texture.distortion`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dtfn import datasets, evaluation, images
from dtfn.errors import InputError
from dtfn.subpixel import NULL, Pairs, Picture, discoveries, harm, interior, psnr_of
from dtfn.subpixel.blocks import Array, Float
from dtfn.subpixel.discoveries import LEVEL, judge, regions_of
from dtfn.subpixel.regions import Region, block_errors, window
from dtfn.texture import distortion, severity

LARGEST = 36  # LR positions: what a figure can show, pixel by pixel


@dataclass(frozen=True)
class Survey:
    """What one look at all pictures found.

    Attributes
    ----------
    regions
        Of `dtfn.subpixel.discoveries.judge`.
    distortions
        A row a picture, pair and measure of `distortion.maps`: pair, dataset, image, measure,
        gap (mean over the interior positions, with less without), harmed (the same over the
        positions in the pair's regions of harm; NaN where it has none).
    """

    regions: pd.DataFrame
    distortions: pd.DataFrame


@dataclass(frozen=True)
class Case:
    """A region with all that shows it.

    Attributes
    ----------
    picture
        The whole picture, HR and outputs.
    side, pair
        ``harm`` or ``help``, and of which pair.
    networks
        (with, without) of that pair, then the others that are shown.
    region
        What was found.
    window
        (top, left, height, width) in LR positions: what is shown, around the region.
    p, q
        See `dtfn.subpixel.discoveries.judge`.
    harms
        Pair -> its harm on the whole LR grid, ``(H, W)`` (MSE).
    errors
        Network -> its block errors, the same.
    maps
        Network -> measure -> `distortion.maps` of the whole picture.
    """

    picture: Picture
    side: str
    pair: str
    networks: tuple[str, ...]
    region: Region
    window: tuple[int, int, int, int]
    p: float
    q: float
    harms: Mapping[str, Float]
    errors: Mapping[str, Float]
    maps: Mapping[str, Mapping[str, Float]]

    def crop(self, image: Array) -> Array:
        """Return the window of an HR-sized image, or of a map over the LR grid."""
        factor = image.shape[0] // next(iter(self.harms.values())).shape[0]
        top, left, height, width = (factor * v for v in self.window)
        return image[top : top + height, left : left + width]

    def lr(self) -> Array:
        """Return the window of the LR image, ``(height, width, 3)``."""
        return self.crop(images.as_rgb(images.degrade(self.picture.hr, self.picture.scale)))

    def outline(self) -> Array:
        """Return which positions of the window belong to the region, bool."""
        whole = np.zeros(next(iter(self.harms.values())).shape, bool)
        r = self.region
        inside = True if r.inside is None else r.inside
        whole[r.top : r.top + r.height, r.left : r.left + r.width] = inside
        return self.crop(whole)


def survey(shown: Iterator[Picture], pairs: Pairs, null: str = NULL) -> Survey:
    """Look for regions and measure distortion in pictures, one in memory at a time.

    Parameters
    ----------
    shown
        With the outputs of all networks of the pairs.
    pairs, null
        As for `dtfn.subpixel.measure`.

    Raises
    ------
    InputError
        For no picture at all, or as `distortion.maps`.
    """
    found, distorted = [], []
    for picture in shown:
        regions = regions_of(picture, pairs, null)
        distorted.append(_distortions(picture, pairs, regions))
        found.append(regions)
    if not found:
        raise InputError("pictures", expected="one or more", found="none", remedy="add some")
    return Survey(judge(found, null), pd.concat(distorted, ignore_index=True))


def cases(
    regions: pd.DataFrame,
    pair: str,
    pairs: Pairs,
    scale: int,
    most: int = 3,
    beside: Sequence[str] = (),
) -> dict[str, list[Case]]:
    """Return the heaviest regions of harm and of help of a pair, one a picture at most.

    Discoveries come first; where there are fewer than asked for, regions within luck follow, and
    their ``q`` says so.

    Parameters
    ----------
    regions
        Of `survey`.
    pair
        Whose regions.
    pairs
        All pairs of the survey.
    scale
        s.
    most
        How many of each side.
    beside
        Networks that are shown beside the two of ``pair``.
    """
    networks = tuple(dict.fromkeys([*pairs[pair], *beside]))
    chosen: dict[str, list[Case]] = {}
    for side in discoveries.SIDES:
        part = regions[(regions["pair"] == pair) & (regions["side"] == side)]
        part = part.assign(luck=part["q"] > LEVEL).sort_values(
            ["luck", "mass"], ascending=[True, False], kind="stable"
        )
        heaviest = part.drop_duplicates(["dataset", "image"]).head(most)
        chosen[side] = [_case(row, networks, pairs, scale) for row in heaviest.to_dict("records")]
    return chosen


def numbers(chosen: Sequence[Case]) -> pd.DataFrame:
    """Return how good each network is in each region: a row a case and network.

    Returns
    -------
    number (from 1), side, pair, dataset, image, top, left, height, width, area, p, q, severity
        (MSE that bicubic has there), network, psnr (dB), and the measures of
        `distortion.maps`, all means over the region's positions.
    """
    rows = []
    for number, case in enumerate(chosen, start=1):
        r = case.region
        lost = severity(case.picture.hr, case.picture.scale)
        for network in case.networks:
            rows.append(
                {"number": number, "side": case.side, "pair": case.pair}
                | {"dataset": case.picture.dataset, "image": case.picture.image}
                | {"top": r.top, "left": r.left, "height": r.height, "width": r.width}
                | {"area": r.area, "p": case.p, "q": case.q}
                | {"severity": float(r.of(lost).mean()), "network": network}
                | {"psnr": psnr_of(r.of(case.errors[network]))}
                | {m: float(r.of(v).mean()) for m, v in case.maps[network].items()}
            )
    return pd.DataFrame(rows, columns=None if rows else NUMBERS)


NUMBERS = [
    "number", "side", "pair", "dataset", "image", "top", "left", "height", "width", "area", "p",
    "q", "severity", "network", "psnr", *distortion.TITLES,
]  # fmt: skip


def harms(chosen: Sequence[Case]) -> pd.DataFrame:
    """Return what every pair does in each region: number, side, dataset, image, pair, harm.

    Harm is the mean over the region's positions (MSE). A pair of other training seeds did not
    choose the region: if it harms there too, that is no luck of one training.
    """
    rows = [
        {"number": number, "side": case.side, "dataset": case.picture.dataset}
        | {"image": case.picture.image, "pair": pair}
        | {"harm": float(case.region.of(values).mean())}
        for number, case in enumerate(chosen, start=1)
        for pair, values in case.harms.items()
    ]
    return pd.DataFrame(rows, columns=["number", "side", "dataset", "image", "pair", "harm"])


def _case(row: Mapping[str, object], networks: tuple[str, ...], pairs: Pairs, scale: int) -> Case:
    sample = datasets.sample(str(row["dataset"]), str(row["image"]), scale)
    methods = list(dict.fromkeys([*networks, *(m for two in pairs.values() for m in two)]))
    made = {name: out.image for name, out in evaluation.outputs(methods, sample).items()}
    picture = Picture(sample.dataset, sample.image, scale, sample.hr, made)
    errors = block_errors(picture, methods)
    region = row["region"]
    assert isinstance(region, Region)
    return Case(
        picture, str(row["side"]), str(row["pair"]), networks, region,
        _window(region, errors[networks[0]].shape), float(str(row["p"])), float(str(row["q"])),
        {name: harm(errors[n], errors[l]) for name, (n, l) in pairs.items()}, errors,
        {name: distortion.maps(made[name], sample.hr, scale) for name in networks},
    )  # fmt: skip


def _window(region: Region, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Return a square around a region; around its middle, where it is too large to see pixels."""
    if max(region.height, region.width) > LARGEST:
        row, column = region.centre()
        half = LARGEST // 2
        region = Region(row - half, column - half, LARGEST, LARGEST, region.area, region.mass)
    return window(region, shape)


def _distortions(picture: Picture, pairs: Pairs, regions: pd.DataFrame) -> pd.DataFrame:
    methods = dict.fromkeys(method for two in pairs.values() for method in two)
    maps = {m: distortion.maps(picture.outputs[m], picture.hr, picture.scale) for m in methods}
    harmed = regions[regions["side"] == "harm"]
    rows = []
    for name, (n, l) in pairs.items():
        own = harmed.loc[harmed["pair"] == name, "region"]
        for measure in distortion.TITLES:
            gap = maps[n][measure] - maps[l][measure]
            there = np.concatenate([r.of(gap) for r in own]) if len(own) else np.array([np.nan])
            rows.append(
                {"pair": name, "dataset": picture.dataset, "image": picture.image}
                | {"measure": measure, "gap": float(interior(gap).mean())}
                | {"harmed": float(there.mean())}
            )
    return pd.DataFrame(rows)
