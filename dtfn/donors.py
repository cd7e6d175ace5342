"""The donor experiment: what attention fetches is changed, and nothing else.

A query is a small texture of a picture. Patches (*donors*, see `KINDS`) are pasted into the LR
picture so far from it that the network without attention cannot see them: its error there does not
change. So what changes with attention on is caused by what it fetched. The dose is their number.
"""

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.linalg import norm
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter
from torch import Tensor, nn

from dtfn import cache, capture, evaluation, images, interventions, methods, statistics, texture
from dtfn.datasets import Sample
from dtfn.errors import InputError
from dtfn.harm import Pair
from dtfn.images import UInt8
from dtfn.models.attention import HashedAttention
from dtfn.models.layers import CCALayer
from dtfn.subpixel import Float, block_mean

KINDS = (  # of donors
    "consistent",  # the query's own patch: a repetition at a whole number of LR pixels
    "shifted",  # the query's texture at another sub-pixel phase: moved in HR, then degraded
    "inconsistent",  # patches from elsewhere that look like the query in LR, of other true detail
    "plain",  # the mean colour of the query's patch: the control, which holds nothing to copy
)
SIDE = 15  # of a donor, LR pixels; what the first attention layer of small networks sees around it
CELL = SIDE + 1  # donors keep a pixel of the picture between them
REACH = 1  # the query is the 3 x 3 positions around its middle
INSET = 16  # LR pixels from the query to the two nearest edges of its window
MARGIN = SIDE // 2 + 5  # LR pixels from a middle to the picture's border: degrading looks so far
LOOK = 5  # LR pixels a side on which patches are compared
MIDDLE = np.array([[SIDE // 2, SIDE // 2]])  # of a donor
NETWORK = ["pair", "kind", "seed"]
PLACE = ["dataset", "image", "row", "column"]
COLUMNS = [*NETWORK, *PLACE, *("donor", "dose", "hash", "on", "off", "weight", "likeness", "k")]
"""Of `measure`. row, column: the query. donor: of `KINDS`, or ``none`` at dose 0. hash: hash seed.
on, off: error over the 3 x 3 positions with attention and without (MSE). weight: share of the
query's attention on the donors, mean over layers, first hash seed. likeness, k: see `Trial`."""

Places = NDArray[np.int64]  # (n, 2): rows and columns of LR positions


class Query(NamedTuple):
    """A texture of a picture, or of a window of it."""

    sample: Sample
    row: int  # the LR position of its middle
    column: int

    def around(self, reach: int) -> tuple[slice, ...]:
        """Return the HR pixels at most so many LR pixels from the query, rows and columns."""
        s, middle = self.sample.scale, (self.row, self.column)
        return tuple(slice(max(0, s * (at - reach)), s * (at + reach + 1)) for at in middle)

    def error(self, made: NDArray[np.float32]) -> float:
        """Return the mean squared error on Y over the 3 x 3 positions, of an output in [0, 1]."""
        here = self.around(REACH)
        apart = images.luma(255 * made[here]) - images.luma(self.sample.hr[here])
        return float(np.mean(apart**2))

    def cut(self, down: int = 0, right: int = 0) -> tuple[UInt8, UInt8]:
        """Return the LR and HR patch, moved by a phase in HR pixels before degrading."""
        s, spare = self.sample.scale, MARGIN - SIDE // 2 - 1  # LR pixels, as degrading looks beyond
        top, left = (at - SIDE // 2 - spare for at in (self.row, self.column))
        part = self.sample.crop(top, left, SIDE + 2 * spare, SIDE + 2 * spare)
        hr = np.roll(images.as_rgb(part.hr), (-down, -right), (0, 1))
        lr = images.degrade(hr, s) if down or right else part.lr
        small, large = (slice(f * spare, f * (spare + SIDE)) for f in (1, s))
        return lr[small, small], hr[large, large]


class Trial(NamedTuple):
    """A window with donors of one kind; the first trial has none."""

    donor: str
    dose: int
    sample: Sample
    cells: Places  # where the donors begin, (dose, 2)
    # Mean distance of their LR patches to the query's over that patch's own contrast, all without
    # means: 0 the same, 1.4 unrelated.
    likeness: float
    k: float  # that of `dtfn.causes`, of the query's 3 x 3 positions; mean
    side: int = SIDE

    @property
    def mask(self) -> Float:
        """(H, W): 1 where donors are."""
        here = np.zeros(self.sample.lr.shape[:2])
        for top, left in self.cells:
            here[top : top + SIDE, left : left + SIDE] = 1
        return here


class Pool:
    """The textures of some pictures: queries, and patches that look like them."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples = [one for one in samples if min(one.lr.shape[:2]) > 2 * MARGIN]
        if not self.samples:
            wanted = f"a picture of more than {2 * MARGIN} x {2 * MARGIN} LR pixels"
            raise InputError("donors", wanted, "smaller ones", "use larger pictures")
        self._textured: list[Places] = []  # of each picture, where severity is highest
        places, looks, details = [], [], []
        for number, sample in enumerate(self.samples):
            lost = texture.detail(images.as_rgb(sample.hr), sample.scale, sample.lr)
            level = uniform_filter(block_mean(lost**2, sample.scale), 2 * REACH + 1)
            level = level[MARGIN:-MARGIN, MARGIN:-MARGIN]
            highest, at = (np.argwhere(level > np.quantile(level, q)) for q in (0.8, 0.5))
            self._textured.append(highest + MARGIN)
            at = at[((at + MARGIN) % 2 == 0).all(axis=1)] + MARGIN
            places.append(np.insert(at, 0, number, axis=1))
            looks.append(_looks(sample.lr, at))
            side, first = (2 * REACH + 1) * sample.scale, sample.scale * (at - REACH)
            near = sliding_window_view(lost, (side, side))[first[:, 0], first[:, 1]]
            details.append(near.reshape(len(at), -1).astype(np.float32))
        self._places, self._looks, self._details = map(np.concatenate, (places, looks, details))

    def queries(self, count: int) -> list[Query]:
        """Return so many textures of high severity, spread over the pictures; always the same."""
        drawn: list[Query] = []
        for number, sample in enumerate(self.samples):
            most = count // len(self.samples) + (number < count % len(self.samples))
            places = np.random.default_rng(0).permutation(self._textured[number]).tolist()
            drawn += _apart((Query(sample, *place) for place in places), most, SIDE)
        return drawn

    def similar(self, query: Query, count: int) -> list[Query]:
        """Return up to ``count`` positions that look most like a query in LR, of other detail.

        Their details over 3 x 3 positions do not correlate with the query's, or negatively, and are
        of like energy.
        """
        own = _looks(query.sample.lr, np.array([[query.row, query.column]]))[0]
        detail = _lost(query.cut(), query.sample.scale)
        energy = np.sum(self._details**2, axis=1) / max(float(detail @ detail), 1e-9)
        fits = (energy >= 0.5) & (energy <= 2) & (self._details @ detail <= 0)
        away = np.where(fits, np.linalg.norm(self._looks - own, axis=1), np.inf)
        nearest = self._places[np.argsort(away, kind="stable")[: fits.sum()]].tolist()
        return _apart((Query(self.samples[n], *place) for n, *place in nearest), count, LOOK)

    def trials(
        self, query: Query, reach: int, doses: Sequence[int]
    ) -> tuple[Query, list[Trial]] | None:
        """Return a query in its window, and all trials beyond what a network of a `radius` sees.

        None where the picture has no room for donors there, or no patch looks alike.
        """
        (seen, cells), count = _placed(query, reach), max(doses)
        alike = self.similar(query, count)
        if len(cells) < count or not alike:
            return None
        scale, (small, large) = query.sample.scale, query.cut()
        phases = np.argwhere(np.ones((scale, scale)))[1:]  # all but (0, 0)
        order = np.random.default_rng([query.row, query.column]).permutation(len(phases))
        middle = (slice(SIDE // 2 - LOOK // 2, SIDE // 2 + LOOK // 2 + 1),) * 2
        colour = np.rint(small.mean(axis=(0, 1))).astype(np.uint8)
        patches: dict[str, list[tuple[UInt8, UInt8]]] = {
            "consistent": [(small, large)],
            "shifted": [query.cut(*phase) for phase in phases[order[:count]].tolist()],
            "inconsistent": [],
            "plain": [(np.full_like(small, colour), np.full_like(large, colour))],
        }
        for lr, hr in (other.cut() for other in alike):
            # The mean colour becomes the query's. Degrading is linear: the detail does not change.
            shift = np.rint(small[middle].mean(axis=(0, 1)) - lr[middle].mean(axis=(0, 1)))
            lr, hr = (np.clip(one + shift, 0, 255).astype(np.uint8) for one in (lr, hr))
            patches["inconsistent"].append((lr, hr))
        look, truth = _looks(small, MIDDLE)[0], _lost((small, large), scale)
        contrast, energy = (max(float(norm(one)), 1e-9) for one in (look, truth))
        made = [Trial("none", 0, seen.sample, cells[:0], np.nan, np.nan)]
        for kind in KINDS:
            some = [patches[kind][n % len(patches[kind])] for n in range(count)]
            likeness = [float(norm(_looks(lr, MIDDLE)[0] - look) / contrast) for lr, _ in some]
            k = [float(norm(_lost(one, scale) - truth) / energy) ** 2 for one in some]
            for dose in doses:
                pasted = replace(seen.sample, lr=seen.sample.lr.copy(), hr=seen.sample.hr.copy())
                for (top, left), (lr, hr) in zip(cells[:dose], some, strict=False):
                    place = pasted.crop(top, left, SIDE, SIDE)
                    place.lr[:], place.hr[:] = lr, hr
                means = float(np.mean(likeness[:dose])), float(np.mean(k[:dose]))
                made.append(Trial(kind, dose, pasted, cells[:dose], *means))
        return seen, made


def _apart(queries: Iterable[Query], count: int, side: int) -> list[Query]:
    """Return the first so many that are so far from each other, where they share a picture."""
    kept: list[Query] = []
    for one in queries:
        if len(kept) == count:
            break
        near = (q for q in kept if q.sample is one.sample)
        if all(max(abs(q.row - one.row), abs(q.column - one.column)) >= side for q in near):
            kept.append(one)
    return kept


def _looks(lr: UInt8, at: Places) -> NDArray[np.float32]:
    """Return LR patches without the means of their channels, (n, LOOK * LOOK * 3)."""
    views = sliding_window_view(lr, (LOOK, LOOK), axis=(0, 1))  # type: ignore[call-overload]
    first = at - LOOK // 2
    flat = views[first[:, 0], first[:, 1]].reshape(len(at), 3, LOOK**2).astype(np.float32)
    return (flat - flat.mean(axis=2, keepdims=True)).reshape(len(at), 3 * LOOK**2)


def _lost(patch: tuple[UInt8, UInt8], scale: int) -> Float:
    """Return the true detail in the middle 3 x 3 positions of an LR and HR patch, flat."""
    middle = slice(scale * (SIDE // 2 - REACH), scale * (SIDE // 2 + REACH + 1))
    return texture.detail(patch[1], scale, patch[0])[middle, middle].ravel()


@functools.cache
def radius(network: nn.Module) -> int:
    """Return how far a network sees without attention, in LR pixels, found by its gradient."""
    s, generator = int(network.scale), torch.Generator().manual_seed(0)  # type: ignore[arg-type]
    for reach in (32, 64, 128, 256):
        side, middle = 2 * reach + 1, slice(s * reach, s * (reach + 1))
        x = torch.rand(1, 3, side, side, generator=generator)
        x = x.to(next(network.parameters())).requires_grad_()
        with torch.enable_grad(), network.attention(False):  # type: ignore[operator]
            (slope,) = torch.autograd.grad(network(x)[..., middle, middle].abs().sum(), x)
        share = slope.abs().sum((0, 1)).double().cpu().numpy()
        apart = np.abs(np.arange(side) - reach)
        sums = np.bincount(np.maximum.outer(apart, apart).ravel(), share.ravel() / share.sum())
        if (far := int(np.argmax(1 - np.cumsum(sums) <= 1e-9))) < reach:  # what is left is rounding
            return far
    wanted = "a network that sees less than 256 LR pixels away without attention"
    raise InputError("donors", wanted, "one that sees everything", "choose a convolutional one")


def _placed(query: Query, reach: int) -> tuple[Query, Places]:
    """Return a query in its window, and where donors may begin, in the order of filling."""
    spans, lattices = [], []
    for at, length in zip((query.row, query.column), query.sample.lr.shape, strict=False):
        side = min(length, INSET + 1 + REACH + reach + 2 * CELL)
        # Away from the nearer border, so that there is room.
        first = at - INSET if at < length / 2 else at + INSET + 1 - side
        first = min(max(first, 0), length - side)
        spans.append((first, side))
        # Cells are counted from the corner that is farthest from the query.
        lattice = CELL * np.arange(side // CELL)
        lattices.append(side - CELL + 1 - lattice if at - first < side / 2 else lattice)
    (top, height), (left, width) = spans
    part = query.sample.crop(top, left, height, width)
    seen = Query(replace(part, hr=images.as_rgb(part.hr)), query.row - top, query.column - left)
    cells = np.stack(np.meshgrid(*lattices, indexing="ij"), axis=2).reshape(-1, 2)
    apart = np.abs(cells + SIDE // 2 - (seen.row, seen.column)).max(axis=1)
    cells = cells[apart > REACH + reach + SIDE // 2]
    order = np.random.default_rng([query.row, query.column, 1]).permutation(len(cells))
    return seen, cells[order]


def measure(
    pairs: Sequence[Pair], pool: Pool, queries: int, doses: Sequence[int], hash_seeds: int = 2
) -> pd.DataFrame:
    """Run the experiment: a row a network, query, donor, dose and hash seed, see `COLUMNS`.

    Networks must have been trained without attention, too. The gate of TFS depends on the whole
    picture, so it is held at its value of the unchanged one. Networks that hash run under so many
    hash seeds: any change of a picture moves the borders of their chunks, and the plain donors
    measure what that alone does. Queries without room or without similar patches are left out.

    A dose below 1 is an `InputError`. So is an output without attention that donors change at the
    query by more than rounding.
    """
    if not doses or min(doses) < 1:
        raise InputError("doses", "numbers of 1 or more", list(doses), "name some")
    code = cache.source("donors", "capture", "images", "interventions")
    # All networks are asked about the same windows.
    reach = max((radius(methods.network(pair.on)) for pair in pairs), default=0)
    chosen = pool.queries(queries) if pairs else []
    rows: list[tuple[Any, ...]] = []
    bar = evaluation.progress(total=len(chosen) * len(pairs), desc="donors", unit="query")
    with cache.opened(), bar:
        for query in chosen:
            placed = pool.trials(query, reach, doses)
            for pair in pairs:
                bar.update()
                if placed is None:
                    continue
                seen, trials = placed
                given = (trial.sample.lr for trial in trials)
                way = cache.key(code, list(doses), hash_seeds, seen.row, seen.column, *given)
                make = functools.partial(_run, seen, trials, hash_seeds)
                made = methods.remembered(pair.on, seen.sample, f"donors {way}", make)
                key = (pair.name, pair.kind, pair.seed, seen.sample.dataset, seen.sample.image)
                for trial, on, weight in zip(trials, made["on"], made["weight"], strict=True):
                    what = (*key, query.row, query.column, trial.donor, trial.dose)
                    more = (float(made["off"]), float(weight), trial.likeness, trial.k)
                    rows += [(*what, n, error, *more) for n, error in enumerate(on.tolist())]
    return pd.DataFrame(rows, columns=COLUMNS)


def _run(seen: Query, trials: Sequence[Trial], hash_seeds: int, network: Any) -> cache.Arrays:
    """Return off (), on (trials, hash seeds) and weight (trials,)."""
    here, most = seen.around(REACH), max(trial.dose for trial in trials)
    with network.attention(False):
        off = evaluation.unrounded(network, seen.sample.lr)
        for trial in (trial for trial in trials if trial.dose == most):
            again = evaluation.unrounded(network, trial.sample.lr)
            if (change := float(np.abs(again - off)[here].max())) > 1e-6:  # that is rounding
                wanted = "the output without attention that there was before"
                remedy = "the network sees farther than its gradient says: report this"
                raise InputError(f"{trial.donor} donors", wanted, f"a change of {change}", remedy)
    near = np.arange(-REACH, REACH + 1)
    at = ((seen.row + near[:, None]) * seen.sample.lr.shape[1] + seen.column + near).ravel()
    hashed = [layer for layer in network.modules() if isinstance(layer, HashedAttention)]
    seeds = range(hash_seeds if hashed else 1)
    on, weight = np.empty((len(trials), len(seeds))), np.zeros(len(trials))
    for number in seeds:
        other = hashed and hashed[0].hash_seed != number
        seeded = interventions.hash_seed(network, number) if other else nullcontext()
        with held_gates(network), seeded:  # at what they are in the first trial
            for n, trial in enumerate(trials):
                looks = number == 0 and capture.layers(network)
                with capture.record(network) if looks else nullcontext() as record:
                    on[n, number] = seen.error(evaluation.unrounded(network, trial.sample.lr))
                if record is not None:
                    mask = trial.mask.reshape(-1, 1)
                    weight[n] = np.mean([record.means(name, mask)[at] for name in record.layers])
    return {"off": np.array(seen.error(off)), "on": on, "weight": weight}


@contextmanager
def held_gates(network: nn.Module) -> Iterator[None]:
    """Hold the channel gates of TFS at what they are in the first pass inside of the context."""
    kept: dict[nn.Module, Tensor] = {}
    hold = lambda module, _, made: kept.setdefault(module, made)  # noqa: E731
    with ExitStack() as stack:
        for layer in network.modules():
            if isinstance(layer, CCALayer):
                stack.enter_context(layer.conv_du.register_forward_hook(hold))
        yield


def effects(table: pd.DataFrame) -> pd.DataFrame:
    """Return what donors change: a row a network, query, donor and dose of `measure`.

    change: the error with attention less that with as many plain donors (MSE, mean over hash
    seeds); of plain donors, less that of the unchanged picture.
    """
    keys = [*NETWORK, *PLACE]
    means = table.groupby([*keys, "donor", "dose"], sort=False)[["on", "off", "weight"]].mean()
    on, means = means["on"], means.reset_index()
    plain = means["donor"] == "plain"
    base = means.assign(donor=np.where(plain, "none", "plain"), dose=means["dose"].mask(plain, 0))
    base = on.reindex(pd.MultiIndex.from_frame(base[[*keys, "donor", "dose"]])).to_numpy()
    means = means.assign(change=means["on"] - base).drop(columns="on")
    return means[means["donor"] != "none"].reset_index(drop=True)


def curves(table: pd.DataFrame) -> pd.DataFrame:
    """Return the dose curves of `measure`: a row a pair, kind, donor and dose.

    effect is the change of `effects` in % of the error without attention (above 0, the donors harm)
    with effect_low and effect_high; weight is the mean share of attention on the donors (%).
    """
    by, changes = ["pair", "kind", "donor", "dose"], effects(table)
    changes = changes.assign(effect=100 * changes["change"], weight=100 * changes["weight"])
    changes["query"] = changes.groupby(PLACE).ngroup()
    groups = changes.groupby(by, sort=False)
    more = groups.agg(queries=("query", "nunique"), weight=("weight", "mean")).reset_index()
    return statistics.crossed_by(changes, by, ["effect"], "off").merge(more, on=by)


def contrasts(table: pd.DataFrame) -> pd.DataFrame:
    """Return by how much inconsistent donors harm more than consistent ones: a row a query.

    contrast is the difference of their errors at the largest dose (MSE, mean over hash seeds).
    """
    changes = effects(table)
    changes = changes[changes["dose"] == changes["dose"].max()]
    wide = changes.pivot(index=[*NETWORK, *PLACE, "off"], columns="donor", values="change")
    wide = wide.reindex(columns=["inconsistent", "consistent"])
    return (wide["inconsistent"] - wide["consistent"]).rename("contrast").reset_index()


class Scene(NamedTuple):
    """What a query, a network and its donors look like: by ``"none"`` and the `KINDS`."""

    query: Query  # in its window
    layer: int  # the attention layer, from 1, that weighs the consistent donors most
    trials: Mapping[str, Trial]
    outputs: Mapping[str, NDArray[np.float32]]  # in [0, 1]; also "off": without attention
    errors: Mapping[str, float]  # of the outputs, at the query
    weights: Mapping[str, float]  # the share of the query's attention that is on the donors
    copied: Mapping[str, UInt8]  # the mean of the HR patches around all positions, by attention


def scene(pairs: Sequence[Pair], pool: Pool, table: pd.DataFrame) -> Scene | None:
    """Return the query and network of the largest contrast of `measure`'s table; perhaps none."""
    found = contrasts(table)
    if found.empty:
        return None
    best = found.loc[found["contrast"].idxmax()]
    (pair,) = (one for one in pairs if (one.name, one.kind, one.seed) == tuple(best[NETWORK]))
    places = {(one.dataset, one.image): one for one in pool.samples}
    query = Query(places[best["dataset"], best["image"]], int(best["row"]), int(best["column"]))
    reach = max(radius(methods.network(one.on)) for one in pairs)
    placed = pool.trials(query, reach, [int(table["dose"].max())])
    assert placed is not None
    (seen, some), network, outputs, maps = placed, methods.network(pair.on), {}, {}
    with network.attention(False):  # type: ignore[operator]
        outputs["off"] = evaluation.unrounded(network, seen.sample.lr)
    with held_gates(network):
        for trial in some:
            with capture.record(network) as record:
                outputs[trial.donor] = evaluation.unrounded(network, trial.sample.lr)
            each = [record.map(name, (seen.row, seen.column)) for name in record.layers]
            maps[trial.donor] = torch.stack(each).cpu().numpy()
    trials = {trial.donor: trial for trial in some}
    mask = trials["consistent"].mask
    layer = int(np.argmax([(one * mask).sum() for one in maps["consistent"]]))
    errors = {kind: seen.error(made) for kind, made in outputs.items()}
    weights, copied = {}, {}
    for kind, trial in trials.items():
        weights[kind] = float((maps[kind][layer] * trial.mask).sum())
        copied[kind] = capture.mixed_patch(trial.sample.hr, maps[kind][layer], LOOK)
    return Scene(seen, layer + 1, trials, outputs, errors, weights, copied)
