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

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dtfn import cache, datasets, evaluation, images, paths, statistics, texture, zoo
from dtfn.datasets import Sample
from dtfn.errors import InputError
from dtfn.harm import Pair, networks
from dtfn.metrics import Float
from dtfn.subpixel import block_error, decibels, gain, interior, luma, psnr_of, same_size

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = [
    "CHAIN",
    "GRANULARITIES",
    "best_choice",
    "by_granularity",
    "chain",
    "measure",
    "mixed_details",
    "net_gain",
    "recovery",
    "simplex_weights",
]

GRANULARITIES = (None, 32, 16, 8, 4, 2, 1)
"""Cell sizes of the selection bound in LR positions, coarse to fine; None is the whole image."""

CHAIN = ("on", "tfs", "selection", "layer", "own keys", "matching", "weights")
"""The bounds in the order of the chain; attention off is 0."""

MOST_LAYERS = 4  # above, the settings are searched greedily
NEAREST = 64  # keys of the matching bound
TEMPERATURES = (0.5, 2.0)  # in units of the mean distance of the nearest keys
SHARES = (0.25, 0.5)  # of the oracle's weights; the trained ones have the rest
CANDIDATES = 8  # of the weights bound, besides the position itself
VALIDATION = ("DIV2K_valid_crop256", ("coins", "motorcycle_left", "rocket"))
SIDE = 64  # LR positions of a validation picture
ROWS = 4096  # positions solved at once
TOLERANCE = 1e-6  # of the solver: relative to the largest squared norm of a candidate
PICTURE = ["dataset", "image"]
COLUMNS = ["pair", "seed", *PICTURE, "bound", "granularity", "role", "gain"]


class Setting(NamedTuple):
    """How an oracle weighs its keys: see `TEMPERATURES` and `SHARES`; share 0 changes nothing."""

    temperature: float
    share: float


# --- all bounds -------------------------------------------------------------------------------


def measure(pairs: Sequence[Pair], samples: Iterable[Sample]) -> pd.DataFrame:
    """Measure every bound of switch pairs on pictures.

    Parameters
    ----------
    pairs
        Of `dtfn.harm.switches`; with none the table is empty.
    samples
        The pictures with their truth, one in memory at a time.

    Returns
    -------
    A row a pair, picture, bound, granularity and role (``bound`` or ``control``): pair, seed,
    dataset, image, bound (of `CHAIN`), granularity (``image``, ``32`` ... ``1``, or empty), role,
    gain (dB over attention off).

    Raises
    ------
    InputError
        No picture, or a pair of another kind.

    Notes
    -----
    Controls: of *selection* and *layer* the same choice among as many outputs that differ by chance
    alone (hash seeds, or up to 8 flips and turns). Of *matching* the keys and weights of the same
    picture turned by half. Of *weights* candidates at random positions.
    """
    for pair in pairs:
        if pair.kind != "switch":
            remedy = "pass harm.switches(scale)"
            raise InputError(f"pair {pair.name!r}", "a switch pair", pair.kind, remedy)
    if not pairs:
        return pd.DataFrame(columns=COLUMNS)
    rows: list[tuple[Any, ...]] = []
    for sample in samples:
        bar = {"desc": sample.image, "unit": "network", "leave": False}
        for pair in evaluation.progress(pairs, **bar):
            place = (pair.name, pair.seed, sample.dataset, sample.image)
            (*_, base), *found = _bounds(pair, sample)
            rows += [(*place, *what, gain(psnr, base)) for *what, psnr in found]
    if not rows:
        raise InputError("pictures", "one or more", "none", "name some")
    return pd.DataFrame(rows, columns=COLUMNS)


