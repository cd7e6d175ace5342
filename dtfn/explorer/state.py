"""What is chosen in the explorer and what is computed from it, without widgets.

A `State` never changes: every event returns the next one, or raises `InputError`. Networks are
methods of `dtfn.evaluation`, so that ``NAME@off`` is one with its attention off.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.special import entr
from torch import Tensor

from dtfn import capture, datasets, evaluation, gate, images, methods, subpixel, texture, zoo
from dtfn.capture import Attribution, Record
from dtfn.causes import Look
from dtfn.datasets import Sample
from dtfn.errors import InputError, require_known
from dtfn.images import UInt8
from dtfn.interventions import hash_seed, intervened
from dtfn.methods import hashes
from dtfn.recipes import without_tfs
from dtfn.subpixel import Float
from dtfn.tiling import Tiling

Position = tuple[int, int]  # row, column on the LR grid
Files = Mapping[str, tuple[bytes, bool]]  # the reader's: name -> bytes, whether HR, else LR
Tell = Callable[[float, str], None]  # called with the share that is done and what is being done

FILES = "uploads"  # stands among the benchmarks for the pictures that the reader brought
WITHOUT = "without the ringed"  # the network, with the most attended positions as keys of none
LEAST = 8  # LR positions a side: with fewer there is nothing to attend to
TILE = 128  # LR positions a side at most: the first answer takes seconds, a click far below 0.3 s
DENSE = TILE**2  # LR positions at most, where time and memory grow with their square
LARGEST = 160_000  # the same for other networks
SIDE, PATCH, STEPS = 48, 4, 8  # of attribution: what the network sees, the patch, the path
MOST = ["row", "column", "weight", "disagreement"]  # of the most attended positions


class Window(NamedTuple):
    """A rectangle of LR positions."""

    top: int
    left: int
    height: int
    width: int

    def __str__(self) -> str:
        rows = f"rows {self.top}–{self.top + self.height - 1}"
        return f"{rows}, columns {self.left}–{self.left + self.width - 1}"


class _Output(NamedTuple):
    """What a method made of a picture."""

    image: UInt8  # (sH, sW, 3)
    error: Float  # of its blocks on Y, not rounded (MSE), (H, W); NaN without the truth
    record: Record | None  # what its attention layers received; None where it has none


@dataclass(frozen=True)
class Choice:
    """All that a reader chooses, except for the position; "" stands for none."""

    dataset: str  # a benchmark, or `FILES`
    image: str
    scale: int
    network: str  # whose attention is looked at
    baseline: str  # the method that it is compared with, perhaps ``NETWORK@off``
    control: tuple[str, ...] = ()  # two methods that differ by chance alone
    third: str = ""  # one more to look at
    layer: str = ""  # attention layer of the network; "": its last, if it has one
    hash_seed: int = 0  # of all layers with hashing
    tile: tuple[int, ...] = ()  # a `Window`, or () for the whole picture
    quantile: float = 0.95  # of the absolute chance: the threshold of harm
    ringed: int = 8  # attended positions that are named

    @property
    def off(self) -> str:
        """The network with its attention off; a user's own with equal weights."""
        return f"{self.network}@{'uniform' if zoo.own(self.network) else 'off'}"

    @property
    def labels(self) -> dict[str, str]:
        """Every method that is shown -> its short name."""
        return methods.labels([*self.methods, self.off, f"{self.network}@uniform", WITHOUT])

    @property
    def methods(self) -> list[str]:
        """Every method once, the network first."""
        named = (self.network, self.baseline, *self.control, self.third)
        return [name for name in dict.fromkeys(named) if name]


