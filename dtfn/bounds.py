"""Upper bounds: what a network would reach if it chose better, chosen by the truth.

Each bound answers another question about one network that was trained for attention on and off:

- *selection*: the better of attention on and off in each cell. No gate on the output does better.
- *layer*: the same choice in each attention layer, 2^layers settings. Gates such as TFS act there.
- *matching* (bound B): each position attends to the positions of the most similar true detail,
  anywhere; *own keys*: among those alone that its layer had by hashing.
- *weights* (bound A): each block is the best mixture of details that the network drew with
  attention off, fitted on the neighbouring blocks.

A choice by truth gains even where only chance differs, so each bound has a control. None is the
paper's number. Gains are in dB of PSNR over attention off, from outputs that are not rounded.
"""

import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy.optimize import nnls
from torch import nn

from dtfn import cache, datasets, evaluation, images, interventions, paths, statistics, texture, zoo
from dtfn.datasets import Sample
from dtfn.harm import Pair
from dtfn.methods import analysis_tiling, hashes, network, remembered
from dtfn.models.networks import switches
from dtfn.recipes import without_tfs
from dtfn.statistics import NETWORK, PICTURE
from dtfn.subpixel import Float, block_error, interior, luma, psnr_of
from dtfn.tiling import Tiling

GRANULARITIES = (None, 32, 16, 8, 4, 2, 1)  # cell sizes in LR positions; None: the whole image
CHAIN = ("on", "tfs", "selection", "layer", "own keys", "matching", "weights")  # in this order
SIDE = 64  # LR positions of a validation picture
# Temperature, in units of the nearest keys' mean distance; share of the oracle's weights, 0: none.
Setting = tuple[float, float]
KEYS = [*NETWORK, *PICTURE]


def measure(pairs: Sequence[Pair], samples: Iterable[Sample]) -> pd.DataFrame:
    """Measure every bound of switch pairs on pictures with their truth.

    A row a pair, picture, bound (of `CHAIN`), granularity (``image``, ``32`` ... ``1``, or empty)
    and role (``bound`` or ``control``): gain (dB over attention off). Controls: of *selection* and
    *layer* the same choice among as many outputs that differ by chance alone (hash seeds, or up to
    8 flips and turns), of *matching* the keys and weights of the picture turned by half, of
    *weights* candidates at random positions.
    """
    rows: list[tuple[Any, ...]] = []
    for sample in samples if pairs else ():
        bar = {"desc": sample.image, "unit": "network", "leave": False}
        for pair in evaluation.progress(pairs, **bar):
            place = (pair.name, pair.seed, sample.dataset, sample.image)
            (*_, base), *found = _bounds(pair, sample)
            rows += [(*place, *what, psnr - base if psnr != base else 0.0) for *what, psnr in found]
    return pd.DataFrame(rows, columns=[*KEYS, "bound", "granularity", "role", "gain"])