def _bounds(pair: Pair, sample: Sample) -> Iterator[tuple[str, str, str, float]]:
    """Yield bound, granularity, role and PSNR (dB); attention off comes first."""

    def maps(methods: Sequence[str]) -> list[Float]:
        made = evaluation.block_errors(methods, sample)
        return [interior(made[method]) for method in methods]

    on, off = maps([pair.on, pair.off])
    yield "off", "", "bound", psnr_of(off)
    yield "on", "", "bound", psnr_of(on)
    if partner := _with_fidelity(pair):
        yield "tfs", "", "bound", psnr_of(maps([partner])[0])
    settings = maps(_settings(pair, sample))
    chance = maps([pair.on, *_by_chance(pair, len(settings) - 1)])
    for bound, ours, control in (("selection", [on, off], chance[:2]), ("layer", settings, chance)):
        for granularity in GRANULARITIES:
            cells = str(granularity or "image")
            yield bound, cells, "bound", best_choice(ours, granularity)
            yield bound, cells, "control", best_choice(control, granularity)
    hashed = evaluation.analysis_tiling(pair.on) is None
    for bound, own in (("matching", False), ("own keys", True))[: 1 + hashed]:
        setting = _chosen(pair.on, sample.scale, own)
        for role in ("bound", "control"):
            error = _matched(pair.on, sample, own, role == "control", setting)
            yield bound, "", role, psnr_of(interior(error))
    for role, error in _drawn(pair, sample).items():
        yield "weights", "", role, psnr_of(interior(error))


def chain(table: pd.DataFrame) -> pd.DataFrame:
    """Return the chain of bounds: means over pictures and seeds with their 95 % intervals.

    Parameters
    ----------
    table
        Of `measure`. Selection and layer count at their finest, one LR position.

    Returns
    -------
    A row a pair, dataset and bound: gain (dB over attention off), low, high; control (dB over
    attention off, NaN without one); net, net_low, net_high as `net_gain`; seeds, pictures.
    """
    finest = table[table["granularity"].isin(["", "1"])]
    rows = []
    for key, part in finest.groupby(["pair", "dataset"], sort=False):
        for bound in (bound for bound in CHAIN if bound in set(part["bound"])):
            ours = part[part["bound"] == bound]
            one = statistics.crossed(ours[ours["role"] == "bound"], "gain")
            row = (*key, bound, one.estimate, one.low, one.high)
            control = ours.loc[ours["role"] == "control", "gain"].mean()
            net = net_gain(part, bound) if np.isfinite(control) else statistics.NOTHING
            row += (control, net.estimate, net.low, net.high)
            rows.append((*row, one.seeds, one.pictures))
    numbers = ["gain", "low", "high", "control", "net", "net_low", "net_high"]
    names = ["pair", "dataset", "bound", *numbers, "seeds", "pictures"]
    return pd.DataFrame(rows, columns=names)


def by_granularity(table: pd.DataFrame) -> pd.DataFrame:
    """Return the selection and the layer bound by the size of the cells, over all benchmarks.

    Columns: pair, bound, granularity, role, gain (dB over attention off), low, high.
    """
    keys = ["pair", "bound", "granularity", "role"]
    rows = []
    for key, part in table[table["granularity"] != ""].groupby(keys, sort=False):
        one = statistics.crossed(part, "gain")
        rows.append((*key, one.estimate, one.low, one.high))
    return pd.DataFrame(rows, columns=[*keys, "gain", "low", "high"])


def net_gain(table: pd.DataFrame, bound: str = "matching") -> statistics.Crossed:
    """Return what a bound gains beyond chance (dB), over all networks and pictures.

    It is the gain over the control. Of ``"matching"`` and ``"own keys"`` it is the gain over
    attention as trained where that is better than the control, so that a bad control earns nothing.

    Parameters
    ----------
    table
        Of `measure`. Selection and layer count at one LR position.
    bound
        Of `CHAIN`, with a control.
    """
    wide = _wide(table[table["granularity"].isin(["", "1"])], bound)
    bases = ["on", "control"] if bound in ("matching", "own keys") else ["control"]
    base = max(bases, key=lambda name: wide[name].mean())
    wide = wide.assign(net=wide["bound"] - wide[base])
    return statistics.crossed(wide, "net", seed="network")


def recovery(table: pd.DataFrame, least: float = 0.01) -> pd.DataFrame:
    """Return which part of what a better choice of keys would gain is gained by TFS.

    Returns
    -------
    A row a pair with TFS: pair, tfs and matching (dB over attention on) with ``_low`` and
    ``_high``; recovered, tfs / matching, with its interval, NaN unless matching_low is above
    ``least`` (dB).
    """
    rows = []
    for pair, part in table.groupby("pair", sort=False):
        if not (part["bound"] == "tfs").any():
            continue
        wide = _wide(part, "matching", ("tfs",))
        wide = wide.assign(tfs=wide["tfs"] - wide["on"], matching=wide["bound"] - wide["on"])
        matching = statistics.crossed(wide, "matching")
        row = {"pair": pair} | statistics.crossed(wide, "tfs").columns("tfs")
        row |= matching.columns("matching")
        share = statistics.crossed(wide, "tfs", "matching").columns("recovered")
        row |= share if matching.low > least else dict.fromkeys(share, np.nan)
        rows.append(row)
    return pd.DataFrame(rows)