@dataclass(frozen=True, eq=False)
class State:
    """A picture, what methods made of it, and what there is to say about one position of it."""

    choice: Choice
    whole: Sample  # the whole picture; its HR is empty where nobody knows the truth
    sample: Sample  # the tile
    notes: str  # on the picture and the network, in words
    outputs: Mapping[str, _Output]  # by method
    harm: Float  # error of the network minus error of the baseline, (H, W); NaN without the truth
    chance: Float  # the same of the control; NaN where there is none
    threshold: float  # harm (MSE) that chance reaches at one position in twenty, by default; else 0
    is_judged: bool  # no: without its choice of keys the network is off-distribution
    files: Files
    tell: Tell
    position: Position = (0, 0)
    attention: Float | None = None  # (H, W), sums to 1; None where the network has none
    # Effective positions, mean distance, and weight on itself and where disagreement is above 1.
    spread: Mapping[str, float] = field(default_factory=dict)
    # The most attended positions, heaviest first: row, column, weight, and disagreement (see
    # `dtfn.texture`) of their HR detail with the query's; NaN where it is not known.
    copied: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=MOST))
    attribution: Attribution | None = None  # of the patch around the position, on `crop`
    crop: Window | None = None

    @property
    def shape(self) -> Position:
        """Rows and columns of the LR grid, (H, W)."""
        return self.sample.lr.shape[0], self.sample.lr.shape[1]

    @property
    def has_truth(self) -> bool:
        """Whether HR is known, and with it errors, harm and chance."""
        return self.sample.hr.size > 0

    @property
    def record(self) -> Record | None:
        """What the network's attention layers received; None where it has none."""
        return self.outputs[self.choice.network].record

    def images(self, dataset: str) -> list[str]:
        """Return the pictures of a benchmark, or those that the reader brought."""
        return sorted(self.files) if dataset == FILES else datasets.names(dataset)

    def choose(self, **changes: Any) -> State:
        """Change some fields of the choice, and make fit what no longer does.

        Another benchmark shows its first picture, another picture its whole, another scale the
        networks of that scale, another network its last layer; the control fits the baseline.
        """
        old, new, follow = self.choice, replace(self.choice, **changes), dict[str, Any]()
        if new.dataset != old.dataset and "image" not in changes:
            follow["image"] = self.images(new.dataset)[0]
        if (new.dataset, new.image, new.scale) != (old.dataset, old.image, old.scale):
            follow["tile"] = ()
        if (new.network, new.scale) != (old.network, old.scale):
            follow["layer"] = ""
        if new.scale != old.scale:
            follow |= {"third": "", **usual(new.scale, seed=new.hash_seed)}
        elif {"network", "baseline", "hash_seed"} & changes.keys():
            anew = new.network != old.network and old.baseline == old.off
            baseline = "" if anew else new.baseline
            follow |= usual(new.scale, new.network, baseline, new.hash_seed)
        return look(replace(new, **follow | changes), self.files, self.tell, self)

    def upload(self, name: str, data: bytes, *, truth: bool) -> State:
        """Take a picture that the reader brought, and show it."""
        with_it = replace(self, files={**self.files, name: (data, truth)})
        return with_it.choose(dataset=FILES, image=name, tile=())

    def move(self, down: int, right: int) -> State:
        """Step from the position, and stay inside the picture."""
        row, column = np.clip(np.add(self.position, (down, right)), 0, np.subtract(self.shape, 1))
        return self.looked((int(row), int(column)))

    def looked(self, at: Position) -> State:
        """Look at a position: row and column."""
        rows, columns = self.shape
        if len(at) != 2 or not (0 <= at[0] < rows and 0 <= at[1] < columns):
            wanted = f"(row, column) of row 0 to {rows - 1} and column 0 to {columns - 1}"
            raise InputError("position", wanted, at, "choose one inside the picture")
        outputs = {name: output for name, output in self.outputs.items() if name != WITHOUT}
        here = replace(self, position=at, outputs=outputs, attribution=None, crop=None)
        if self.record is None:
            return here
        attention = self.record.map(self.choice.layer, at).double().cpu().numpy()
        apart = np.full(self.shape, np.nan)
        if self.has_truth:
            flat = at[0] * columns + at[1]
            apart = texture.disagreement(_detail(self.sample), [flat]).reshape(self.shape)
        distance = np.hypot(*(np.indices(self.shape) - np.reshape(at, (2, 1, 1))))
        spread = {
            "support": float(np.exp(entr(attention).sum())),
            "distance": float((attention * distance).sum()),
            "on_self": float(attention[at]),
            "disagreeing": float((attention * np.where(np.isnan(apart), apart, apart > 1)).sum()),
        }
        most = Look(self.choice.network, 0, at, attention).strongest(self.choice.ringed)
        copied = pd.DataFrame([(*p, attention[p], apart[p]) for p in most], columns=MOST)
        return replace(here, attention=attention, spread=spread, copied=copied)

    def deeper(self) -> Iterator[State]:
        """Yield more and more of what takes seconds: outputs `WITHOUT` and uniform, attribution."""
        if self.attention is None:
            return
        choice, outputs = self.choice, dict(self.outputs)
        seed = _seed(choice.network, choice.hash_seed)
        # The position itself stays: the question is what the others brought.
        width, (row, column) = self.shape[1], self.position
        ringed = set(self.copied["row"] * width + self.copied["column"]) - {row * width + column}
        network = methods.network(choice.network)
        if getattr(network, "placed", []) == getattr(network, "dense", []):  # none in windows
            outputs[WITHOUT] = run(choice.network, self.sample, seed, tuple(sorted(ringed)))
            yield replace(self, outputs=dict(outputs))
        uniform = f"{choice.network}@uniform"
        outputs[uniform] = run(uniform, self.sample, 0)
        yield replace(self, outputs=outputs)
        crop, patch = (around(self.shape, self.position, side) for side in (SIDE, PATCH))
        inside = (patch.top - crop.top, patch.left - crop.left, patch.height, patch.width)
        with _LOCK, hash_seed(network, seed) if seed else nullcontext():
            owed = capture.attribute(network, self.sample.crop(*crop).lr, inside, STEPS)
        yield replace(self, outputs=outputs, attribution=owed, crop=crop)