def _bounds(pair: Pair, sample: Sample) -> Iterator[tuple[str, str, str, float]]:
    """Yield bound, granularity, role and PSNR (dB); attention off comes first."""

    def maps(methods: Sequence[str]) -> list[Float]:
        made = evaluation.block_errors(methods, sample)
        return [interior(made[method]) for method in methods]

    on, off = maps([pair.on, pair.off])
    yield "off", "", "bound", psnr_of(off)
    yield "on", "", "bound", psnr_of(on)
    for partner, variant in [(row["name"], row["variant"]) for row in zoo.registry()]:
        plain = without_tfs(variant)
        if plain != variant and partner.replace(variant, plain, 1) == pair.on:
            yield "tfs", "", "bound", psnr_of(maps([partner])[0])
    number = len(switches(network(pair.on)))
    ends = {"1" * number: pair.on, "0" * number: pair.off}
    few = (0, 1, number - 1, number) if number > 4 else range(5)  # layers that are on
    every = ("".join(bits) for bits in itertools.product("10", repeat=number))
    some = [bits for bits in every if bits.count("1") in few]
    settings = maps([ends.get(bits, f"{pair.on}@layers({bits})") for bits in some])
    kind = pair.controls[0][0].rpartition("@")[2].partition("(")[0]
    others = range(1, len(settings) if kind == "hash" else min(len(settings), 8))
    chance = maps([pair.on, *(f"{pair.on}@{kind}({n})" for n in others)])
    for bound, ours, control in (("selection", [on, off], chance[:2]), ("layer", settings, chance)):
        for granularity in GRANULARITIES:
            cells = str(granularity or "image")
            yield bound, cells, "bound", best_choice(ours, granularity)
            yield bound, cells, "control", best_choice(control, granularity)
    for bound in ("matching", "own keys") if hashes(pair.on) else ("matching",):
        setting = _chosen(pair.on, sample.scale, bound == "own keys")
        for role in ("bound", "control"):
            error = _matched(pair.on, sample, bound == "own keys", role == "control", setting)
            yield bound, "", role, psnr_of(interior(error))
    for role, error in _drawn(pair, sample).items():
        yield "weights", "", role, psnr_of(interior(error))


def chain(table: pd.DataFrame) -> pd.DataFrame:
    """Return the means of the chain of bounds over pictures and seeds with 95 % intervals.

    A row a pair, dataset and bound, cells at their finest: gain (dB over attention off), low, high;
    control (the same), and net, net_low, net_high as `net_gain`, NaN without one; seeds, pictures.
    """
    rows: list[dict[str, Any]] = []
    for (pair, dataset), part in table.groupby(["pair", "dataset"], sort=False):
        wide = _wide(part)
        for bound in (bound for bound in CHAIN if bound in wide):
            one = statistics.crossed(wide, bound)
            row = {"pair": pair, "dataset": dataset, "bound": bound, "gain": one.estimate}
            row |= {"low": one.low, "high": one.high, "seeds": one.seeds, "pictures": one.pictures}
            if (control := f"{bound} control") in wide:
                row |= {"control": wide[control].mean(), **net_gain(part, bound).columns("net")}
            rows.append(row)
    ends = ["low", "high", "control", "net", "net_low", "net_high", "seeds", "pictures"]
    return pd.DataFrame(rows, columns=["pair", "dataset", "bound", "gain", *ends])


def by_granularity(table: pd.DataFrame) -> pd.DataFrame:
    """Return the gain of the selection and layer bound by the size of the cells, with its ends."""
    keys = ["pair", "bound", "granularity", "role"]
    made = statistics.crossed_by(table[table["granularity"] != ""], keys, ["gain"])
    return made.rename(columns={"gain_low": "low", "gain_high": "high"})


def net_gain(table: pd.DataFrame, bound: str = "matching") -> statistics.Crossed:
    """Return what a bound of `measure` gains over its control (dB), over networks and pictures.

    Where attention as trained is better than the control, it is the gain over that, so that a bad
    control earns nothing.
    """
    wide = _wide(table)
    base = "on" if wide["on"].mean() >= wide[f"{bound} control"].mean() else f"{bound} control"
    return statistics.crossed(wide.assign(net=wide[bound] - wide[base]), "net", seed=NETWORK)


def recovery(table: pd.DataFrame) -> pd.DataFrame:
    """Return which part of what a better choice of keys would gain is gained by TFS.

    A row a pair with TFS: tfs and matching (dB over attention on), and recovered, tfs / matching,
    NaN unless the interval of matching is above 0.01 dB; all with ``_low`` and ``_high``.
    """
    wide = _wide(table).reindex(columns=[*KEYS, "on", "tfs", "matching"])
    wide[["tfs", "matching"]] = wide[["tfs", "matching"]].sub(wide["on"], axis=0)
    wide = wide.dropna(subset="tfs").assign(recovered=wide["tfs"])
    found = statistics.crossed_by(wide, ["pair"], ["tfs", "matching"])
    shares = statistics.crossed_by(wide, ["pair"], ["recovered"], "matching").drop(columns="pair")
    shares = shares.where(found["matching_low"] > 0.01)
    return pd.concat([found, shares], axis=1).drop(columns=["seeds", "pictures"])