def _wide(table: pd.DataFrame, bound: str, more: Sequence[str] = ()) -> pd.DataFrame:
    """Return a row a network and picture: on, bound, control, and further bounds."""
    keys = ["pair", "seed", *PICTURE]
    chosen = table[table["bound"].isin([bound, "on", *more])]
    role = chosen["bound"].where(chosen["bound"] != bound, chosen["role"])
    wide = chosen.assign(name=role).pivot(index=keys, columns="name", values="gain").reset_index()
    return networks(wide)


# --- selection and layer bound ----------------------------------------------------------------


def best_choice(errors: Sequence[Float], granularity: int | None = 1) -> float:
    """Return the PSNR (dB) of taking, cell by cell, the best of several outputs.

    Parameters
    ----------
    errors
        Block errors ``(H, W)`` of each, commonly the interior.
    granularity
        Cells of g x g positions, laid from the top left; the last ones may be smaller. None: the
        whole image is one cell.

    Raises
    ------
    InputError
        For maps of different sizes, NaN, or a granularity below 1.
    """
    maps = same_size(*errors)
    best = functools.reduce(np.minimum, (_cell_sums(error, granularity) for error in maps))
    return decibels(best.sum() / maps[0].size)


def _cell_sums(error: Float, granularity: int | None) -> Float:
    """Return the sum over each cell, from the top left, the last ones ragged."""
    if granularity is None:
        return error.sum(keepdims=True)
    if granularity < 1:
        raise InputError("granularity", "1 or more, or None", granularity, "use 1 to 32")
    rows = np.add.reduceat(error, np.arange(0, error.shape[0], granularity), axis=0)
    return np.add.reduceat(rows, np.arange(0, error.shape[1], granularity), axis=1)


def _settings(pair: Pair, sample: Sample) -> list[str]:
    """Return the methods with attention on in some layers only: all, or a greedy search."""
    from dtfn.models.layers import switches

    number = len(switches(evaluation.network(pair.on)))
    ends = {"1" * number: pair.on, "0" * number: pair.off}

    def method(bits: str) -> str:
        return ends.get(bits, f"{pair.on}@layers({bits})")

    if number <= MOST_LAYERS:
        return [method("".join(bits)) for bits in itertools.product("10", repeat=number)]

    def psnr(bits: str) -> float:
        return psnr_of(interior(evaluation.block_errors(method(bits), sample)[method(bits)]))

    tried = dict.fromkeys(ends)
    best = max(ends, key=psnr)
    for layer in range(number):
        flipped = best[:layer] + "10"[int(best[layer])] + best[layer + 1 :]
        tried[flipped] = None
        best = max(best, flipped, key=psnr)
    return [method(bits) for bits in tried]


def _by_chance(pair: Pair, number: int) -> list[str]:
    """Return as many methods that differ from attention on by chance alone; turns are at most 7."""
    kind = pair.controls[0][0].rpartition("@")[2].partition("(")[0]
    most = 7 if kind == "turn" else number
    return [f"{pair.on}@{kind}({n})" for n in range(1, min(number, most) + 1)]


def _with_fidelity(pair: Pair) -> str:
    """Return the same network with TFS, if the zoo has it."""
    variant = {"dtfn-notfs": "dtfn"}.get(pair.name, f"{pair.name}+tfs")
    name = pair.on.replace(f"{pair.name}-x", f"{variant}-x", 1)
    return name if name != pair.on and name in {row["name"] for row in zoo.registry()} else ""


# --- bound B: which keys -----------------------------------------------------------------------


class _Match(NamedTuple):
    """For each position the most similar true details of a picture, over all its positions."""

    details: torch.Tensor  # (H, W, D)
    keys: NDArray[np.int32]  # (L, NEAREST)
    distance: NDArray[np.float32]  # (L, NEAREST), mean squares
    scale: NDArray[np.float32]  # (L,), their mean; 1 is added so that flat areas have one


