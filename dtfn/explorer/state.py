"""What is chosen in the explorer and what is computed from it, without widgets.

`Explorer` is the state. Every event either succeeds, or raises `InputError` and leaves all as it
was. Networks are methods of `dtfn.evaluation`, so that ``NAME@off`` is one with its attention off.
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dtfn import attribution, capture, datasets, evaluation, images, paths, subpixel, texture, zoo
from dtfn.attribution import Attribution
from dtfn.capture import Record
from dtfn.datasets import Sample
from dtfn.errors import InputError, nearest
from dtfn.images import UInt8
from dtfn.interventions import hash_seed, intervened
from dtfn.models.attention import HashedAttention, NonLocalAttention
from dtfn.models.networks import MINI_VARIANTS

Float = NDArray[np.float64]
Position = tuple[int, int]  # row, column on the LR grid
Tell = Callable[[float, str], None]  # called with the share that is done and what is being done

FILES = "uploads"  # stands among the benchmarks for the pictures that the reader brought
WITHOUT = "without the ringed"  # the network, with the most attended positions as keys of none
LEAST = 8  # LR positions a side: with fewer there is nothing to attend to
TILE = 128  # LR positions a side at most: the first answer takes seconds, a click far below 0.3 s
DENSE = 40_000  # LR positions: some 20 s on one core for a mini network, growing with the square
LARGEST = 160_000  # the same for networks whose time grows with the positions
KEPT = 16  # outputs that are remembered
SIDE, PATCH, STEPS = 48, 4, 8  # of attribution: what the network sees, the patch, the path
FLIP = 1  # the element of the dihedral group that a control without hashing takes


class Window(NamedTuple):
    """A rectangle of LR positions."""

    top: int
    left: int
    height: int
    width: int

    def __str__(self) -> str:
        rows = f"rows {self.top}–{self.top + self.height - 1}"
        return f"{rows}, columns {self.left}–{self.left + self.width - 1}"


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

    @property
    def off(self) -> str:
        """The network with its attention off."""
        return f"{self.network}@off"

    @property
    def uniform(self) -> str:
        """The network with equal attention weights."""
        return f"{self.network}@uniform"

    @property
    def place(self) -> tuple[object, ...]:
        """Which picture, and which part of it."""
        return self.dataset, self.image, self.scale, self.tile

    @property
    def methods(self) -> list[str]:
        """Every method once, the network first."""
        named = (self.network, self.baseline, *self.control, self.third)
        return [name for name in dict.fromkeys(named) if name]


class Output(NamedTuple):
    """What a method made of a picture."""

    image: UInt8  # (sH, sW, 3)
    y: Float  # (sH, sW), in [0, 255], not rounded
    record: Record | None  # what its attention layers received; None where it has none


@dataclass(frozen=True, eq=False)
class Scene:
    """A picture, what methods made of it, and what is true of every position."""

    choice: Choice
    sample: Sample  # the tile; its HR is empty where nobody knows the truth
    outputs: Mapping[str, Output]  # by method
    errors: Mapping[str, Float]  # method -> block errors on Y (MSE), (H, W); empty without truth
    detail: NDArray[np.float32] | None  # what the degradation lost of each block, (H, W, D)

    @property
    def shape(self) -> Position:
        """Rows and columns of the LR grid, (H, W)."""
        return self.sample.lr.shape[0], self.sample.lr.shape[1]

    @property
    def hr(self) -> UInt8 | None:
        """The truth, or None."""
        return self.sample.hr if self.sample.hr.size else None

    @property
    def record(self) -> Record | None:
        """What the network's attention layers received; None where it has none."""
        return self.outputs[self.choice.network].record

    @property
    def layers(self) -> list[str]:
        """The network's attention layers."""
        return self.record.layers if self.record else []

    @property
    def harm(self) -> Float | None:
        """Error of the network minus error of the baseline, (H, W); None without the truth."""
        return self._difference(self.choice.network, self.choice.baseline)

    @property
    def chance(self) -> Float | None:
        """The same of the control; None where there is none."""
        return self._difference(*self.choice.control) if self.choice.control else None

    def threshold(self, quantile: float) -> float:
        """Return a quantile of the absolute chance (MSE), 0 where there is none."""
        return 0.0 if self.chance is None else subpixel.noise_floor(self.chance, quantile)

    def error(self, output: Output, position: Position) -> float | None:
        """Return the error of an output in one block on Y (MSE); None without the truth."""
        if self.hr is None:
            return None
        scale = self.sample.scale
        rows, columns = (slice(scale * at, scale * (at + 1)) for at in position)
        truth = subpixel.luma(np.ascontiguousarray(self.hr[rows, columns]))
        return float(np.mean((output.y[rows, columns] - truth) ** 2))

    def _difference(self, one: str, other: str) -> Float | None:
        return self.errors[one] - self.errors[other] if self.errors else None


