"""What is chosen in the explorer and what is computed from it, without widgets.

`Explorer` is the state. Every event either succeeds, or leaves all as it was and says why in
`Explorer.message`. N is the network with attention, L what it is compared with.
"""

from __future__ import annotations

import functools
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dtfn import (
    attribution,
    capture,
    datasets,
    evaluation,
    images,
    models,
    paths,
    subpixel,
    texture,
    zoo,
)
from dtfn.attribution import Attribution
from dtfn.capture import Record
from dtfn.datasets import Sample
from dtfn.errors import InputError, nearest
from dtfn.images import UInt8
from dtfn.interventions import intervened
from dtfn.models.attention import HashedAttention, NonLocalAttention

Float = NDArray[np.float64]
Position = tuple[int, int]  # row, column on the LR grid
Tell = Callable[[float, str], None]  # called with the share that is done and what is being done

FILES = "uploads"  # stands among the benchmarks for the pictures that the reader brought
OFF = "attention off"  # may stand for L: N itself, its attention layers skipped
UNIFORM = "uniform weights"
WITHOUT = "without the ringed"
CHANGED = "other hash seed, or flipped"  # N once more: what differs then is chance
LEAST = 8  # LR positions a side: with fewer there is nothing to attend to
TILE = 128  # LR positions a side at most: the first answer takes seconds, a click far below 0.3 s
DENSE = 40_000  # LR positions: some 20 s on one core for a mini network, growing with the square
LARGEST = 160_000  # the same for networks whose time grows with the positions
OTHER = "choose another one"
KEPT = 16  # outputs that are remembered
SIDE, PATCH, STEPS = 48, 4, 8  # of attribution: what the network sees, the patch, the path


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
class Team:
    """Networks that are looked at together: N, L, and two that may be missing."""

    with_: str
    without: str  # or `OFF`: N itself, its attention layers skipped
    null: str | None = None  # a second local network, whose difference from L is chance
    third: str | None = None  # one more to look at

    @property
    def names(self) -> list[str]:
        """Every network once, N first."""
        null = self.null if self.without != OFF else None
        named = (self.with_, self.without, null, self.third)
        return [name for name in dict.fromkeys(named) if name not in (None, OFF)]  # type: ignore[misc]


@dataclass(frozen=True)
class Choice:
    """All that a reader chooses, except for the position."""

    dataset: str  # a benchmark, or `FILES`
    image: str
    scale: int
    team: Team
    layer: str | None = None  # attention layer of N; None: its last, if it has one
    hash_seed: int = 0  # of all layers with hashing
    window: Window | None = None  # the tile; None for the whole picture


@dataclass(frozen=True, eq=False)
class Scene:
    """A picture, a team, and what is true of every position.

    The sample carries the outputs of the networks, with `OFF` and `CHANGED` as outputs of N. Its HR
    is empty where nobody knows the truth.
    """

    sample: Sample
    team: Team
    record: Record | None  # what the attention layers of N received; None where N has none
    errors: Mapping[str, Float]  # output -> block errors on Y (MSE), (H, W); empty without truth
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
    def layers(self) -> list[str]:
        """The attention layers of N."""
        return self.record.layers if self.record is not None else []

    @property
    def harm(self) -> Float | None:
        """Error of N minus error of L, ``(H, W)``; None without the truth."""
        return self._difference(self.team.with_, self.team.without)

    @property
    def chance(self) -> Float | None:
        """The same of two outputs that differ by chance alone; None where there are none."""
        if self.team.without == OFF:
            return self._difference(CHANGED, self.team.with_)
        return self._difference(self.team.null, self.team.without)

    def threshold(self, quantile: float) -> float:
        """Return a quantile of the absolute chance (MSE), 0 where there is none."""
        return 0.0 if self.chance is None else subpixel.noise_floor(self.chance, quantile)

    def _difference(self, one: str | None, other: str) -> Float | None:
        if one is None or one not in self.errors or other not in self.errors:
            return None
        return self.errors[one] - self.errors[other]


