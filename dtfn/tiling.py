"""How an LR image is cut into tiles that a network sees one by one.

Every tile overlaps its neighbours, but each position of the image is kept from exactly one tile.
With enough overlap no seam can be seen. Attention searches its tile only.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise, product
from typing import NamedTuple

from dtfn import cache
from dtfn.errors import InputError

# Tile sides that a budget may choose: coarse, so that other machines choose the same.
SIDES = (48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
SPARE = 0.85  # share of a budget that is planned with: allocators do not fill every gap


class Span(NamedTuple):
    """Rows or columns: a tile sees start to stop, of which first to last is kept (LR positions)."""

    start: int
    stop: int
    first: int
    last: int

    @property
    def seen(self) -> slice:
        """What the network sees of the LR image."""
        return slice(self.start, self.stop)

    def kept(self, scale: int) -> slice:
        """Return what is kept of the super-resolved image."""
        return slice(scale * self.first, scale * self.last)

    def inner(self, scale: int) -> slice:
        """Return what is kept, as a slice of the super-resolved tile."""
        return slice(scale * (self.first - self.start), scale * (self.last - self.start))


Tile = tuple[Span, Span]  # rows and columns


@dataclass(frozen=True)
class Tiling:
    """Square tiles of ``size`` LR positions a side, of which at least ``overlap`` is not kept."""

    size: int
    overlap: int = 16

    def __post_init__(self) -> None:
        if not 0 <= 2 * self.overlap < self.size:
            wanted = f"tiles larger than twice their overlap of {self.overlap}"
            raise InputError("tiling", wanted, self.size, "choose larger ones")

    def tiles(self, height: int, width: int) -> list[Tile]:
        """Return the tiles of an image of ``height x width`` LR positions, row by row."""
        return list(product(self._spans(height), self._spans(width)))

    def _spans(self, length: int) -> list[Span]:
        size = min(self.size, length)
        gaps = -(-(length - size) // (self.size - 2 * self.overlap))  # rounded up
        starts = [i * (length - size) // gaps for i in range(gaps)] + [length - size]
        # Two neighbours share at least 2 * overlap positions: each keeps half of them.
        cuts = [0, *((start + size + after) // 2 for start, after in pairwise(starts)), length]
        return [Span(s, s + size, *kept) for s, kept in zip(starts, pairwise(cuts), strict=True)]


@dataclass(frozen=True)
class Chop:
    """What ``--chop`` does in the code of EDSR's descendants, DTFN's among them.

    An image is cut into four overlapping quarters, and these again down to ``min_size`` positions.
    A quarter is half the image and ``shave``, rounded up to the next multiple of 4 rows and 8
    columns (a multiple itself grows too), but at most the image.
    """

    shave: int = 10
    min_size: int = 120_000

    def tiles(self, height: int, width: int) -> list[Tile]:
        """Return the tiles of an image of ``height x width`` LR positions."""
        return list(self._cut(Span(0, height, 0, height), Span(0, width, 0, width)))

    def _cut(self, rows: Span, columns: Span) -> Iterator[Tile]:
        for row, column in product(self._halves(rows, 4), self._halves(columns, 8)):
            if row.first >= row.last or column.first >= column.last:
                continue  # a neighbour keeps all of it
            # A quarter as large as what it was cut from would be cut for ever.
            shrinks = row[:2] != rows[:2] or column[:2] != columns[:2]
            large = (row.stop - row.start) * (column.stop - column.start) >= self.min_size
            yield from self._cut(row, column) if large and shrinks else [(row, column)]

    def _halves(self, whole: Span, multiple: int) -> tuple[Span, Span]:
        length = whole.stop - whole.start
        middle = whole.start + length // 2
        size = length // 2 + self.shave
        size = min(size + multiple - size % multiple, length)
        first = Span(whole.start, whole.start + size, whole.first, min(middle, whole.last))
        return first, Span(whole.stop - size, whole.stop, max(middle, whole.first), whole.last)


@dataclass(frozen=True)
class Budget:
    """Bytes that a process, or the GPU, may take: larger images are cut into tiles."""

    bytes: int

    def tiling(self, rest: float, position: float, height: int, width: int) -> Tiling | None:
        """Return the largest tiles that fit, by bytes at rest and a position; None for all."""
        positions = (SPARE * self.bytes - rest) / position
        if height * width <= positions:
            return None
        fitting = [side for side in SIDES if side**2 <= positions]
        if not fitting:
            least = (rest + SIDES[0] ** 2 * position) / SPARE / 2**20
            found = f"{self.bytes / 2**20:.0f} MB"
            raise InputError("memory", f"at least {least:.0f} MB", found, "allow more")
        return Tiling(fitting[-1])


Way = Tiling | Chop | Budget | None  # None: whole, but a network of the zoo as its card says


def way(text: str) -> Way:
    """Return how ``"whole"``, ``"chop"``, ``"128"`` (a tile's side) or ``"8GB"`` cut images."""
    if text in ("whole", "chop"):
        return Chop() if text == "chop" else None
    return Tiling(int(text)) if text.isdigit() else Budget(cache.size(text, "tiling"))
