"""Tiles: their geometry, the authors' chop, and what networks make of them, by brute force."""

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from dtfn import evaluation, tiling
from dtfn.errors import InputError
from dtfn.tiling import Budget, Chop, Tiling

RNG = np.random.default_rng(0)
LENGTHS = st.integers(1, 90)


class Local(nn.Module):
    """Nearest-neighbour upscaling of a 5x5 sum of small integers: float32 makes no error."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.conv = nn.Conv2d(3, 3, 5, padding=2, bias=False)
        weights = torch.randint(-2, 3, (3, 3, 5, 5), generator=torch.Generator().manual_seed(0))
        self.conv.weight = nn.Parameter(weights / 64)

    def forward(self, x: Tensor) -> Tensor:
        rounded = (x * 16).round() / 16
        return nn.functional.interpolate(self.conv(rounded), scale_factor=self.scale) + 0.5


class Uneven(nn.Module):
    """Depends on the whole tile and on the place within it, as non-local attention does."""

    scale = 2

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        self.seen.append(height * width)
        ramp = torch.arange(height * width, dtype=x.dtype).reshape(height, width)
        mixed = x * 0.5 + x.mean() * 0.3 + ramp / ramp.numel() * 0.2
        return nn.functional.interpolate(mixed, scale_factor=self.scale)


def picture(height: int, width: int) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


def levels(made: np.ndarray) -> np.ndarray:
    """Round (H, W, 3) in [0, 1] as `upscale` does."""
    return np.floor(np.clip(made, 0, 1) * 255 + 0.5).astype(np.uint8)


def run(network: nn.Module, x: np.ndarray) -> np.ndarray:
    """Return the output (sH, sW, 3) of a float (H, W, 3)."""
    tensor = torch.from_numpy(np.ascontiguousarray(x)).permute(2, 0, 1)[None]
    with torch.no_grad():
        return network(tensor)[0].permute(1, 2, 0).numpy()


@given(LENGTHS, LENGTHS, st.integers(1, 40), st.integers(0, 12))
def test_tiles_are_of_one_size_and_keep_every_position_once(
    height: int, width: int, size: int, overlap: int
) -> None:
    size += 2 * overlap
    kept = np.zeros((height, width), int)
    for rows, columns in Tiling(size, overlap).tiles(height, width):
        for span, length in ((rows, height), (columns, width)):
            assert span.stop - span.start == min(size, length)
            assert span.start == span.first == 0 or span.first - span.start >= overlap
            assert span.stop == span.last == length or span.stop - span.last >= overlap
        kept[rows.kept(1), columns.kept(1)] += 1
        assert rows.kept(3).stop - rows.kept(3).start == rows.inner(3).stop - rows.inner(3).start
    assert (kept == 1).all()


@given(LENGTHS, LENGTHS, st.integers(0, 12), st.integers(1, 3000))
def test_chop_keeps_every_position_once(height: int, width: int, shave: int, min_size: int) -> None:
    """Also where the authors' code fails: heights and widths below 24, widths of 28 to 31."""
    kept = np.zeros((height, width), int)
    for rows, columns in Chop(shave, min_size).tiles(height, width):
        assert 0 <= rows.start <= rows.first < rows.last <= rows.stop <= height
        assert 0 <= columns.start <= columns.first < columns.last <= columns.stop <= width
        kept[rows.kept(1), columns.kept(1)] += 1
    assert (kept == 1).all()


def test_no_more_tiles_than_needed() -> None:
    sizes = [(48, 48), (49, 80), (49, 81)]
    assert [len(Tiling(48, 8).tiles(*size)) for size in sizes] == [1, 4, 6]
    for size, overlap in ((32, 16), (0, 0), (8, -1)):
        with pytest.raises(InputError, match="larger than twice"):
            Tiling(size, overlap)