def look(
    choice: Choice,
    files: Files | None = None,
    tell: Tell = lambda share, what: None,
    before: State | None = None,
) -> State:
    """Return the state of a choice; by its first tile where the whole picture is too large.

    ``files`` are the reader's pictures by name. The position of the state ``before`` stays if the
    picture does. What cannot be shown is an `InputError`.
    """
    files, notes = files or {}, list[str]()
    if choice.dataset == FILES:
        require_known(choice.image, files, "upload", "one of yours")
        whole, said = brought(choice.image, *files[choice.image], choice.scale)
        notes.append(said)
    else:
        whole = _sample(choice.dataset, choice.image, choice.scale)
    if choice.network == choice.baseline:
        raise InputError("pair", "two different networks", f"{choice.network} twice", "change one")
    methods.require(choice.methods, choice.scale)
    sample = _cut(whole, choice.tile)
    rows, columns = sample.lr.shape[:2]
    limits = ((DENSE if methods.analysis_tiling(m) else LARGEST, m) for m in choice.methods)
    most, slowest = min(limits)
    if rows * columns > most:
        offered = tiles(whole.lr.shape)
        choice = replace(choice, tile=offered[0])
        sample = _cut(whole, choice.tile)
        notes.append(
            f"{columns} x {rows} LR positions are more than the {most} that "
            f"{choice.labels[slowest]} can take. Shown is tile 1 of {len(offered)}."
        )
    network: Any = methods.network(choice.network)
    layers = capture.layers(network)
    if choice.layer:
        require_known(choice.layer, layers, "layer", f"one with attention of {choice.network}")
    elif layers:
        choice = replace(choice, layer=layers[-1])
    own = network if zoo.own(choice.network) else None
    shown, outputs = choice.methods, {}
    if own.shapes if own else layers:
        shown = list(dict.fromkeys([*shown, choice.off]))
    for index, method in enumerate(shown):
        tell(index / len(shown), f"running {method}")
        outputs[method] = run(method, sample, _seed(method, choice.hash_seed))
    tell(1.0, "")
    if own and own.shapes and not layers:
        named = next(iter(own.shapes))
        notes.append(f"{named!r} has no map: its module lacks attention_positions, see dtfn.own.")
    is_judged = True
    errors = {name: output.error for name, output in outputs.items()}
    harm = errors[choice.network] - errors[choice.baseline]
    chance = np.full_like(harm, np.nan)
    if choice.control:
        chance = errors[choice.control[0]] - errors[choice.control[1]]
    threshold = float(np.nan_to_num(np.quantile(np.abs(chance), choice.quantile)))
    if sample.hr.size and own and choice.baseline == choice.off:
        notes.append(
            "The network was never trained without its attention. So it is compared with "
            "itself with equal weights for the same keys (its choice pair)."
        )
        pair = (choice.network, choice.off)
        made, off = (subpixel.psnr_of(subpixel.interior(errors[name])) for name in pair)
        bicubic = images.imresize(sample.lr, choice.scale)
        if gate.collapses(made, made - off, evaluation.psnr(bicubic, sample.hr, choice.scale)):
            is_judged = False
            notes.append(f"These cost it {made - off:.2f} dB here: {gate.OFF_DISTRIBUTION}.")
    row = next((row for row in zoo.registry() if row["name"] == choice.network), {})
    if row.get("chooses") is False:
        notes.append(
            f"{choice.network} does not pass the gate: equal weights for all positions cost it "
            f"{row['gate']:.2f} dB on Urban100, so what it looks at may matter little."
        )
    said, judged = " ".join(filter(None, notes)), (harm, chance, threshold, is_judged)
    state = State(choice, whole, sample, said, outputs, *judged, files, tell)
    at = (state.shape[0] // 2, state.shape[1] // 2)
    if before and before.whole is whole and before.choice.tile == choice.tile:
        at = before.position
    return state.looked(at)  # the first look at a layer costs more than the next ones


def usual(scale: int, network: str = "", baseline: str = "", seed: int = 0) -> dict[str, Any]:
    """Return network, baseline and control that a reader would choose first, or those given.

    The network is that of the zoo whose attention does most, without TFS if there is one. It is
    compared with itself with attention off where it was trained for that, a user's own with itself
    with equal weights, any other with a local one. A zoo without attention is an `InputError`.
    """
    if not network:
        rows = [row for row in zoo.registry() if row["scale"] == scale]
        rows = [row for row in rows if row.get("gate") is not None]
        if not rows:
            remedy = "choose another scale, or train networks with `dtfn train`"
            raise InputError(f"zoo x{scale}", "a network with attention", "none", remedy)
        bare = [row for row in rows if without_tfs(row["variant"]) == row["variant"]]
        network = max(bare or rows, key=lambda row: row["gate"])["name"]
    if not baseline:
        twins = [name for name in _local(scale) if name != network]
        alone = zoo.own(network) or zoo.switched(network) or not twins
        baseline = Choice("", "", scale, network, "").off if alone else twins[-1]
    control, *_ = controls(scale, network, baseline, seed).values()
    return {"network": network, "baseline": baseline, "control": control}


def controls(scale: int, network: str, baseline: str, seed: int) -> dict[str, tuple[str, ...]]:
    """Return pairs that differ by chance alone by their names, the fittest first, and () for none.

    The network under another hash seed, or on the flipped picture where it does not hash, for
    itself with other attention; else two local networks, the baseline if it is one.
    """
    own = {"the picture flipped": (f"{network}@turn(1)", network)}
    if hashes(network):
        own = {"another hash seed": (f"{network}@hash({seed + 1})", network)}
    *others, last = sorted(_local(scale), key=lambda name: name == baseline) or [""]
    pairs: dict[str, tuple[str, ...]] = {f"{one} and {last}": (one, last) for one in others}
    pairs["none"] = ()
    return own | pairs if baseline.startswith(f"{network}@") else pairs | own


def _local(scale: int) -> list[str]:
    wanted = ("local", scale)
    return [row["name"] for row in zoo.registry() if (row["variant"], row["scale"]) == wanted]


_LOCK = threading.RLock()  # a network whose attention is changed must not run elsewhere


@functools.lru_cache(maxsize=16)
def run(method: str, sample: Sample, seed: int, removed: tuple[int, ...] = ()) -> _Output:
    """Return what a method makes; no layer attends to ``removed``; seed 0 leaves the network's."""

    def drop(logits: Tensor, _queries: Tensor, keys: Tensor) -> Tensor:
        gone = torch.isin(keys, torch.tensor(removed))
        return logits.masked_fill(gone[..., None, :], -torch.inf)

    network, record = methods.network(method), None
    change = methods.split_change(method)[1]
    with _LOCK, ExitStack() as stack:
        if seed:
            stack.enter_context(hash_seed(network, seed))
        if change:
            stack.enter_context(intervened(network, change))
        elif removed:
            stack.enter_context(network.intervene(drop))  # type: ignore[operator]
        elif capture.layers(network):
            record = stack.enter_context(capture.record(network))
        made = 255 * evaluation.unrounded(network, sample.lr)
    error = np.full(sample.lr.shape[:2], np.nan)
    if sample.hr.size:
        error = subpixel.block_error(images.luma(made), subpixel.luma(sample.hr), sample.scale)
    return _Output(np.floor(made + np.float32(0.5)).astype(np.uint8), error, record)


def _seed(method: str, seed: int) -> int:
    return seed if "@hash" not in method and hashes(method) else 0


_sample = functools.lru_cache(maxsize=4)(datasets.sample)
_detail = functools.lru_cache(maxsize=4)(lambda one: texture.detail_blocks(one.hr, one.scale))


@functools.lru_cache(maxsize=4)
def brought(name: str, data: bytes, truth: bool, scale: int) -> tuple[Sample, str]:
    """Return the picture of a file's bytes, and what was done to its pixels in words.

    The truth is degraded as benchmarks are; else it is LR, and HR is empty. A damaged, unsupported
    or too small file is an `InputError`.
    """
    stored = images.decode(data, name)
    rgb = images.as_rgb(stored)
    channels = 1 if stored.ndim == 2 else stored.shape[2]
    notes = ["Its transparency was put on white."] * (channels in (2, 4))
    notes += ["It is grey: Y is that of RGB with three equal channels."] * (channels <= 2)
    notes += ["Its 16 bits were rounded to 8."] * (stored.dtype != np.uint8)
    least = LEAST * images.check_scale(scale) if truth else LEAST
    if min(rgb.shape[:2]) < least:
        size = f"{rgb.shape[1]} x {rgb.shape[0]}"
        raise InputError(name, f"{least} x {least} pixels or more", size, "choose a larger picture")
    lr, hr = rgb, np.zeros((0, 0, 3), np.uint8)
    if truth:
        hr = images.modcrop(rgb[:, :, 0] if channels <= 2 else rgb, scale)
        lr = images.as_rgb(images.degrade(hr, scale))
    return Sample(FILES, name, scale, lr, np.ascontiguousarray(hr)), " ".join(notes)


def tiles(shape: tuple[int, ...]) -> list[Window]:
    """Return windows of one size that cover an LR grid, row by row, and overlap where they must."""
    spans = Tiling(TILE, 0).tiles(*shape[:2])
    return [Window(r.start, c.start, r.stop - r.start, c.stop - c.start) for r, c in spans]


def around(shape: Position, position: Position, side: int) -> Window:
    """Return a square window around a position, moved into a grid, smaller where that is."""
    size = np.minimum(side, shape)
    corner = np.clip(np.subtract(position, size // 2), 0, np.subtract(shape, size))
    return Window(*corner.tolist(), *size.tolist())


@functools.lru_cache(maxsize=4)  # so that what was made of a tile is found again
def _cut(whole: Sample, tile: tuple[int, ...]) -> Sample:
    if not tile:
        return whole
    (top, left, height, width), (rows, columns) = tile, whole.lr.shape[:2]
    inside = 0 <= top <= rows - height and 0 <= left <= columns - width
    if not inside or min(height, width) < LEAST:
        wanted = f"{LEAST} or more of {rows} rows and of {columns} columns"
        raise InputError("tile", wanted, Window(*tile), "choose one of the tiles offered")
    return whole.crop(*tile)