def _wide(table: pd.DataFrame) -> pd.DataFrame:
    """Return a row a network and picture, a column a bound, and ``... control``; cells finest."""
    finest = table[table["granularity"].isin(["", "1"])]
    name = finest["bound"].where(finest["role"] == "bound", finest["bound"] + " control")
    wide = finest.assign(name=name).pivot(index=KEYS, columns="name", values="gain")
    return wide.reset_index()


def best_choice(errors: Sequence[Float], granularity: int | None = 1) -> float:
    """Return the PSNR (dB) of taking, cell by cell, the best of several outputs.

    Cells of g x g block errors are laid from the top left; None: the image is one cell.
    """
    rows, columns = (np.arange(0, side, granularity or side) for side in errors[0].shape)
    sums = [np.add.reduceat(np.add.reduceat(e, rows, axis=0), columns, axis=1) for e in errors]
    return psnr_of(functools.reduce(np.minimum, sums).sum() / errors[0].size)


@functools.lru_cache(maxsize=4)
def _similar(sample: Sample) -> tuple[torch.Tensor, NDArray[np.int32], NDArray[np.float32]]:
    """Return true details of the 3 x 3 positions around each, and the nearest: keys, distances."""
    blocks = texture.detail_blocks(sample.hr, sample.scale).reshape(*sample.lr.shape[:2], -1)
    padded = np.pad(blocks, ((1, 1), (1, 1), (0, 0)), mode="edge")
    around = sliding_window_view(padded, (3, 3), axis=(0, 1)).reshape(*blocks.shape[:2], -1)
    vectors = around.reshape(-1, around.shape[-1])
    asked = np.arange(len(vectors), dtype=np.int32)
    nearest = texture.nearest(vectors, asked, min(64, len(vectors) - 1))
    return torch.from_numpy(around), *nearest


def _matched(method: str, sample: Sample, own: bool, turned: bool, setting: Setting) -> Float:
    """Return the block errors if true details choose the keys; ``turned``: the wrong ones."""
    temperature, share = setting
    if not share:
        return evaluation.block_errors(method, sample)[method]
    height, width = sample.lr.shape[:2]
    tiling = analysis_tiling(method)

    def make(network: nn.Module) -> cache.Arrays:
        y = np.empty(sample.hr.shape[:2])
        for rows, columns in (tiling or Tiling(max(height, width), 0)).tiles(height, width):
            size = rows.stop - rows.start, columns.stop - columns.start
            part = sample.crop(rows.start, columns.start, *size) if tiling else sample
            details, index, distance = _similar(part)
            tau = temperature * (distance.mean(axis=1) + 1)  # so that flat areas have one
            if own:
                taus = torch.from_numpy(tau * details.shape[-1])
                pair = (details.flip(0, 1), taus.flip(0)) if turned else (details, taus)
                change = interventions.oracle(network, *pair, share)
            else:
                weights = torch.from_numpy(-distance / tau[:, None]).softmax(-1)
                keys = torch.from_numpy(index).long()
                if turned:
                    keys, weights = len(keys) - 1 - keys.flip(0), weights.flip(0)
                change = interventions.attending(network, keys, weights, share)
            with change:
                made = images.luma(255 * evaluation.unrounded(network, part.lr))
            kept = made[rows.inner(sample.scale), columns.inner(sample.scale)]
            y[rows.kept(sample.scale), columns.kept(sample.scale)] = kept
        return {"errors": block_error(y, luma(sample.hr), sample.scale).astype(np.float32)}

    code = cache.source("bounds", "interventions", "texture", "subpixel")
    way = f"matched {own} {turned} {setting} {tiling} {code}"
    return remembered(method, sample, way, make)["errors"].astype(np.float64)