class Copied(NamedTuple):
    """One attended position: row, column, weight in [0, 1], and how much its HR detail disagrees.

    ``disagreement`` is |d(p) - d(q)|^2 / |d(p)|^2 of the details of the query p and this position
    q: 0 the same, above 1 worse than copying nothing, 2 unrelated; NaN where it is not known.
    """

    row: int
    column: int
    weight: float
    disagreement: float


class Answer(NamedTuple):
    """What there is to say about one position at once."""

    position: Position
    attention: Float | None = None  # (H, W), sums to 1; None where the network has none
    spread: Mapping[str, float] = {}  # row of `dtfn.capture.summary`
    copied: tuple[Copied, ...] = ()  # the most attended positions, heaviest first


class Deeper(NamedTuple):
    """What takes seconds: the network under changed attention, and what its output depends on."""

    outputs: Mapping[str, Output] = {}  # by `Choice.uniform` and `WITHOUT`
    attribution: Attribution | None = None  # of the patch around the position, on `crop`
    crop: Window | None = None


@dataclass(frozen=True)
class Upload:
    """The bytes of a picture that the reader brought; ``truth``: it is HR, else LR."""

    data: bytes
    truth: bool


class TooLargeError(InputError):
    """A picture with more LR positions than a network can take."""


# ---------------------------------------------------------------- networks


def networks(scale: int) -> list[str]:
    """Return the networks of a scale, of the zoo and imported, those with attention first."""
    rows = [row for row in zoo.everything() if row["scale"] == scale]
    return [str(row["name"]) for row in sorted(rows, key=_is_local)]


def scales() -> list[int]:
    """Return the scales that the zoo has networks for."""
    return sorted({int(row["scale"]) for row in zoo.registry()})


def usual(scale: int, network: str = "") -> dict[str, Any]:
    """Return network, baseline and control that a reader would choose first, from what there is.

    The network is by default the smallest of the zoo with hashed attention and the lowest training
    seed, of those that pass the gate and were trained with attention on and off, if there are any.
    The baseline is itself with attention off if it was trained for that; else its placebo, or a
    local network, preferably of another seed.

    Raises
    ------
    InputError
        The zoo has no network of this scale.
    """

    def rank(row: zoo.Entry) -> tuple[Any, ...]:
        _, settings = MINI_VARIANTS.get(row["variant"].partition("+")[0], ("", {}))
        is_slow = "chunk_size" not in settings  # dense attention
        is_fit = row.get("chooses") is not False and trained_for_both(row["name"])
        return _is_local(row), not is_fit, is_slow, row["seed"], row["parameters"]

    rows = sorted((row for row in zoo.registry() if row["scale"] == scale), key=rank)
    if not network and not rows:
        known = ", ".join(f"x{known}" for known in scales()) or "no network at all"
        remedy = "choose another scale, or train one with `dtfn train`"
        raise InputError("scale", f"one of the zoo ({known})", scale, remedy)
    network = network or rows[0]["name"]
    seed = next((row["seed"] for row in rows if row["name"] == network), 0)
    others = [row for row in rows if row["name"] != network]
    twins = [row["name"] for row in others if (row["variant"], row["seed"]) == ("placebo", seed)]
    locals_ = [row for row in others if row["variant"] == "local"]
    twins += [row["name"] for row in sorted(locals_, key=lambda row: row["seed"] == seed)]
    off = f"{network}@off"
    baseline = off if trained_for_both(network) or not twins else twins[0]
    return {
        "network": network,
        "baseline": baseline,
        "control": controls(scale, network, baseline)[0],
    }