@functools.lru_cache(maxsize=1)
def _match(sample: Sample) -> _Match:
    from dtfn import interventions

    shape = sample.lr.shape[:2]
    details = texture.detail_blocks(sample.hr, sample.scale).reshape(*shape, -1)
    around = interventions.neighbourhoods(details)
    vectors = around.flatten(0, 1).contiguous().numpy()
    asked = np.arange(len(vectors), dtype=np.int32)
    index = texture.nearest(vectors, asked, min(NEAREST, len(vectors) - 1))
    distance = texture.differences(vectors, asked, index)
    return _Match(around, index, distance, distance.mean(axis=1) + 1)


def _matched(method: str, sample: Sample, own: bool, turned: bool, setting: Setting) -> Float:
    """Return the block errors if true details match; ``turned``: those of the picture turned."""
    if not setting.share:
        return evaluation.block_errors(method, sample)[method]
    tiling = evaluation.analysis_tiling(method)

    def run(network: nn.Module, part: Sample) -> Float:
        with _oracle(network, _match(part), own, turned, setting):
            return images.luma(255 * evaluation.unrounded(network, part.lr))

    def make(network: nn.Module) -> cache.Arrays:
        y = np.empty(sample.hr.shape[:2])
        for rows, columns in tiling.tiles(*sample.lr.shape[:2]) if tiling else ():
            size = rows.stop - rows.start, columns.stop - columns.start
            made = run(network, sample.crop(rows.start, columns.start, *size))
            kept = made[rows.inner(sample.scale), columns.inner(sample.scale)]
            y[rows.kept(sample.scale), columns.kept(sample.scale)] = kept
        y = y if tiling else run(network, sample)
        return {"errors": block_error(y, luma(sample.hr), sample.scale).astype(np.float32)}

    code = cache.source("bounds", "interventions", "texture", "subpixel")
    way = f"matched {own} {turned} {tuple(setting)} {tiling} {code}"
    return evaluation.remembered(method, sample, way, make)["errors"].astype(np.float64)


def _oracle(network: Any, match: _Match, own: bool, turned: bool, setting: Setting) -> Any:
    """Return the context in which true details choose the keys."""
    import torch

    from dtfn import interventions

    if own:
        details, tau = match.details, setting.temperature * match.scale * match.details.shape[-1]
        if turned:
            details, tau = details.flip(0, 1), tau[::-1].copy()
        return interventions.oracle(network, details, torch.from_numpy(tau), setting.share)
    logits = -match.distance / (setting.temperature * match.scale[:, None])
    weights = torch.from_numpy(logits).softmax(-1)
    index = torch.from_numpy(match.keys).long()
    if turned:
        index, weights = len(index) - 1 - index.flip(0), weights.flip(0)
    return interventions.attending(network, index, weights, setting.share)