@pytest.mark.parametrize(("height", "width", "scale"), [(23, 41, 2), (9, 64, 3), (12, 12, 2)])
def test_a_local_network_gives_the_same_in_tiles(height: int, width: int, scale: int) -> None:
    network, lr = Local(scale), picture(height, width)
    whole = evaluation.upscale(network, lr)
    for cut in (Tiling(12, 2), Chop(2, 200)):
        np.testing.assert_array_equal(evaluation.upscale(network, lr, cut), whole)


def chopped(network: nn.Module, x: np.ndarray, shave: int, min_size: int) -> np.ndarray:
    """Chop as it is described: a function of arrays that calls itself."""
    h, w = x.shape[:2]
    rows, columns = h // 2 + shave, w // 2 + shave
    rows, columns = rows + 4 - rows % 4, columns + 8 - columns % 8
    out = np.full((2 * h, 2 * w, 3), np.nan, np.float32)
    for top, left in product((True, False), repeat=2):
        quarter = x[slice(rows) if top else slice(h - rows, h)]
        quarter = quarter[:, slice(columns) if left else slice(w - columns, w)]
        small = rows * columns < min_size
        made = run(network, quarter) if small else chopped(network, quarter, shave, min_size)
        y = slice(2 * (h // 2)) if top else slice(2 * (h // 2) - 2 * h, None)
        z = slice(2 * (w // 2)) if left else slice(2 * (w // 2) - 2 * w, None)
        out[y, z] = made[y, z]
    return out


@pytest.mark.parametrize(
    ("size", "shave", "min_size"),
    [((48, 48), 10, 120_000), ((25, 33), 10, 120_000), ((97, 141), 4, 1000), ((64, 64), 2, 400)],
)
def test_chop_is_the_authors_recursion(size: tuple[int, int], shave: int, min_size: int) -> None:
    lr, network = picture(*size), Uneven()
    made = evaluation.upscale(network, lr, Chop(shave, min_size))
    expected = chopped(Uneven(), (lr / 255).astype(np.float32), shave, min_size)
    np.testing.assert_array_equal(made, levels(expected))
    assert max(network.seen) < min_size


@pytest.mark.parametrize("cut", [None, Tiling(12, 3), Chop(3, 150)])
def test_self_ensemble_is_the_mean_over_flips_and_turns(cut: Tiling | Chop | None) -> None:
    lr = picture(17, 22)
    total = np.zeros((34, 44, 3))
    for k, mirrored in product(range(4), (False, True)):
        seen = np.rot90(lr[:, ::-1] if mirrored else lr, k)
        back = np.rot90(evaluation.unrounded(Uneven(), seen, cut), -k)
        total += back[:, ::-1] if mirrored else back
    made = evaluation.upscale(Uneven(), lr, cut, self_ensemble=True)
    np.testing.assert_allclose(made.astype(int), levels(total / 8).astype(int), atol=1)
    assert (made != evaluation.upscale(Uneven(), lr, cut)).mean() > 0.5


def test_a_budget_takes_the_largest_tiles_that_fit() -> None:
    rest, position = 3e8, 4000.0
    assert Budget(10**12).tiling(rest, position, 500, 400) is None
    for memory in (4 * 10**8, 5 * 10**8, 2 * 10**9):
        chosen = Budget(memory).tiling(rest, position, 2000, 3000)
        assert chosen is not None
        assert rest + position * chosen.size**2 <= memory
        larger = tiling.SIDES[tiling.SIDES.index(chosen.size) + 1]
        assert rest + position * larger**2 > tiling.SPARE * memory
    with pytest.raises(InputError, match=r"expected at least 3\d\d MB for this network"):
        Budget(200 * 2**20).tiling(rest, position, 200, 200)


def test_ways_to_cut_are_read_from_text() -> None:
    ways = {"whole": None, "chop": Chop(), "96": Tiling(96), "8GB": Budget(8 * 2**30)}
    assert {text: tiling.way(text) for text in ways} == ways
    with pytest.raises(InputError, match="tiling: expected a size; found 'chopp'"):
        tiling.way("chopp")