def controls(scale: int, network: str, baseline: str, seed: int = 0) -> list[tuple[str, ...]]:
    """Return what differs by chance alone: two methods, the fittest first, and () for none.

    For a network with its attention off these are the network under another hash seed, or on the
    flipped picture where it does not hash, and as it is; for others two local networks, the
    baseline if it is one.
    """
    changed = f"{network}@hash({seed + 1})" if _hashes(network) else f"{network}@turn({FLIP})"
    own = [(changed, network)]
    named = [r["name"] for r in zoo.registry() if (r["variant"], r["scale"]) == ("local", scale)]
    named.sort(key=lambda name: name == baseline)
    two = [(one, other) for one, other in combinations(named, 2) if other == named[-1]]
    return [*own, *two, ()] if baseline == f"{network}@off" else [*two, (), *own]


def trained_for_both(network: str) -> bool:
    """Return whether a network was trained with attention on and off."""
    try:
        return zoo.recipe(network).attention_off > 0
    except InputError:  # weights from elsewhere name no recipe
        return False


def gate(network: str) -> str:
    """Return in words that a network of the zoo fails the gate; empty for others."""
    row = next((row for row in zoo.registry() if row["name"] == network), {})
    if row.get("chooses") is not False:
        return ""
    return (
        f"{network} fails the gate: equal weights for all positions cost it {row['gate']:.2f} dB "
        "on Urban100, so what it looks at matters little."
    )


def _is_local(row: zoo.Entry) -> bool:
    return str(row.get("variant", "")).startswith(("local", "placebo"))


def _hashes(method: str) -> bool:
    parts = evaluation.network(method).modules()
    return any(isinstance(part, HashedAttention) for part in parts)


_LOCK = threading.RLock()  # a network whose attention is changed must not run elsewhere


def run(method: str, lr: UInt8, seed: int = 0, removed: tuple[int, ...] = ()) -> Output:
    """Return what a method makes of a picture ``(H, W, 3)``; the last results are remembered.

    ``seed`` is for networks with hashing, unless the method has its own hash seed. No layer can
    attend to the ``removed`` flat positions.
    """
    if "@hash" in method or not _hashes(method):
        seed = 0
    return _run(method, seed, removed, lr.shape, lr.tobytes())


@functools.lru_cache(maxsize=KEPT)
def _run(
    method: str, seed: int, removed: tuple[int, ...], shape: tuple[int, ...], lr: bytes
) -> Output:
    def drop(logits: Tensor, _queries: Tensor, keys: Tensor) -> Tensor:
        gone = torch.isin(keys, torch.tensor(removed))
        return logits.masked_fill(gone[..., None, :], -torch.inf)

    network, record = evaluation.network(method), None
    change = evaluation.split_change(method)[1]
    with _LOCK, _seeded(method, seed), ExitStack() as stack:
        if change:
            stack.enter_context(intervened(network, change))
        elif removed:
            stack.enter_context(network.intervene(drop))  # type: ignore[operator]
        elif capture.layers(network):
            record = stack.enter_context(capture.record(network))
        made = 255 * evaluation.unrounded(network, np.frombuffer(lr, np.uint8).reshape(shape))
    image = np.floor(made + np.float32(0.5)).astype(np.uint8)
    return Output(image, images.luma(made), record)


def _seeded(method: str, seed: int) -> AbstractContextManager[object]:
    is_given = seed and _hashes(method)
    return hash_seed(evaluation.network(method), seed) if is_given else nullcontext()


def check_fit(name: str, network: nn.Module, sample: Sample) -> None:
    """Raise `TooLargeError` where a picture is too large for a network to be done in seconds."""
    rows, columns = sample.lr.shape[:2]
    dense = any(isinstance(module, NonLocalAttention) for module in network.modules())
    most = DENSE if dense else LARGEST
    if getattr(network, "dense", False):  # a user's own, which may hold all of its weights
        most = TILE**2
    if rows * columns > most:
        side = math.isqrt(most)
        raise TooLargeError(
            f"{sample.dataset}/{sample.image}",
            f"at most {most} LR positions for {name}, e.g. {side} x {side}",
            f"{columns} x {rows} = {rows * columns}",
            f"look at a tile (up to {TILE} x {TILE}), or choose another network",
        )


