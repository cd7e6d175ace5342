"""One picture through a team of networks: everything that does not depend on where one looks.

Networks run once. What their attention layers got is kept, so that a click computes one row of
attention, not a network.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np

from dtfn import capture, evaluation, subpixel, texture
from dtfn.capture import Record
from dtfn.errors import InputError
from dtfn.explorer import networks
from dtfn.explorer.networks import Team
from dtfn.explorer.pictures import TILE, Subject
from dtfn.images import UInt8
from dtfn.models import Network
from dtfn.subpixel.blocks import Float, luma

Tell = Callable[[float, str], None]
"""Called with the share that is done, in [0, 1], and what is being done."""


class TooLargeError(InputError):
    """A picture with more LR positions than a network of the team can take."""


@dataclass(frozen=True)
class Ran:
    """What a network made of a picture, and what its attention layers got.

    Attributes
    ----------
    image
        uint8 ``(sH, sW, 3)``.
    record
        None for a network without attention.
    """

    image: UInt8
    record: Record | None


@dataclass(frozen=True, eq=False)
class Scene:
    """A picture, a team, and what is true of every position.

    Attributes
    ----------
    subject, team, hash_seed
        What it was made from.
    ran
        Network -> what it made.
    y
        Network -> Y of its output, and ``"HR"`` -> Y of the truth, float64 ``(sH, sW)``.
        Only the networks without the truth.
    errors
        Network -> block errors on Y (MSE), float64 ``(H, W)``; empty without the truth.
    detail
        What the degradation lost of each block, float32 ``(H, W, s * s)``; None without the truth.
    """

    subject: Subject
    team: Team
    hash_seed: int
    ran: Mapping[str, Ran]
    y: Mapping[str, Float]
    errors: Mapping[str, Float]
    detail: np.ndarray[tuple[int, ...], np.dtype[np.float32]] | None

    @property
    def record(self) -> Record | None:
        """What the attention layers of N got; None where N has none."""
        return self.ran[self.team.with_].record

    @property
    def layers(self) -> list[str]:
        """The attention layers of N."""
        return self.record.layers if self.record is not None else []

    @property
    def harm(self) -> Float | None:
        """Error of N less error of L, ``(H, W)``; None without the truth."""
        return self._harm(self.team.with_)

    @property
    def null_harm(self) -> Float | None:
        """The same of the null pair; None without the truth or without a null."""
        return self._harm(self.team.null) if self.team.null is not None else None

    def threshold(self, quantile: float) -> float:
        """Return the noise floor: a quantile of the null pair's absolute harm (MSE); 0 without."""
        luck = self.null_harm
        return 0.0 if luck is None else subpixel.noise_floor(luck, quantile)

    def _harm(self, name: str) -> Float | None:
        if not self.errors:
            return None
        return subpixel.harm(self.errors[name], self.errors[self.team.without])


class Runner:
    """Runs networks on pictures and remembers the last results.

    Parameters
    ----------
    most
        How many outputs to keep.
    """

    def __init__(self, most: int = 8) -> None:
        self._most = most
        self._kept: OrderedDict[tuple[str, int, bytes], Ran] = OrderedDict()

    def scene(self, subject: Subject, team: Team, hash_seed: int, tell: Tell) -> Scene:
        """Return the scene of a picture.

        Raises
        ------
        TooLargeError
            The picture is too large for a network of the team.
        InputError
            N and L are the same; a network is unknown or of another scale.
        """
        if team.with_ == team.without:
            raise InputError(
                "pair", expected="two different networks", found=f"{team.with_} twice",
                remedy="choose another one",
            )  # fmt: skip
        loaded = {name: networks.load(name, hash_seed) for name in team.names}
        for name, network in loaded.items():
            check_fit(name, network, subject)
        ran = {}
        for index, (name, network) in enumerate(loaded.items()):
            part = Stage(tell, index / len(loaded), 1 / len(loaded), name)
            ran[name] = self._run(name, network, hash_seed, subject.lr, part)
        tell(1.0, "")
        return _compared(subject, team, hash_seed, ran)

    def _run(self, name: str, network: Network, seed: int, lr: UInt8, stage: Stage) -> Ran:
        has_attention = bool(capture.layers(network))
        key = (name, seed if has_attention else 0, lr.shape[1].to_bytes(4, "big") + lr.tobytes())
        if key not in self._kept:
            self._kept[key] = run(network, lr, stage)
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]


@dataclass(frozen=True)
class Stage:
    """A part of the work that is told about: where it starts, how long it is, its name."""

    tell: Tell
    start: float
    length: float
    name: str

    def at(self, share: float) -> None:
        """Tell that a share in [0, 1] of this part is done."""
        self.tell(self.start + self.length * share, f"running {self.name}")


def run(network: Network, lr: UInt8, stage: Stage) -> Ran:
    """Run a network on an LR picture and keep what its attention layers got."""
    stage.at(0)
    parts = list(network.body.children())
    hooks = [
        part.register_forward_hook(lambda *_, done=index: stage.at((done + 1) / len(parts)))
        for index, part in enumerate(parts)
    ]
    try:
        watched = capture.record(network) if capture.layers(network) else nullcontext()
        with watched as record:
            image = evaluation.upscale(network, lr)
    finally:
        for hook in hooks:
            hook.remove()
    return Ran(image, record)


def check_fit(name: str, network: Network, subject: Subject) -> None:
    """Raise `TooLargeError` where a picture is too large for a network."""
    rows, columns = subject.shape
    most = networks.most_positions(network)
    if rows * columns > most:
        side = int(most**0.5)
        raise TooLargeError(
            subject.name,
            expected=f"at most {most} LR positions for {name}, e.g. {side} x {side}",
            found=f"{rows} x {columns} = {rows * columns}",
            remedy=f"look at a tile (up to {TILE} x {TILE}), or choose another network",
        )


def _compared(subject: Subject, team: Team, hash_seed: int, ran: Mapping[str, Ran]) -> Scene:
    hr, s = subject.hr, subject.scale
    reference = hr if hr is not None else ran[team.with_].image
    y = {name: luma(found.image, reference) for name, found in ran.items()}
    if hr is None:
        return Scene(subject, team, hash_seed, ran, y, {}, None)
    y["HR"] = luma(hr, hr)
    errors = {name: subpixel.block_error(y[name], y["HR"], s) for name in ran}
    lost = texture.detail(hr, s).astype(np.float32)
    rows, columns = subject.shape
    blocks = lost.reshape(rows, s, columns, s).swapaxes(1, 2).reshape(rows, columns, s * s)
    return Scene(subject, team, hash_seed, ran, y, errors, blocks)