@functools.cache
def _chosen(method: str, scale: int, own: bool) -> Setting:
    """Return the setting of most PSNR on pictures of no benchmark: validation or embedded ones."""
    embedded, samples = datasets.embedded_training(), []
    files = datasets.pictures(paths.validation_root() / "DIV2K_valid_crop256")[:3]
    for file in files or [embedded[name] for name in ("coins", "motorcycle_left", "rocket")]:
        picture = images.as_rgb(images.read(file))
        top, left = (max(0, (side - scale * SIDE) // 2) for side in picture.shape[:2])
        hr = images.modcrop(picture[top : top + scale * SIDE, left : left + scale * SIDE], scale)
        samples.append(Sample("validation", file.stem, scale, images.degrade(hr, scale), hr))

    def psnr(setting: Setting) -> float:
        errors = (_matched(method, sample, own, False, setting) for sample in samples)
        return float(np.mean([psnr_of(interior(error)) for error in errors]))

    return max([(1.0, 0.0), *itertools.product((0.5, 2.0), (0.25, 0.5))], key=psnr)


def _drawn(pair: Pair, sample: Sample) -> dict[str, Float]:
    height, width = sample.lr.shape[:2]

    def make(network: Any) -> cache.Arrays:
        with network.attention(False):
            y = images.luma(255 * evaluation.unrounded(network, sample.lr))
        truth = texture.detail_blocks(sample.hr, sample.scale).astype(np.float64)
        apart = (y - luma(sample.hr)).reshape(height, sample.scale, width, sample.scale)
        drawn = truth + apart.swapaxes(1, 2).reshape(truth.shape)
        similar = texture.similar_patches(sample.lr)
        anywhere = np.random.default_rng(0).integers(len(similar), size=similar.shape)
        made = {}
        for role, index in (("bound", similar), ("control", anywhere)):
            mixed = mixed_details(drawn, truth, index, (height, width))
            made[role] = np.mean((truth - mixed) ** 2, axis=1).astype(np.float32)
        return made

    way = f"weights {cache.source('bounds', 'texture', 'subpixel')}"
    made = remembered(pair.on, sample, way, make)
    return {role: error.astype(float).reshape(height, width) for role, error in made.items()}


def mixed_details(drawn: Float, truth: Float, index: NDArray[Any], shape: tuple[int, int]) -> Float:
    """Return for each position the best mixture of drawn details, fitted on its neighbours.

    The weights w are those of a simplex over the position p and its candidates q. They minimise the
    sum over the 8 neighbours o of |d*(p + o) - sum of w_q d(q + o)|^2, not over the centre, so that
    what they gain there is no chance. Details drawn (d) and true (d*), and the result, are
    ``(H * W, s * s)``, candidates ``(H * W, K)``; (H, W) = shape.
    """
    rings = []  # what is around each position, (H * W, 8 s s); beyond the border the nearest counts
    for values in (drawn, truth):
        padded = np.pad(values.reshape(*shape, -1), ((1, 1), (1, 1), (0, 0)), mode="edge")
        nine = sliding_window_view(padded, (3, 3), axis=(0, 1)).reshape(len(index), -1, 9)
        rings.append(np.delete(nine, 4, axis=2).reshape(len(index), -1))
    mixed = np.empty_like(drawn)
    for at, others in enumerate(index):
        chosen = [at, *others]
        apart = rings[0][chosen] - rings[1][at]  # weights of sum 1 mix these, towards 0
        level = np.sqrt(np.mean(apart**2)) or 1.0
        # One row of a constant asks for some sum. With t times weights of sum 1, the best t rises
        # as their misfit falls, so the best direction is that of the simplex.
        system = np.column_stack([apart, np.full(len(chosen), level)]).T
        weights, _ = nnls(system, np.append(np.zeros(apart.shape[1]), level), maxiter=1000)
        mixed[at] = weights @ drawn[chosen] / weights.sum()
    return mixed