# ---------------------------------------------------------------- pictures


@functools.lru_cache(maxsize=2)
def brought(name: str, upload: Upload, scale: int) -> tuple[Sample, str]:
    """Return the picture of a file's bytes, and what was done to its pixels in words.

    If it is the truth, LR is made by the benchmarks' degradation; else it is LR, and HR is empty.
    Raises `InputError` for a damaged, unsupported or too small file.
    """
    images.check_scale(scale)
    stored = images.decode(upload.data, name)
    rgb = images.as_rgb(stored)
    channels = 1 if stored.ndim == 2 else stored.shape[2]
    notes = ["Its transparency was put on white."] * (channels in (2, 4))
    notes += ["It is grey: Y is that of RGB with three equal channels."] * (channels <= 2)
    notes += ["Its 16 bits were rounded to 8."] * (stored.dtype != np.uint8)
    factor = scale if upload.truth else 1
    if min(rgb.shape[:2]) // factor < LEAST:
        raise InputError(
            name,
            f"{LEAST * factor} x {LEAST * factor} pixels or more",
            f"{rgb.shape[1]} x {rgb.shape[0]}",
            "choose a larger picture",
        )
    lr, hr = rgb, np.zeros((0, 0, 3), np.uint8)
    if upload.truth:
        grey = np.ascontiguousarray(rgb[:, :, 0])
        hr = images.modcrop(grey if channels <= 2 else rgb, scale)
        lr = images.as_rgb(images.degrade(hr, scale))
    return Sample(FILES, name, scale, lr, hr), " ".join(notes)


_sample = functools.lru_cache(maxsize=2)(datasets.sample)


def tiles(shape: tuple[int, ...], side: int = TILE) -> list[Window]:
    """Return windows of one size that cover an LR grid, row by row, and overlap where they must."""

    def starts(length: int) -> tuple[int, list[int]]:
        size, count = min(length, side), math.ceil(length / side)
        return size, [round(i * (length - size) / max(count - 1, 1)) for i in range(count)]

    (height, tops), (width, lefts) = starts(shape[0]), starts(shape[1])
    return [Window(top, left, height, width) for top in tops for left in lefts]


def around(shape: tuple[int, ...], position: Position, side: int) -> Window:
    """Return a square window around a position, moved into a grid, smaller where that is."""
    return Window(*attribution.square(position, side, shape))


# ---------------------------------------------------------------- the state