@dataclass(frozen=True)
class Copied:
    """One attended position: row, column, weight in [0, 1], and how much its HR detail disagrees.

    ``disagreement`` is |d(p) - d(q)|^2 / |d(p)|^2 of the details of the query p and this position
    q: 0 the same, above 1 worse than copying nothing, 2 unrelated; NaN where it is not known.
    """

    row: int
    column: int
    weight: float
    disagreement: float


@dataclass(frozen=True, eq=False)
class Answer:
    """What there is to say about one position at once."""

    position: Position
    layer: str | None  # attention layer of N; None where N has none
    attention: Float | None = None  # (H, W), sums to 1
    spread: Mapping[str, float] = field(default_factory=dict)  # row of `dtfn.capture.summary`
    copied: tuple[Copied, ...] = ()  # the most attended positions, heaviest first
    errors: Mapping[str, float] = field(default_factory=dict)  # output -> error of the block, MSE
    # With the truth: harm, chance (NaN where unknown), the bounds selection and fusion (dB), and
    # fusion_weight, N's share in the best mixture.
    block: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Deeper:
    """What takes seconds: N under changed attention, and what its whole output depends on."""

    outputs: Mapping[str, UInt8] = field(default_factory=dict)  # by `UNIFORM` and `WITHOUT`
    attribution: Attribution | None = None  # of the patch around the position, on `crop`
    crop: Window | None = None


@dataclass(frozen=True)
class Message:
    """A line for the reader; ``is_error`` if something was refused."""

    text: str = ""
    is_error: bool = False


@dataclass(frozen=True)
class Upload:
    """The bytes of a picture that the reader brought; ``truth``: it is HR, else LR."""

    data: bytes
    truth: bool


class TooLargeError(InputError):
    """A picture with more LR positions than a network of the team can take."""


# ---------------------------------------------------------------- networks


def is_local(name: str) -> bool:
    """Return whether a network of the zoo has no attention that matches anything."""
    rows = [row for row in zoo.everything() if row["name"] == name]
    return any(str(row.get("variant", "")).startswith(("local", "placebo")) for row in rows)


def networks(scale: int) -> list[str]:
    """Return the networks of a scale, of the zoo and imported, those with attention first."""
    names = [str(row["name"]) for row in zoo.everything() if row["scale"] == scale]
    return sorted(names, key=is_local)


def scales() -> list[int]:
    """Return the scales that the zoo has two networks or more for."""
    counted = [int(row["scale"]) for row in zoo.registry()]
    return sorted({scale for scale in counted if counted.count(scale) > 1})


def team(scale: int, with_: str | None = None) -> Team:
    """Return the networks that a reader would choose first, from what the zoo has.

    N is by default the smallest network with hashed attention of the lowest training seed. L is a
    local network of another training seed than N's, if there is one; the null is that of N's seed.
    """
    rows = {row["name"]: row for row in zoo.registry() if row["scale"] == scale}

    def rank(name: str) -> tuple[Any, ...]:
        row = rows[name]  # dense attention, which the zoo measures in tiles, answers slowly
        return is_local(name), bool(row.get("tile")), row["seed"], row["parameters"]

    order = sorted(rows, key=rank)
    with_ = with_ or next(iter(order), None)
    locals_ = [name for name in order if rows[name]["variant"] == "local" and name != with_]
    locals_ = locals_ or [name for name in order if is_local(name) and name != with_]
    if with_ is None or not locals_:
        raise InputError(
            f"networks at x{scale}",
            expected="one with attention and one without in the zoo",
            found=", ".join(rows) or "none",
            remedy="train them with `dtfn train`",
        )
    seed = rows.get(with_, rows[locals_[0]])["seed"]
    null = next((name for name in locals_ if rows[name]["seed"] == seed), None)
    without = next((name for name in locals_ if name != null), None)
    return Team(with_, without, null) if without else Team(with_, locals_[0])


@functools.lru_cache(maxsize=16)
def load(name: str, hash_seed: int = 0) -> models.Network:
    """Return `dtfn.models.load` of a network, loaded once."""
    if zoo.own(name):
        return evaluation.network(name)  # type: ignore[return-value]  # it has what is used here
    return models.load(name, hash_seed)


