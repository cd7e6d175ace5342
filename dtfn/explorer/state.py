"""The explorer without its widgets: what is chosen, what is shown, and what went wrong.

Every event either succeeds or leaves all as it was and says why in `Explorer.message`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any

from dtfn import datasets, paths
from dtfn.errors import InputError, nearest
from dtfn.explorer import pictures
from dtfn.explorer.answer import Answer, answer, inside
from dtfn.explorer.choice import FILES, Choice, changed
from dtfn.explorer.pictures import Subject, Window
from dtfn.explorer.scene import Runner, Scene, Tell, TooLargeError

Key = tuple[Any, ...]


@dataclass(frozen=True)
class Message:
    """A line for the reader; ``is_error`` if something was refused."""

    text: str = ""
    is_error: bool = False


@dataclass(frozen=True)
class Upload:
    """A picture that the reader brought; ``truth`` as in `dtfn.explorer.pictures.of_bytes`."""

    data: bytes
    truth: bool


def event(act: Callable[..., None]) -> Callable[..., bool]:
    """Make a method an event: True if it did what was asked, else the reason is the message."""

    @wraps(act)
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
    """The state of the explorer.

    Parameters
    ----------
    choice
        What to begin with; its layer None means N's last.
    position
        (row, column); None: the middle.
    files
        Name -> picture that the reader brought.
    tell
        Told about progress.

    Attributes
    ----------
    choice, scene, position, message
        What is chosen, computed, looked at and to be told.
    quantile
        Of the null pair's absolute harm: the threshold of harm, see `threshold`.
    most
        How many attended positions are named.

    Raises
    ------
    InputError
        The first choice cannot be shown at all.
    """

    scene: Scene

    def __init__(
        self,
        choice: Choice,
        position: tuple[int, int] | None = None,
        *,
        files: dict[str, Upload] | None = None,
        tell: Tell | None = None,
    ) -> None:
        self.tell: Tell = tell or (lambda share, what: None)
        self.files = dict(files or {})
        self.message = Message()
        self.quantile, self.most = 0.5, 8
        self._runner = Runner()
        self._whole: tuple[tuple[str, str, int], Subject] | None = None
        self._answer: tuple[object, Answer] | None = None
        self._key: Key | None = None
        self._settle(choice)
        if position is not None:
            self.position = inside(self.scene, position)

    # --- what is shown --------------------------------------------------------------------------

    @property
    def answer(self) -> Answer:
        """What there is to say about the position."""
        if self._answer is None or self._answer[0] != self._asked():
            found = answer(self.scene, self.choice.layer, self.position, self.most)
            self._answer = (self._asked(), found)
        return self._answer[1]

    @property
    def threshold(self) -> float:
        """Harm (MSE) that the null pair exceeds at a share 1 - quantile of the positions."""
        return self.scene.threshold(self.quantile)

    @property
    def datasets(self) -> list[str]:
        """The benchmarks that are here, and `FILES` where the reader brought some."""
        here = sorted(hr.parent.name for hr in paths.data_root().glob("*/HR"))
        return [datasets.MINI, *here, *([FILES] if self.files else [])]

    @property
    def images(self) -> list[str]:
        """The pictures of the chosen benchmark."""
        return self._images(self.choice.dataset)

    @property
    def windows(self) -> list[Window]:
        """The tiles of the chosen picture."""
        return pictures.tiles(self.whole().shape)

    def whole(self, choice: Choice | None = None) -> Subject:
        """Return the whole picture of a choice, by default of the present one; read once."""
        choice = choice or self.choice
        key = (choice.dataset, choice.image, choice.scale)
        if self._whole is None or self._whole[0] != key:
            if choice.dataset == FILES:
                brought = self._brought(choice.image)
                found = pictures.of_bytes(
                    choice.image, brought.data, choice.scale, truth=brought.truth
                )
            else:
                found = pictures.of_benchmark(*key)
            self._whole = (key, found)
        return self._whole[1]

    # --- what the reader does -------------------------------------------------------------------

    @event
    def choose(self, **changes: Any) -> None:
        """Change some of `Choice`'s fields, or of its team's.

        What no longer fits follows: another benchmark shows its first picture, another picture its
        whole, another scale the networks of that scale, another N its last layer. A picture that is
        too large is shown by its first tile.
        """
        self._settle(changed(self.choice, changes, self._images))

    @event
    def upload(self, name: str, data: bytes, *, truth: bool) -> None:
        """Take a picture that the reader brought, and show it."""
        pictures.of_bytes(name, data, self.choice.scale, truth=truth)  # or raises
        before = self.files.get(name)
        self.files[name] = Upload(data, truth)
        self._whole = None
        try:
            place = {"dataset": FILES, "image": name}
            self._settle(changed(self.choice, place, self._images))
        except InputError:
            del self.files[name]
            self.files |= {name: before} if before else {}
            raise

    @event
    def click(self, x: float | None, y: float | None) -> None:
        """Look at the position under a click.

        Parameters
        ----------
        x, y
            Column and row in LR positions, each position reaching 0.5 to both sides; None
            outside of the picture.
        """
        if x is None or y is None:
            rows, columns = self.scene.subject.shape
            raise InputError(
                "click", expected=f"one of the {rows} x {columns} positions",
                found="a place outside the picture", remedy="click inside",
            )  # fmt: skip
        self.position = inside(self.scene, (round(y), round(x)))

    @event
    def move(self, down: int, right: int) -> None:
        """Step from the position, and stay inside the picture."""
        rows, columns = self.scene.subject.shape
        row, column = self.position
        self.position = (
            min(max(row + down, 0), rows - 1),
            min(max(column + right, 0), columns - 1),
        )

    # --- how it follows -------------------------------------------------------------------------

    def _settle(self, choice: Choice) -> None:
        """Show a choice: by its first tile where the whole is too large."""
        whole = self.whole(choice)
        notes = list(whole.notes)
        try:
            key, scene = self._computed(choice, whole)
        except TooLargeError as error:
            offered = pictures.tiles(whole.shape)
            choice = replace(choice, window=offered[0])
            key, scene = self._computed(choice, whole)
            notes.append(f"{error}. Shown is tile 1 of {len(offered)}.")
        layer = choice.layer
        if layer is None and scene.layers:
            layer = scene.layers[-1]
        elif layer is not None and layer not in scene.layers:
            raise InputError(
                "layer", expected=f"one with attention of {choice.team.with_}", found=repr(layer),
                remedy=nearest(layer, scene.layers) if scene.layers else "choose another N",
            )  # fmt: skip
        rows, columns = scene.subject.shape
        moved = self._key is None or key[:4] != self._key[:4]
        position = (rows // 2, columns // 2) if moved else self.position
        # The first look at a layer costs more than the next ones: it belongs to the choice.
        found = answer(scene, layer, position, self.most)
        self.choice, self.scene, self.position = replace(choice, layer=layer), scene, position
        self._key = key
        self._answer = (self._asked(), found)
        self.message = Message(" ".join(notes))

    def _computed(self, choice: Choice, whole: Subject) -> tuple[Key, Scene]:
        """Return the scene of a choice, and what it depends on; the last one as it is."""
        key = (
            choice.dataset, choice.image, choice.scale, choice.window, choice.team,
            choice.hash_seed, id(whole),
        )  # fmt: skip
        if key == self._key:
            return key, self.scene
        subject = whole if choice.window is None else pictures.cut(whole, choice.window)
        return key, self._runner.scene(subject, choice.team, choice.hash_seed, self.tell)

    def _asked(self) -> object:
        return (self.scene, self.choice.layer, self.position, self.most)

    def _brought(self, name: str) -> Upload:
        if name not in self.files:
            remedy = nearest(name, self.files) if self.files else "upload one"
            raise InputError("upload", expected="a picture that was uploaded", found=repr(name),
                             remedy=remedy)  # fmt: skip
        return self.files[name]

    def _images(self, dataset: str) -> list[str]:
        return sorted(self.files) if dataset == FILES else datasets.names(dataset)