class Explorer:
    """The state: ``scene``, ``answer`` about a position, and ``notes`` on the picture, in words.

    ``quantile`` of the absolute chance is the threshold of harm; ``most`` attended positions are
    named.
    """

    scene: Scene
    answer: Answer

    def __init__(
        self, choice: Choice, *, files: Mapping[str, Upload] | None = None, tell: Tell | None = None
    ) -> None:
        self.tell: Tell = tell or (lambda share, what: None)
        self.files = dict(files or {})
        self.quantile, self.most = 0.95, 8
        self._settle(choice)

    @property
    def choice(self) -> Choice:
        """What is shown."""
        return self.scene.choice

    @property
    def position(self) -> Position:
        """Row and column of the block that is looked at."""
        return self.answer.position

    @property
    def threshold(self) -> float:
        """Harm (MSE) that chance reaches at one position in twenty, by default."""
        return self.scene.threshold(self.quantile)

    @property
    def datasets(self) -> list[str]:
        """The benchmarks that are here, and `FILES` if the reader brought any."""
        here = sorted(hr.parent.name for hr in paths.data_root().glob("*/HR"))
        return [datasets.MINI, *here, *([FILES] if self.files else [])]

    def images(self, dataset: str) -> list[str]:
        """Return the pictures of a benchmark, or those that the reader brought."""
        return sorted(self.files) if dataset == FILES else datasets.names(dataset)

    def whole(self, choice: Choice | None = None) -> tuple[Sample, str]:
        """Return the whole picture of a choice, and what was done to its pixels."""
        choice = choice or self.choice
        if choice.dataset != FILES:
            return _sample(choice.dataset, choice.image, choice.scale), ""
        if choice.image not in self.files:
            near = nearest(choice.image, self.files) if self.files else "upload one"
            found = repr(choice.image)
            raise InputError("upload", "one of yours", found, near)
        return brought(choice.image, self.files[choice.image], choice.scale)

    def deeper(self) -> Iterator[Deeper]:
        """Yield more and more of what takes seconds to know about the position."""
        scene, choice, found = self.scene, self.choice, self.answer
        if found.attention is None:
            return
        lr, columns = scene.sample.lr, scene.shape[1]
        # The position itself stays: the question is what the others brought.
        others = [(c.row, c.column) for c in found.copied if (c.row, c.column) != found.position]
        removed = tuple(sorted(row * columns + column for row, column in others))
        network, outputs = evaluation.network(choice.network), {}
        if getattr(network, "placed", []) == getattr(network, "dense", []):  # none in windows
            outputs[WITHOUT] = run(choice.network, lr, choice.hash_seed, removed)
            yield Deeper(outputs)
        outputs[choice.uniform] = run(choice.uniform, lr)
        yield Deeper(outputs)
        crop, patch = (around(scene.shape, found.position, side) for side in (SIDE, PATCH))
        inside = (patch.top - crop.top, patch.left - crop.left, patch.height, patch.width)
        with _LOCK, _seeded(choice.network, choice.hash_seed):
            made = attribution.attribute(network, scene.sample.crop(*crop).lr, inside, steps=STEPS)
        yield Deeper(outputs, made, crop)

    def choose(self, **changes: Any) -> None:
        """Change some fields of the choice.

        What no longer fits follows: another benchmark shows its first picture, another picture its
        whole, another scale the networks of that scale, another network its last layer, and the
        control the baseline. A picture that is too large is shown by its first tile.
        """
        self._settle(changed(self.choice, changes, self.images))

    def upload(self, name: str, data: bytes, *, truth: bool) -> None:
        """Take a picture that the reader brought, and show it."""
        before = dict(self.files)
        self.files[name] = Upload(data, truth)
        try:
            self._settle(changed(self.choice, {"dataset": FILES, "image": name}, self.images))
        except InputError:
            self.files = before
            raise

    def click(self, x: float | None, y: float | None) -> None:
        """Look at the position under column x and row y; None: outside of the picture."""
        self._look((round(y), round(x)) if x is not None and y is not None else None)

    def move(self, down: int, right: int) -> None:
        """Step from the position, and stay inside the picture."""
        (row, column), (rows, columns) = self.position, self.scene.shape
        row, column = min(max(row + down, 0), rows - 1), min(max(column + right, 0), columns - 1)
        self._look((row, column))

    def tune(self, quantile: float, most: int) -> None:
        """Set the quantile of chance that is the threshold, and how many positions are named."""
        self.quantile, self.most = quantile, most
        self._look(self.position)

    def _settle(self, choice: Choice) -> None:
        """Show a choice: by its first tile where the whole is too large."""
        whole, notes = self.whole(choice)
        notes = f"{notes} {gate(choice.network)}".strip()
        try:
            scene = look(whole, choice, self.tell)
        except TooLargeError as error:
            offered = tiles(whole.lr.shape)
            scene = look(whole, replace(choice, tile=offered[0]), self.tell)
            notes = f"{notes} {error}. Shown is tile 1 of {len(offered)}.".strip()
        position = (scene.shape[0] // 2, scene.shape[1] // 2)
        if hasattr(self, "scene") and self.choice.place == scene.choice.place:
            position = self.position
        # The first look at a layer costs more than the next ones: it belongs to the choice.
        found = answer(scene, position, self.most)
        self.scene, self.answer, self.notes = scene, found, notes

    def _look(self, position: Position | None) -> None:
        rows, columns = self.scene.shape
        if position is None or not (0 <= position[0] < rows and 0 <= position[1] < columns):
            raise InputError(
                "position",
                f"row 0 to {rows - 1} and column 0 to {columns - 1}",
                f"row {position[0]}, column {position[1]}" if position else "outside",
                "click inside the picture",
            )
        self.answer = answer(self.scene, position, self.most)


def changed(old: Choice, changes: Mapping[str, Any], listed: Callable[[str], list[str]]) -> Choice:
    """Return a choice after changes of its fields, the rest made to fit.

    ``listed`` names the pictures of a benchmark.
    """
    new = replace(old, **changes)
    follow: dict[str, Any] = {}
    if new.dataset != old.dataset and "image" not in changes:
        follow["image"] = listed(new.dataset)[0]
    if (new.dataset, new.image, new.scale) != (old.dataset, old.image, old.scale):
        follow["tile"] = ()
    if new.scale != old.scale:
        follow |= {"third": "", **usual(new.scale)}
    elif new.network != old.network and old.baseline == old.off:
        follow |= usual(new.scale, new.network)
    elif (new.network, new.baseline, new.hash_seed) != (old.network, old.baseline, old.hash_seed):
        follow["control"] = controls(new.scale, new.network, new.baseline, new.hash_seed)[0]
    if new.network != old.network or new.scale != old.scale:
        follow["layer"] = ""
    return replace(new, **{name: v for name, v in follow.items() if name not in changes})


def look(whole: Sample, choice: Choice, tell: Tell) -> Scene:
    """Return the scene of a choice, or raise `InputError` where it cannot be."""
    if choice.network == choice.baseline:
        twice, remedy = f"{choice.network} twice", "choose another one"
        raise InputError("pair", "two different networks", twice, remedy)
    sample = _cut(whole, Window(*choice.tile)) if choice.tile else whole
    evaluation.require(choice.methods, choice.scale)
    for name in choice.methods:
        check_fit(name, evaluation.network(name), sample)
    layers = capture.layers(evaluation.network(choice.network))
    if choice.layer not in ("", *layers):
        wanted = f"one with attention of {choice.network}"
        remedy = nearest(choice.layer, layers) if layers else "choose another network"
        raise InputError("layer", wanted, repr(choice.layer), remedy)
    methods = dict.fromkeys([*choice.methods, *([choice.off] if layers else [])])
    outputs = {}
    for index, method in enumerate(methods):
        tell(index / len(methods), f"running {method}")
        outputs[method] = run(method, sample.lr, choice.hash_seed)
    tell(1.0, "")
    record = outputs[choice.network].record
    if record and not choice.layer:
        choice = replace(choice, layer=record.layers[-1])
    if not sample.hr.size:
        return Scene(choice, sample, outputs, {}, None)
    truth = subpixel.luma(sample.hr)
    errors = {name: subpixel.block_error(o.y, truth, sample.scale) for name, o in outputs.items()}
    detail = texture.detail_blocks(sample.hr, sample.scale)
    return Scene(choice, sample, outputs, errors, detail.reshape(*sample.lr.shape[:2], -1))


def _cut(whole: Sample, tile: Window) -> Sample:
    rows, columns = whole.lr.shape[:2]
    inside = tile.top + tile.height <= rows and tile.left + tile.width <= columns
    if min(tile.top, tile.left) < 0 or not inside or min(tile.height, tile.width) < LEAST:
        wanted = f"{LEAST} or more of {rows} rows and of {columns} columns"
        remedy = "choose one of the tiles offered"
        raise InputError("tile", wanted, str(tile), remedy)
    return whole.crop(*tile)


def answer(scene: Scene, position: Position, most: int) -> Answer:
    """Return what there is to say about a position; ``most``: attended positions that are named."""
    if scene.record is None:
        return Answer(position)
    layer = scene.choice.layer
    attention = scene.record.map(layer, position).double().cpu().numpy()
    row = scene.record.summary(layer, [position], details=scene.detail).iloc[0]
    spread = {str(key): float(value) for key, value in row.items()}
    order = np.argsort(-attention, axis=None, kind="stable")[:most]
    copied = tuple(
        Copied(int(r), int(c), float(attention[r, c]), _disagreement(scene, position, (r, c)))
        for r, c in zip(*np.unravel_index(order, attention.shape), strict=True)
        if attention[r, c] > 0
    )
    return Answer(position, attention, spread, copied)


def _disagreement(scene: Scene, query: Position, other: Position) -> float:
    if scene.detail is None:
        return float("nan")
    own, theirs = (scene.detail[at].astype(np.float64) for at in (query, other))
    energy = float(own @ own)
    return float(np.sum((own - theirs) ** 2)) / energy if energy > 0 else float("nan")