class Runner:
    """Runs networks on pictures, one at a time, and remembers the last results."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[object, ...], tuple[UInt8, Record | None]] = OrderedDict()
        self._lock = threading.Lock()  # a network whose attention is changed must not run elsewhere

    def scene(self, sample: Sample, team: Team, hash_seed: int, tell: Tell) -> Scene:
        """Return the scene of a picture, or raise `InputError` where it cannot be."""
        if team.with_ == team.without:
            twice = f"{team.with_} twice"
            raise InputError("pair", expected="two different networks", found=twice, remedy=OTHER)
        for name in team.names:
            check_fit(name, load(name, hash_seed), sample)
        has_attention = bool(capture.layers(load(team.with_, hash_seed)))
        if team.without == OFF and not has_attention:
            wanted_ = "a network with attention, for L to be without"
            raise InputError("pair", expected=wanted_, found=team.with_, remedy=OTHER)
        wanted = [(name, "") for name in team.names]
        wanted += [(team.with_, OFF)] * has_attention
        wanted += [(team.with_, CHANGED)] * (team.without == OFF)
        outputs = {}
        for index, (name, how) in enumerate(wanted):
            tell(index / len(wanted), f"running {name}")
            outputs[how or name] = self.run(name, sample.lr, hash_seed, how)
        tell(1.0, "")
        record = outputs[team.with_][1]
        sample = sample.with_outputs({name: image for name, (image, _) in outputs.items()})
        if not sample.hr.size:
            return Scene(sample, team, record, {}, None)
        errors = {
            name: subpixel.block_error(image, sample.hr, sample.scale)
            for name, image in sample.outputs.items()
        }
        detail = texture.detail_blocks(sample.hr, sample.scale)
        return Scene(sample, team, record, errors, detail.reshape(*errors[team.with_].shape, -1))

    def run(
        self, name: str, lr: UInt8, hash_seed: int, how: str = "", removed: tuple[int, ...] = ()
    ) -> tuple[UInt8, Record | None]:
        """Return the output of a network on ``lr``, and what its attention layers received.

        ``how`` is empty, `OFF`, `UNIFORM`, `CHANGED` or `WITHOUT`; with `WITHOUT`, no layer can
        attend to the ``removed`` flat positions.
        """
        network = load(name, hash_seed)
        hashed = any(isinstance(part, HashedAttention) for part in network.modules())
        if how == CHANGED and hashed:
            return self.run(name, lr, hash_seed + 1)
        if not capture.layers(network):
            hash_seed, how = 0, ""
        key = (name, how, hash_seed, removed, lr.shape, lr.tobytes())
        with self._lock:
            if key not in self._kept:
                self._kept[key] = _run(network, lr, how, removed)
                while len(self._kept) > KEPT:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(key)
            return self._kept[key]


def _run(
    network: models.Network, lr: UInt8, how: str, removed: tuple[int, ...]
) -> tuple[UInt8, Record | None]:
    def drop(logits: Tensor, _queries: Tensor, keys: Tensor) -> Tensor:
        gone = torch.isin(keys, torch.tensor(removed))
        return logits.masked_fill(gone[..., None, :], -torch.inf)

    if how == CHANGED:  # without hashing, a flip changes nothing but rounding and the borders
        flipped = evaluation.upscale(network, np.ascontiguousarray(lr[:, ::-1]))
        return np.ascontiguousarray(flipped[:, ::-1]), None
    if how:
        kind = {OFF: "off", UNIFORM: "uniform"}.get(how)
        with intervened(network, kind) if kind else network.intervene(drop):
            return evaluation.upscale(network, lr), None
    with capture.record(network) if capture.layers(network) else nullcontext() as record:
        return evaluation.upscale(network, lr), record


def check_fit(name: str, network: models.Network, sample: Sample) -> None:
    """Raise `TooLargeError` where a picture is too large for a network to be done in seconds."""
    rows, columns = sample.lr.shape[:2]
    dense = any(isinstance(module, NonLocalAttention) for module in network.modules())
    most = DENSE if dense else LARGEST
    if getattr(network, "dense", False):  # a user's own, which may hold all of its weights
        most = TILE**2
    if rows * columns > most:
        raise TooLargeError(
            f"{sample.dataset}/{sample.image}",
            expected=f"at most {most} LR positions for {name}, e.g. {math.isqrt(most)} x "
            f"{math.isqrt(most)}",
            found=f"{columns} x {rows} = {rows * columns}",
            remedy=f"look at a tile (up to {TILE} x {TILE}), or choose another network",
        )


# ---------------------------------------------------------------- pictures


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
            expected=f"{LEAST * factor} x {LEAST * factor} pixels or more",
            found=f"{rgb.shape[1]} x {rgb.shape[0]}",
            remedy="choose a larger picture",
        )
    lr, hr = rgb, np.zeros((0, 0, 3), np.uint8)
    if upload.truth:
        grey = np.ascontiguousarray(rgb[:, :, 0])
        hr = images.modcrop(grey if channels <= 2 else rgb, scale)
        lr = images.as_rgb(images.degrade(hr, scale))
    return Sample(FILES, name, scale, lr, hr), " ".join(notes)


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


def _event(act: Callable[..., None]) -> Callable[..., bool]:
    """Make a method an event: True if it did what was asked, else the reason is the message."""

    @functools.wraps(act)
    def safely(self: Explorer, *args: Any, **kwargs: Any) -> bool:
        self.message = Message()
        try:
            act(self, *args, **kwargs)
        except InputError as error:
            self.message = Message(str(error), is_error=True)
            return False
        return True

    return safely


class Explorer:
    """The state: ``choice``, ``scene``, ``position`` and a ``message`` for the reader.

    ``quantile`` of the absolute chance is the threshold of harm; ``most`` attended positions are
    named. Raises `InputError` where the first choice cannot be shown at all.
    """

    scene: Scene

    def __init__(
        self,
        choice: Choice,
        position: Position | None = None,
        *,
        files: Mapping[str, Upload] | None = None,
        tell: Tell | None = None,
    ) -> None:
        self.tell: Tell = tell or (lambda share, what: None)
        self.files = dict(files or {})
        self.message = Message()
        self.quantile, self.most = 0.95, 8
        self._runner = Runner()
        self._whole: tuple[object, Sample, str] | None = None
        self._answer: tuple[object, Answer] | None = None
        self._key: tuple[object, ...] | None = None
        self._settle(choice)
        if position is not None:
            self.position = self._inside(position)

    @property
    def answer(self) -> Answer:
        """What there is to say about the position."""
        asked = (self.scene, self.choice.layer, self.position, self.most)
        if self._answer is None or self._answer[0] != asked:
            self._answer = (asked, answer(*asked))
        return self._answer[1]

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

    def whole(self, choice: Choice | None = None) -> Sample:
        """Return the whole picture of a choice, by default of the present one; read once."""
        return self._read(choice or self.choice)[0]

    def deeper(self) -> Iterator[Deeper]:
        """Yield more and more of what takes seconds to know about the position."""
        scene, choice, found = self.scene, self.choice, self.answer
        if found.attention is None:
            return
        run = functools.partial(
            self._runner.run, choice.team.with_, scene.sample.lr, choice.hash_seed
        )
        columns = scene.shape[1]
        # The position itself stays: the question is what the others brought.
        others = [(c.row, c.column) for c in found.copied if (c.row, c.column) != found.position]
        removed = tuple(sorted(row * columns + column for row, column in others))
        outputs = {WITHOUT: run(WITHOUT, removed)[0]}
        yield Deeper(outputs)
        outputs |= {UNIFORM: run(UNIFORM)[0]}
        yield Deeper(outputs)
        crop, patch = (around(scene.shape, found.position, side) for side in (SIDE, PATCH))
        lr = scene.sample.crop(*crop).lr
        inside = (patch.top - crop.top, patch.left - crop.left, patch.height, patch.width)
        with self._runner._lock:
            network = load(choice.team.with_, choice.hash_seed)
            yield Deeper(outputs, attribution.attribute(network, lr, inside, steps=STEPS), crop)

    @_event
    def choose(self, **changes: Any) -> None:
        """Change some fields of the choice, or of its team.

        What no longer fits follows: another benchmark shows its first picture, another picture its
        whole, another scale the networks of that scale, another N its last layer. A picture that is
        too large is shown by its first tile.
        """
        self._settle(changed(self.choice, changes, self.images))

    @_event
    def upload(self, name: str, data: bytes, *, truth: bool) -> None:
        """Take a picture that the reader brought, and show it."""
        before, whole = dict(self.files), self._whole
        self.files[name], self._whole = Upload(data, truth), None
        try:
            place = {"dataset": FILES, "image": name}
            self._settle(changed(self.choice, place, self.images))
        except InputError:
            self.files, self._whole = before, whole
            raise

    @_event
    def click(self, x: float | None, y: float | None) -> None:
        """Look at the position under column x and row y; None: outside of the picture."""
        if x is None or y is None:
            rows, columns = self.scene.shape
            inside = f"one of {rows} rows and {columns} columns"
            raise InputError("click", expected=inside, found="outside", remedy="click inside")
        self.position = self._inside((round(y), round(x)))

    @_event
    def move(self, down: int, right: int) -> None:
        """Step from the position, and stay inside the picture."""
        (row, column), (rows, columns) = self.position, self.scene.shape
        row, column = min(max(row + down, 0), rows - 1), min(max(column + right, 0), columns - 1)
        self.position = (row, column)

    def _settle(self, choice: Choice) -> None:
        """Show a choice: by its first tile where the whole is too large."""
        whole, notes = self._read(choice)
        try:
            key, scene = self._computed(choice, whole)
        except TooLargeError as error:
            offered = tiles(whole.lr.shape)
            choice = replace(choice, window=offered[0])
            key, scene = self._computed(choice, whole)
            notes = f"{notes} {error}. Shown is tile 1 of {len(offered)}.".strip()
        layer = choice.layer
        if layer is None and scene.layers:
            layer = scene.layers[-1]
        elif layer is not None and layer not in scene.layers:
            wanted = f"one with attention of {choice.team.with_}"
            remedy = nearest(layer, scene.layers) if scene.layers else "choose another N"
            raise InputError("layer", expected=wanted, found=repr(layer), remedy=remedy)
        rows, columns = scene.shape
        moved = self._key is None or key[0] != self._key[0]
        position = (rows // 2, columns // 2) if moved else self.position
        # The first look at a layer costs more than the next ones: it belongs to the choice.
        asked = (scene, layer, position, self.most)
        self._answer = (asked, answer(*asked))
        self.choice, self.scene, self.position = replace(choice, layer=layer), scene, position
        self._key, self.message = key, Message(notes)

    def _computed(self, choice: Choice, whole: Sample) -> tuple[tuple[object, ...], Scene]:
        """Return the scene of a choice, and what it depends on; the last one if it is the same."""
        key = ((choice.window, whole), choice.team, choice.hash_seed)
        if key == self._key:
            return key, self.scene
        sample = whole
        if choice.window is not None:
            top, left, height, width = choice.window
            rows, columns = whole.lr.shape[:2]
            inside = min(top, left) >= 0 and top + height <= rows and left + width <= columns
            if not inside or min(height, width) < LEAST:
                wanted = f"{LEAST} or more of {rows} rows and of {columns} columns"
                remedy = "choose one of the tiles offered"
                raise InputError("tile", expected=wanted, found=str(choice.window), remedy=remedy)
            sample = whole.crop(*choice.window)
        return key, self._runner.scene(sample, choice.team, choice.hash_seed, self.tell)

    def _read(self, choice: Choice) -> tuple[Sample, str]:
        key = (choice.dataset, choice.image, choice.scale)
        if self._whole is None or self._whole[0] != key:
            if choice.dataset != FILES:
                self._whole = (key, datasets.sample(*key), "")
            elif choice.image in self.files:
                self._whole = (key, *brought(choice.image, self.files[choice.image], choice.scale))
            else:
                near = nearest(choice.image, self.files) if self.files else "upload one"
                asked = repr(choice.image)
                raise InputError("upload", expected="one of yours", found=asked, remedy=near)
        return self._whole[1], self._whole[2]

    def _inside(self, position: Position) -> Position:
        """Return a position; raise `InputError` where it is outside."""
        (row, column), (rows, columns) = position, self.scene.shape
        if not (0 <= row < rows and 0 <= column < columns):
            raise InputError(
                "position",
                expected=f"row 0 to {rows - 1} and column 0 to {columns - 1}",
                found=f"row {row}, column {column}",
                remedy="choose one inside the picture",
            )
        return row, column


def changed(old: Choice, changes: Mapping[str, Any], listed: Callable[[str], list[str]]) -> Choice:
    """Return a choice after changes of its fields or its team's, the rest made to fit.

    ``listed`` names the pictures of a benchmark.
    """
    own, others = Choice.__dataclass_fields__, Team.__dataclass_fields__
    for name in changes:
        if name not in own and name not in others:
            near = nearest(name, [*own, *others])
            raise InputError("choice", expected="a known field", found=repr(name), remedy=near)
    new = replace(old, **{k: v for k, v in changes.items() if k in own})
    if new.dataset != old.dataset and "image" not in changes:
        new = replace(new, image=listed(new.dataset)[0])
    moved = (new.dataset, new.image, new.scale) != (old.dataset, old.image, old.scale)
    if moved and "window" not in changes:
        new = replace(new, window=None)
    if new.scale != old.scale and "team" not in changes:
        new = replace(new, team=team(new.scale))
    named = replace(new.team, **{k: v for k, v in changes.items() if k in others})
    new = replace(new, team=named)
    if new.team.with_ != old.team.with_ and "layer" not in changes:
        new = replace(new, layer=None)
    return new


def answer(scene: Scene, layer: str | None, position: Position, most: int) -> Answer:
    """Return what there is to say about a position; ``most``: attended positions that are named."""
    errors = {name: float(map_[position]) for name, map_ in scene.errors.items()}
    block = _block(scene, position, errors) if errors else {}
    if scene.record is None or layer is None:
        return Answer(position, None, errors=errors, block=block)
    attention = scene.record.map(layer, position).double().cpu().numpy()
    row = scene.record.summary(layer, [position], details=scene.detail).iloc[0]
    spread = {str(key): float(value) for key, value in row.items()}
    order = np.argsort(-attention, axis=None, kind="stable")[:most]
    copied = tuple(
        Copied(int(r), int(c), float(attention[r, c]), _disagreement(scene, position, (r, c)))
        for r, c in zip(*np.unravel_index(order, attention.shape), strict=True)
        if attention[r, c] > 0
    )
    return Answer(position, layer, attention, spread, copied, errors, block)


def _disagreement(scene: Scene, query: Position, other: Position) -> float:
    if scene.detail is None:
        return float("nan")
    own, theirs = (scene.detail[at].astype(np.float64) for at in (query, other))
    energy = float(own @ own)
    return float(np.sum((own - theirs) ** 2)) / energy if energy > 0 else float("nan")


def _block(scene: Scene, position: Position, errors: Mapping[str, float]) -> dict[str, float]:
    team, sample = scene.team, scene.sample
    block = Window(*position, 1, 1)
    cut = sample.crop(*block)
    n, l = (subpixel.luma(cut.outputs[name]) for name in (team.with_, team.without))
    y = subpixel.luma(cut.hr)
    # The mixture w n + (1 - w) l of least squared error, in closed form.
    apart = float(np.sum((n - l) ** 2))
    weight = min(max(float(np.sum((n - l) * (y - l))) / apart, 0.0), 1.0) if apart else 0.0
    fused = float(np.mean((weight * n + (1 - weight) * l - y) ** 2))
    better = min(errors[team.with_], errors[team.without])
    return {
        "harm": errors[team.with_] - errors[team.without],
        "chance": float("nan") if scene.chance is None else float(scene.chance[position]),
        "selection": subpixel.decibels(better),
        "fusion": subpixel.decibels(fused),
        "fusion_weight": weight,
    }
