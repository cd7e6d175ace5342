"""The donor experiment: what attention fetches is changed, and nothing else.

A query is a small texture of a picture. Patches are pasted into the LR picture so far from it that
the network without attention cannot see them: its error there does not change. So every change of
the error with attention on is caused by what attention fetched. Patches (*donors*) are of four
kinds, see `KINDS`. The dose is their number.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter
from torch import Tensor, nn

from dtfn import cache, capture, evaluation, images, interventions, statistics, texture
from dtfn.datasets import Sample
from dtfn.errors import InputError
from dtfn.harm import Pair
from dtfn.images import UInt8
from dtfn.metrics import Float
from dtfn.models.attention import HashedAttention
from dtfn.models.layers import CCALayer
from dtfn.subpixel import block_mean

__all__ = ["KINDS", "Pool", "Query", "Scene", "contrasts", "curves", "measure", "radius", "scene"]

KINDS = ("consistent", "shifted", "inconsistent", "plain")
"""Kinds of donors:

- ``consistent``: the query's own patch, which is a repetition at a whole number of LR pixels.
- ``shifted``: the query's texture at another sub-pixel phase: moved in HR, then degraded.
- ``inconsistent``: patches from elsewhere that look like the query in LR, of other true detail.
- ``plain``: the mean colour of the query's patch. The control: it holds nothing to copy.
"""
DOSES = (1, 2, 4, 8)
SIDE = 15  # of a donor, LR pixels; what the first attention layer of small networks sees around it
CELL = SIDE + 1  # donors keep a pixel of the picture between them
REACH = 1  # the query is the 3 x 3 positions around its middle
INSET = 16  # LR pixels from the query to the two nearest edges of its window
MARGIN = SIDE // 2 + 5  # LR pixels from a middle to the picture's border: degrading looks so far
BEYOND = 1e-9  # share of the gradient that may lie outside of the receptive field
UNCHANGED = 1e-6  # relative change of the error without attention that is none
TEXTURED = 0.8  # queries are drawn from positions above this quantile of severity
LOOK = 5  # LR pixels a side on which patches are compared
ENERGIES = (0.5, 2.0)  # of a similar patch's detail, relative to the query's
MIDDLE = np.array([[SIDE // 2, SIDE // 2]])  # of a donor
NETWORK = ["pair", "kind", "seed"]
PLACE = ["dataset", "image", "row", "column"]
COLUMNS = [*NETWORK, *PLACE, *("donor", "dose", "hash", "on", "off", "weight", "likeness", "k")]
"""Of `measure`. pair, kind, seed: the network. dataset, image, row, column: the query. donor: one
of `KINDS`; ``none`` at dose 0. dose: number of donors. hash: hash seed. on, off: error over the
3 x 3 positions with attention and without (MSE). weight: share of the query's attention that is on
the donors, mean over layers, under the first hash seed. likeness, k: see `Donors`; means."""

Places = NDArray[np.int64]  # (n, 2): rows and columns of LR positions
Pixels = NDArray[np.float32]


class Query(NamedTuple):
    """A texture of a picture: its sample, and the LR position of its middle."""

    sample: Sample
    row: int
    column: int


class Donors(NamedTuple):
    """Patches of one kind, n of them: LR (n, P, P, 3), HR (n, sP, sP, 3), likeness (n,), k (n,).

    Likeness is the distance to the query's LR patch over that patch's own contrast, both without
    means: 0 the same, 1.4 unrelated. k is `dtfn.causes`'s, of the query's 3 x 3 positions.
    """

    lr: UInt8
    hr: UInt8
    likeness: Float
    k: Float


def radius(network: nn.Module) -> int:
    """Return how far a network sees without attention, in LR pixels, found by its gradient.

    Raises
    ------
    InputError
        It sees everything, or has no switch for its attention.
    """
    if not hasattr(network, "attention"):
        raise InputError(
            "donors",
            "a network whose attention can be switched off",
            type(network).__name__,
            "choose one of dtfn.models",
        )
    reach = 32
    generator = torch.Generator().manual_seed(0)
    weight = next(network.parameters())
    while reach <= 256:
        side = 2 * reach + 1
        x = torch.rand(1, 3, side, side, generator=generator).to(weight).requires_grad_()
        s = int(network.scale)  # type: ignore[arg-type]
        with torch.enable_grad(), network.attention(False):  # type: ignore[operator]
            made = network(x)[..., s * reach : s * (reach + 1), s * reach : s * (reach + 1)]
            (slope,) = torch.autograd.grad(made.abs().sum(), x)
        away = (torch.arange(side) - reach).abs()
        distance = torch.maximum(away[:, None], away).flatten()
        share = slope.abs().sum((0, 1)).flatten().double().cpu()
        beyond = torch.zeros(reach + 1, dtype=torch.double).index_add_(0, distance, share)
        outside = beyond.flip(0).cumsum(0).flip(0) / beyond.sum()  # at this distance or farther
        far = (outside > BEYOND).nonzero().max()
        if far < reach:
            return int(far)
        reach *= 2
    raise InputError(
        "donors",
        "a network that sees less than 256 LR pixels away without attention",
        "one that sees everything",
        "choose a convolutional network",
    )


class Pool:
    """The textures of some pictures: queries, and patches that look like them.

    Parameters
    ----------
    samples
        The pictures with their truth, of one scale.

    Raises
    ------
    InputError
        No picture, or none large enough for a query.
    """

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples = samples
        self._textured: list[Places] = []  # of each picture, where severity is highest
        places, looks, details = [], [], []
        for number, sample in enumerate(samples):
            lost = texture.detail(images.as_rgb(sample.hr), sample.scale, sample.lr)
            level = uniform_filter(block_mean(lost**2, sample.scale), 2 * REACH + 1)
            self._textured.append(_above(level, TEXTURED))
            at = _above(level, 0.5)
            at = at[(at % 2 == 0).all(axis=1)]
            places.append(np.insert(at, 0, number, axis=1))
            looks.append(_looks(sample.lr, at))
            details.append(_details(lost, at, sample.scale).astype(np.float32))
        if not sum(map(len, places)):
            raise InputError(
                "donors",
                f"a picture of more than {2 * MARGIN} x {2 * MARGIN} LR pixels",
                f"{len(samples)} pictures, all smaller",
                "use larger pictures",
            )
        self._places, self._looks, self._details = map(np.concatenate, (places, looks, details))

    def queries(self, count: int) -> list[Query]:
        """Return so many textures of high severity, spread over the pictures; always the same.

        They are drawn at random from the fifth of the positions of each picture where severity, as
        a mean over 3 x 3 positions, is highest, and lie apart from each other.
        """
        drawn = []
        for number, sample in enumerate(self.samples):
            most = count // len(self.samples) + (number < count % len(self.samples))
            kept: list[Query] = []
            order = np.random.default_rng(0).permutation(self._textured[number])
            for row, column in order.tolist():
                if len(kept) == most:
                    break
                if all(max(abs(q.row - row), abs(q.column - column)) >= SIDE for q in kept):
                    kept.append(Query(sample, row, column))
            drawn += kept
        return drawn

    def look_alikes(self, query: Query, count: int) -> list[Query]:
        """Return the positions that look most like a query in LR among those of other detail.

        Their details over 3 x 3 positions do not correlate with the query's, or negatively, and
        have at least half and at most twice its energy. Fewer than ``count`` where that is all.
        """
        own = _looks(query.sample.lr, np.array([[query.row, query.column]]))[0]
        detail = _lost(_cut(query), query.sample.scale)
        energy = np.sum(self._details**2, axis=1) / max(float(detail @ detail), 1e-9)
        low, high = ENERGIES
        fits = (energy >= low) & (energy <= high) & (self._details @ detail <= 0)
        away = np.where(fits, np.linalg.norm(self._looks - own, axis=1), np.inf)
        found: list[Query] = []
        for index in np.argsort(away, kind="stable"):
            if len(found) == count or not np.isfinite(away[index]):
                break
            number, row, column = self._places[index].tolist()
            sample = self.samples[number]
            near = (
                sample is one.sample and max(abs(one.row - row), abs(one.column - column)) < LOOK
                for one in found
            )
            if not any(near):
                found.append(Query(sample, row, column))
        return found


def donors(query: Query, pool: Pool, count: int) -> dict[str, Donors]:
    """Return so many patches of each kind for a query; none of a kind for which there are none."""
    scale = query.sample.scale
    rng = np.random.default_rng([query.row, query.column])
    phases = [(y, x) for y in range(scale) for x in range(scale) if y or x]
    phases = [phases[index] for index in rng.permutation(len(phases))]
    own = _cut(query)
    level = own[0].mean(axis=(0, 1))
    alike = []
    for other in pool.look_alikes(query, count):
        lr, hr = _cut(other)
        # The mean colour becomes the query's. Degrading is linear, so the detail does not change.
        middle = (slice(SIDE // 2 - LOOK // 2, SIDE // 2 + LOOK // 2 + 1),) * 2
        shift = np.rint(own[0][middle].mean(axis=(0, 1)) - lr[middle].mean(axis=(0, 1)))
        alike.append(tuple(np.clip(one + shift, 0, 255).astype(np.uint8) for one in (lr, hr)))
    flat = tuple(np.broadcast_to(np.rint(level).astype(np.uint8), one.shape) for one in own)
    patches = {
        "consistent": [own],
        "shifted": [_cut(query, phase) for phase in phases[:count]],
        "inconsistent": alike,
        "plain": [flat],
    }
    made = {}
    for kind, some in patches.items():
        if some:
            lr, hr = (np.stack([one[n] for one in some]) for n in (0, 1))
            repeated = np.resize(np.arange(len(some)), count)
            look, truth = _looks(own[0], MIDDLE)[0], _lost(own, scale)
            likeness = np.array([_relative(_looks(one, MIDDLE)[0] - look, look) for one in lr])
            k = np.array([_relative(_lost(one, scale) - truth, truth) ** 2 for one in some])
            made[kind] = Donors(lr[repeated], hr[repeated], likeness[repeated], k[repeated])
    return made


def _relative(step: Float, own: Float) -> float:
    return float(np.linalg.norm(step) / max(float(np.linalg.norm(own)), 1e-9))


def _above(level: Float, quantile: float) -> Places:
    """Return where a map (H, W) is above a quantile, far enough from the border to be cut out."""
    if min(level.shape) <= 2 * MARGIN:
        return np.empty((0, 2), np.int64)
    inner = level[MARGIN:-MARGIN, MARGIN:-MARGIN]
    return np.argwhere(inner > np.quantile(inner, quantile)) + MARGIN


def _looks(lr: UInt8, at: Places) -> NDArray[np.float32]:
    """Return LR patches without the means of their channels, (n, LOOK * LOOK * 3)."""
    views = sliding_window_view(lr, (LOOK, LOOK), axis=(0, 1))  # type: ignore[call-overload]
    first = at - LOOK // 2
    flat = views[first[:, 0], first[:, 1]].reshape(len(at), 3, LOOK**2).astype(np.float32)
    return (flat - flat.mean(axis=2, keepdims=True)).reshape(len(at), 3 * LOOK**2)


def _details(lost: Float, at: Places, scale: int) -> Float:
    """Return the true details of 3 x 3 positions, (n, 9 * s * s)."""
    side = (2 * REACH + 1) * scale
    first = scale * (at - REACH)
    return sliding_window_view(lost, (side, side))[first[:, 0], first[:, 1]].reshape(
        len(at), side**2
    )


def _cut(query: Query, phase: tuple[int, int] = (0, 0)) -> tuple[UInt8, UInt8]:
    """Return the LR and HR patch of a query, moved by a phase in HR pixels before degrading."""
    sample, s = query.sample, query.sample.scale
    top, left = query.row - SIDE // 2, query.column - SIDE // 2
    if phase == (0, 0):
        part = sample.crop(top, left, SIDE, SIDE)
        return part.lr, images.as_rgb(part.hr)
    spare = MARGIN - SIDE // 2 - 1  # LR pixels, as degrading looks beyond
    rows, columns = (
        slice(s * (first - spare) + move, s * (first + SIDE + spare) + move)
        for first, move in zip((top, left), phase, strict=True)
    )
    hr = images.as_rgb(sample.hr)[rows, columns]
    inner = slice(spare, spare + SIDE)
    large = slice(s * spare, s * (spare + SIDE))
    return images.degrade(hr, s)[inner, inner], hr[large, large]


def _lost(patch: tuple[UInt8, UInt8], scale: int) -> Float:
    """Return the true detail in the middle 3 x 3 positions of an LR and HR patch, flat."""
    lr, hr = patch
    return _details(images.luma(hr) - images.luma(images.imresize(lr, scale)), MIDDLE, scale)[0]


@dataclass(frozen=True)
class Window:
    """The part of a picture that a network sees around a query, with places for donors.

    Attributes
    ----------
    lr, hr
        The part.
    row, column
        The query's middle in it.
    cells
        (top, left) of the places, in the order in which they are filled.
    scale
        Of the picture.
    """

    lr: UInt8
    hr: UInt8
    row: int
    column: int
    cells: list[tuple[int, int]]
    scale: int

    def pasted(self, some: Donors, dose: int) -> tuple[UInt8, UInt8]:
        """Return LR and HR with so many donors."""
        lr, hr = self.lr.copy(), self.hr.copy()
        s = self.scale
        for (top, left), small, large in zip(self.cells[:dose], some.lr, some.hr, strict=False):
            lr[top : top + SIDE, left : left + SIDE] = small
            hr[s * top : s * (top + SIDE), s * left : s * (left + SIDE)] = large
        return lr, hr

    def mask(self, dose: int) -> Float:
        """Return (L, 1): 1 where so many donors are."""
        here = np.zeros(self.lr.shape[:2])
        for top, left in self.cells[:dose]:
            here[top : top + SIDE, left : left + SIDE] = 1
        return here.reshape(-1, 1)

    def error(self, made: Pixels) -> float:
        """Return the mean squared error on Y over the 3 x 3 positions of the query."""
        rows, columns = (
            slice(self.scale * (at - REACH), self.scale * (at + REACH + 1))
            for at in (self.row, self.column)
        )
        y = images.luma(255 * made[rows, columns])
        apart = y - images.luma(self.hr[rows, columns])
        return float(np.mean(apart**2))


def window(query: Query, reach: int, count: int) -> Window | None:
    """Return the window of a query, which holds so many donors outside of a receptive field.

    Parameters
    ----------
    query
        A texture.
    reach
        `radius` of the network.
    count
        Donors.

    Returns
    -------
    None where the picture is too small for them.
    """
    sample, s = query.sample, query.sample.scale
    spans, middles, fields = [], [], []
    for at, length in zip((query.row, query.column), sample.lr.shape[:2], strict=True):
        side = min(length, INSET + 1 + REACH + reach + 2 * CELL)
        # Away from the nearer border, so that there is room.
        first = at - INSET if at < length / 2 else at + INSET + 1 - side
        first = min(max(first, 0), length - side)
        spans.append(slice(first, first + side))
        middles.append(at - first)
        fields.append((at - first - REACH - reach, at - first + REACH + reach + 1))
    (row, column), sides = middles, [span.stop - span.start for span in spans]
    # The lattice of cells begins in the corner that is farthest from the query.
    tops, lefts = (_lattice(side, at < side / 2) for at, side in zip(middles, sides, strict=True))
    (above, below), (before, after) = fields
    cells = [
        (top, left)
        for top in tops
        for left in lefts
        if top >= below or top + SIDE <= above or left >= after or left + SIDE <= before
    ]
    if len(cells) < count:
        return None
    order = np.random.default_rng([query.row, query.column, 1]).permutation(len(cells))
    rows, columns = spans
    return Window(
        sample.lr[rows, columns],
        images.as_rgb(sample.hr)[
            s * rows.start : s * rows.stop, s * columns.start : s * columns.stop
        ],
        row,
        column,
        [cells[index] for index in order],
        s,
    )


def _lattice(side: int, backward: bool) -> list[int]:
    count = side // CELL
    return [side - CELL * (n + 1) + 1 if backward else CELL * n for n in range(count)]


def measure(
    pairs: Sequence[Pair],
    pool: Pool,
    queries: int,
    doses: Sequence[int] = DOSES,
    hash_seeds: int = 2,
) -> pd.DataFrame:
    """Run the experiment; what a network makes of a query is remembered on disk.

    Parameters
    ----------
    pairs
        Their networks with attention run; they must have been trained without it, too. The gate of
        TFS, which depends on the whole picture, is held at its value of the unchanged picture.
    pool
        The pictures.
    queries
        Textures, spread over the pictures: see `Pool.queries`.
    doses
        Numbers of donors.
    hash_seeds
        Networks that hash run under so many hash seeds: any change of a picture moves the borders
        of their chunks, and the plain donors measure what that alone does.

    Returns
    -------
    A row a network, query, donor, dose and hash seed, see `COLUMNS`; none without pairs. Queries
    without room or without similar patches are left out.

    Raises
    ------
    InputError
        A dose below 1, or an error without attention that is not what it was.
    """
    if not doses or min(doses) < 1:
        raise InputError("doses", "numbers of 1 or more", list(doses), "name some")
    rows: list[tuple[Any, ...]] = []
    chosen = pool.queries(queries) if pairs else []
    reach = _reach(pairs)
    total = len(chosen) * len(pairs)
    bar = evaluation.progress(total=total, desc="donors", unit="query")
    with cache.opened(), bar:
        for query in chosen:
            seen = window(query, reach, max(doses))
            some = donors(query, pool, max(doses)) if seen else {}
            for pair in pairs:
                bar.update()
                if seen and len(some) == len(KINDS):
                    place = (query.sample.dataset, query.sample.image, query.row, query.column)
                    key = (pair.name, pair.kind, pair.seed, *place)
                    made = _remembered(pair.on, seen, some, doses, hash_seeds)
                    rows += [(*key, *row) for row in _rows(made, some, doses)]
    return pd.DataFrame(rows, columns=COLUMNS)


def _reach(pairs: Sequence[Pair]) -> int:
    """Return the largest radius: all networks are asked about the same windows."""
    return max((radius(evaluation.network(pair.on)) for pair in pairs), default=0)


def _remembered(
    method: str, seen: Window, some: Mapping[str, Donors], doses: Sequence[int], hash_seeds: int
) -> cache.Arrays:
    code = cache.source("models", "donors", "causes", "images", "interventions")
    way = ("donors", evaluation.fingerprint(method), code, list(doses), hash_seeds, seen.scale)
    given = (seen.lr, seen.hr, np.array([(seen.row, seen.column), *seen.cells]))
    key = cache.key(*way, *given, *(some[kind].lr for kind in KINDS))
    return cache.remembered(
        key, lambda: _run(evaluation.network(method), seen, some, doses, hash_seeds)
    )


def _rows(
    made: cache.Arrays, some: Mapping[str, Donors], doses: Sequence[int]
) -> Iterator[tuple[Any, ...]]:
    """Yield donor, dose, hash, on, off, weight, likeness and k."""
    off, nan = float(made["off"]), float("nan")
    for number, on in enumerate(made["base"]):
        yield "none", 0, number, float(on), off, 0.0, nan, nan
    for n, kind in enumerate(KINDS):
        for m, dose in enumerate(doses):
            alike, k = (float(one[:dose].mean()) for one in (some[kind].likeness, some[kind].k))
            for number, on in enumerate(made["on"][n, m]):
                yield kind, dose, number, float(on), off, float(made["weight"][n, m]), alike, k


def _run(
    network: nn.Module,
    seen: Window,
    some: Mapping[str, Donors],
    doses: Sequence[int],
    hash_seeds: int,
) -> cache.Arrays:
    """Return off (), base (hash seeds), on (kinds, doses, hash seeds), weight (kinds, doses)."""
    pictures = [[seen.pasted(some[kind], dose)[0] for dose in doses] for kind in KINDS]
    with network.attention(False):  # type: ignore[operator]
        off = seen.error(evaluation.unrounded(network, seen.lr))
        for kind, line in zip(KINDS, pictures, strict=True):
            again = seen.error(evaluation.unrounded(network, line[int(np.argmax(doses))]))
            if abs(again - off) > UNCHANGED * max(off, 1.0):
                raise InputError(
                    f"{kind} donors",
                    f"the error {off:.9g} without attention that there was before",
                    f"{again:.9g}",
                    "the network sees farther than its gradient says: report this",
                )
    at = _flat(seen)
    base, on, weight = [], np.empty((len(KINDS), len(doses), 0)), np.zeros((len(KINDS), len(doses)))
    chooses = any(hasattr(layer, "mix") for layer in network.modules())
    for number, context in enumerate(_hash_seeds(network, hash_seeds)):
        with context, held_gates(network):
            base.append(seen.error(evaluation.unrounded(network, seen.lr)))
            found = np.empty((len(KINDS), len(doses), 1))
            for n, line in enumerate(pictures):
                for m, lr in enumerate(line):
                    if not chooses or number:
                        found[n, m] = seen.error(evaluation.unrounded(network, lr))
                        continue
                    with capture.record(network) as record:
                        found[n, m] = seen.error(evaluation.unrounded(network, lr))
                    mask = seen.mask(doses[m])
                    shares = [record.means(layer, mask)[at.numpy()] for layer in record.layers]
                    weight[n, m] = np.mean(shares)
            on = np.concatenate([on, found], axis=2)
    return {"off": np.array(off), "base": np.array(base), "on": on, "weight": weight}


@contextmanager
def held_gates(network: nn.Module) -> Iterator[None]:
    """Hold the channel gates of TFS at what they are in the first pass inside of the context."""
    kept: dict[nn.Module, Tensor] = {}

    def hold(module: nn.Module, _: object, output: Tensor) -> Tensor:
        return kept.setdefault(module, output)

    with ExitStack() as stack:
        for layer in network.modules():
            if isinstance(layer, CCALayer):
                stack.callback(layer.conv_du.register_forward_hook(hold).remove)
        yield


def _hash_seeds(network: nn.Module, count: int) -> Iterator[AbstractContextManager[object]]:
    """Yield contexts: one a hash seed from 0 on, or a single one where nothing is hashed."""
    hashed = [layer for layer in network.modules() if isinstance(layer, HashedAttention)]
    for seed in range(count if hashed else 1):
        same = not hashed or hashed[0].hash_seed == seed
        yield nullcontext() if same else interventions.hash_seed(network, seed)


def _flat(seen: Window) -> Tensor:
    """Return the flat positions of the query's 3 x 3 in its window."""
    near = torch.arange(-REACH, REACH + 1)
    width = seen.lr.shape[1]
    return ((seen.row + near)[:, None] * width + seen.column + near).flatten()