@functools.cache
def _validation(scale: int) -> list[Sample]:
    """Return pictures that are in no benchmark: of the validation set, else embedded ones."""
    folder, names = VALIDATION
    files = datasets.pictures(paths.validation_root() / folder)[: len(names)]
    found = {file.stem: images.as_rgb(images.read(file)) for file in files}
    if not found:
        embedded = datasets.embedded_training()
        found = {name: embedded[name] for name in names}
    made = []
    for name, picture in found.items():
        top, left = (max(0, (side - scale * SIDE) // 2) for side in picture.shape[:2])
        hr = picture[top : top + scale * SIDE, left : left + scale * SIDE]
        hr = images.modcrop(hr, scale)
        made.append(Sample("validation", name, scale, images.degrade(hr, scale), hr))
    return made


@functools.cache
def _chosen(method: str, scale: int, own: bool) -> Setting:
    """Return the setting of most PSNR on the validation pictures."""

    def psnr(setting: Setting) -> float:
        errors = (_matched(method, s, own, False, setting) for s in _validation(scale))
        return float(np.mean([psnr_of(interior(error)) for error in errors]))

    settings = itertools.product(TEMPERATURES, SHARES)
    return max((Setting(1.0, 0.0), *(Setting(*one) for one in settings)), key=psnr)


# --- bound A: which weights, and of what was drawn ---------------------------------------------


def _drawn(pair: Pair, sample: Sample) -> dict[str, Float]:
    """Return the block errors of the weights bound and of its control."""
    truth = texture.detail_blocks(sample.hr, sample.scale).astype(np.float64)
    shape = sample.lr.shape[:2]

    def blocks(values: Float) -> Float:
        cut = values.reshape(shape[0], sample.scale, shape[1], sample.scale)
        return cut.swapaxes(1, 2).reshape(truth.shape)

    def make(network: nn.Module) -> cache.Arrays:
        change = getattr(network, "attention", lambda on: nullcontext())
        with change(False):
            y = images.luma(255 * evaluation.unrounded(network, sample.lr))
        drawn = truth + blocks(y - luma(sample.hr))
        similar = texture.similar_patches(sample.lr, CANDIDATES)
        anywhere = np.random.default_rng(0).integers(len(similar), size=similar.shape)
        made = {}
        for role, index in (("bound", similar), ("control", anywhere)):
            mixed = mixed_details(drawn, truth, index, (shape[0], shape[1]))
            error = np.mean((truth - mixed) ** 2, axis=1).reshape(shape)
            made[role] = error.astype(np.float32)
        return made

    way = f"weights {cache.source('bounds', 'texture', 'subpixel')}"
    made = evaluation.remembered(pair.on, sample, way, make)
    return {role: error.astype(np.float64) for role, error in made.items()}


def mixed_details(
    drawn: Float, truth: Float, index: NDArray[np.integer[Any]], shape: tuple[int, int]
) -> Float:
    """Return for each position the best mixture of drawn details, fitted on its neighbours.

    The weights w are those of a simplex over the position p and its candidates q. They minimise the
    sum over the 8 neighbours o of |d*(p + o) - sum of w_q d(q + o)|^2. The centre is not used to
    fit them, so that what they gain there is no chance.

    Parameters
    ----------
    drawn, truth
        The details d and d* of each block, ``(H * W, s * s)``.
    index
        The candidates of each position, ``(H * W, K)``.
    shape
        (H, W).

    Returns
    -------
    ``(H * W, s * s)``: the mixtures at the centres.
    """
    ring, goal = (_ring(values.reshape(*shape, -1)) for values in (drawn, truth))
    chosen = np.column_stack([np.arange(len(index)), index])  # itself comes first
    mixed = np.empty_like(drawn)
    for start in range(0, len(index), ROWS):
        part = chosen[start : start + ROWS]
        near = ring[part]  # (n, 1 + K, 8 s s)
        gram = near @ near.swapaxes(1, 2)
        cross = np.einsum("nkd,nd->nk", near, goal[start : start + ROWS])
        weights = simplex_weights(gram, cross)
        mixed[start : start + ROWS] = np.einsum("nk,nkd->nd", weights, drawn[part])
    return mixed


def _ring(details: Float) -> Float:
    """Return what is around each position, (H * W, 8 D); beyond the border the nearest counts."""
    padded = np.pad(details, ((1, 1), (1, 1), (0, 0)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(0, 1))
    nine = windows.reshape(-1, details.shape[2], 9)
    return np.delete(nine, 4, axis=2).reshape(len(nine), -1)


def simplex_weights(gram: Float, cross: Float, most: int = 2000) -> Float:
    """Return the w >= 0 of sum 1 that minimise w G w - 2 c w, for many problems at once.

    Parameters
    ----------
    gram
        G, symmetric and positive semidefinite, ``(n, K, K)``.
    cross
        c, ``(n, K)``.
    most
        Steps at most.

    Returns
    -------
    ``(n, K)``. Weight moves between the two candidates that gain most by it (Platt 1998), until
    no move gains.
    """
    count = np.arange(len(cross))
    diagonal = np.einsum("nkk->nk", gram)
    weights = np.zeros_like(cross)
    first = np.argmin(diagonal - 2 * cross, axis=1)
    weights[count, first] = 1
    slope = gram[count, :, first] - cross
    open_ = count
    least = TOLERANCE * diagonal.max(axis=1, initial=0)
    for _ in range(most):
        slopes = slope[open_]
        to = np.argmin(slopes, axis=1)
        source = np.argmax(np.where(weights[open_] > 0, slopes, -np.inf), axis=1)
        rows = np.arange(len(open_))
        gap = slopes[rows, source] - slopes[rows, to]
        left = gap > least[open_]
        open_, to, source, gap = open_[left], to[left], source[left], gap[left]
        if not len(open_):
            break
        across = gram[open_, :, to] - gram[open_, :, source]
        rows = np.arange(len(open_))
        curve = across[rows, to] - across[rows, source]
        held = weights[open_, source]
        step = np.where(curve * held > gap, gap / np.maximum(curve, 1e-300), held)
        weights[open_, to] += step
        weights[open_, source] = held - step
        slope[open_] += step[:, None] * across
    return weights