# ---------------------------------------------------------------- what it found


def effects(table: pd.DataFrame) -> pd.DataFrame:
    """Return what donors change, by query: a row a network, query, donor and dose.

    Parameters
    ----------
    table
        Of `measure`.

    Returns
    -------
    pair, kind, seed, dataset, image, row, column, donor, dose, off, weight; and change: the error
    with attention less that with plain donors of the same dose (MSE, mean over hash seeds). Of
    plain donors: less that of the unchanged picture.
    """
    keys = [*NETWORK, *PLACE]
    means = table.groupby([*keys, "donor", "dose"], sort=False)[["on", "off", "weight"]].mean()
    means = means.reset_index()
    plain = means[means["donor"] == "plain"].rename(columns={"on": "base"})
    none = means[means["donor"] == "none"].rename(columns={"on": "base"})
    others = means[~means["donor"].isin(["plain", "none"])]
    both = [
        others.merge(plain[[*keys, "dose", "base"]], on=[*keys, "dose"]),
        means[means["donor"] == "plain"].merge(none[[*keys, "base"]], on=keys),
    ]
    joined = pd.concat(both, ignore_index=True)
    return joined.assign(change=joined.pop("on") - joined.pop("base"))


def curves(table: pd.DataFrame) -> pd.DataFrame:
    """Return the dose curves: a row a pair, kind, donor and dose.

    Parameters
    ----------
    table
        Of `measure`.

    Returns
    -------
    effect (the change of `effects` in % of the error without attention; above 0, the donors harm)
    with effect_low and effect_high, the ends of its 95 % interval over pictures and training seeds;
    weight (mean share of attention on the donors, %); queries, pictures, seeds.
    """
    rows = []
    for key, part in effects(table).groupby(["pair", "kind", "donor", "dose"], sort=False):
        one = statistics.crossed(part, "change", "off")
        row = dict(zip(("pair", "kind", "donor", "dose"), key, strict=True))
        row |= {name: 100 * value for name, value in one.columns("effect").items()}
        row |= {"weight": 100 * part["weight"].mean(), "pictures": one.pictures, "seeds": one.seeds}
        rows.append(row | {"queries": len(part[PLACE].drop_duplicates())})
    columns = ["pair", "kind", "donor", "dose", "effect", "effect_low", "effect_high", "weight"]
    return pd.DataFrame(rows, columns=[*columns, "queries", "pictures", "seeds"])


def contrasts(table: pd.DataFrame, dose: int = 0) -> pd.DataFrame:
    """Return by how much inconsistent donors harm more than consistent ones: a row a query.

    Parameters
    ----------
    table
        Of `measure`.
    dose
        Number of donors; 0: the largest that there is.

    Returns
    -------
    pair, kind, seed, dataset, image, row, column, off, and contrast: the error with inconsistent
    donors less that with consistent ones (MSE, mean over hash seeds). For
    ``statistics.crossed(table, "contrast", "off")``.
    """
    changes = effects(table)
    changes = changes[changes["dose"] == (dose or changes["dose"].max())]
    wide = changes.pivot(index=[*NETWORK, *PLACE, "off"], columns="donor", values="change")
    wide = wide.reindex(columns=["inconsistent", "consistent"])
    return (wide["inconsistent"] - wide["consistent"]).rename("contrast").reset_index()


# ---------------------------------------------------------------- one query to look at


class Shown(NamedTuple):
    """A query with some donors: pictures are float or uint8 RGB of the true colours.

    ``lr``: the window. ``donor``: the HR patch of the first donor. ``copied``: the mean of all HR
    patches of the window, by the query's attention in one layer. ``made``: the output around the
    query. ``error``: on Y over 3 x 3 positions, MSE. ``weight``: of the donors, of that layer.
    """

    lr: UInt8
    donor: UInt8
    copied: Float
    made: Pixels
    error: float
    weight: float


@dataclass(frozen=True)
class Scene:
    """What a query, a network and its donors look like.

    Attributes
    ----------
    pair, query, seen, dose
        Which network, where, in which window, how many donors.
    layer
        The attention layer that is shown, from 1: that which weighs the consistent donors most.
    truth, off
        HR around the query, and the output without attention; `LOOK` + 4 LR pixels a side.
    middle
        LR position of the query in them.
    error
        Of the output without attention.
    shown
        ``"none"`` and the `KINDS` -> what they look like.
    """

    pair: str
    query: Query
    seen: Window
    dose: int
    layer: int
    truth: UInt8
    off: Pixels
    middle: tuple[int, int]
    error: float
    shown: Mapping[str, Shown]

    @property
    def side(self) -> int:
        """LR pixels a side of a donor."""
        return SIDE


def scene(pairs: Sequence[Pair], pool: Pool, table: pd.DataFrame) -> Scene | None:
    """Return the query and network where inconsistent donors harm most beyond consistent ones.

    Parameters
    ----------
    pairs, pool
        As `measure` was called.
    table
        What it returned.

    Returns
    -------
    None where there is no query.
    """
    found = contrasts(table)
    if found.empty:
        return None
    best = found.loc[found["contrast"].idxmax()]
    (pair,) = (one for one in pairs if (one.name, one.kind, one.seed) == tuple(best[NETWORK]))
    sample = next(
        one for one in pool.samples if (one.dataset, one.image) == (best["dataset"], best["image"])
    )
    query = Query(sample, int(best["row"]), int(best["column"]))
    dose, network = int(table["dose"].max()), evaluation.network(pair.on)
    seen = window(query, _reach(pairs), dose)
    assert seen is not None
    some = donors(query, pool, dose)
    given = {"none": (seen.lr, seen.hr)} | {kind: seen.pasted(some[kind], dose) for kind in KINDS}
    with network.attention(False):  # type: ignore[operator]
        off = evaluation.unrounded(network, seen.lr)
    outputs, maps = {}, {}
    with held_gates(network):
        for kind, (lr, _) in given.items():
            with capture.record(network) as record:
                outputs[kind] = evaluation.unrounded(network, lr)
            at = (seen.row, seen.column)
            maps[kind] = np.stack([record.map(name, at).cpu().numpy() for name in record.layers])
    mask = seen.mask(dose).reshape(seen.lr.shape[:2])
    place = int(np.argmax([(one * mask).sum() for one in maps["consistent"]]))
    around = _around(seen, LOOK // 2 + 2)
    shown = {}
    for kind, (lr, hr) in given.items():
        one = maps[kind][place]
        weight = float((one * mask).sum()) if kind != "none" else 0.0
        patch = some[kind].hr[0] if kind != "none" else hr[around]
        error = seen.error(outputs[kind])
        shown[kind] = Shown(
            lr, patch, _copied(one, hr, seen.scale), outputs[kind][around], error, weight
        )
    middle = seen.row - around[0].start // seen.scale, seen.column - around[1].start // seen.scale
    truth = (seen.hr[around], off[around], middle, seen.error(off))
    return Scene(pair.name, query, seen, dose, place + 1, *truth, shown)


def _around(seen: Window, reach: int) -> tuple[slice, slice]:
    """Return the HR pixels of a window at most so many LR pixels from the query."""
    rows, columns = (
        slice(max(0, seen.scale * (at - reach)), seen.scale * (at + reach + 1))
        for at in (seen.row, seen.column)
    )
    return rows, columns


def _copied(weights: Float, hr: UInt8, scale: int) -> Float:
    """Return the mean of the HR patches around all positions, by weight, in [0, 255]."""
    reach = scale * (LOOK // 2)
    padded = np.pad(hr.astype(np.float32), ((reach, reach), (reach, reach), (0, 0)), mode="edge")
    views = sliding_window_view(padded, (scale * LOOK, scale * LOOK), axis=(0, 1))  # type: ignore[call-overload]
    mean = np.tensordot(weights, views[::scale, ::scale], axes=2)  # (3, side, side)
    return mean.transpose(1, 2, 0).astype(np.float64)
