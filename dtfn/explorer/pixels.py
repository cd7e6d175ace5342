"""What is shown, as pixels: crops with a block outlined, copied patches, and the two maps.

Used by the view and by the figures that are saved, so that both show the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
import matplotlib.colors
import numpy as np

from dtfn import images, subpixel
from dtfn.explorer.answer import Answer
from dtfn.explorer.pictures import Window
from dtfn.explorer.scene import Scene
from dtfn.images import UInt8
from dtfn.plots import BOX, SIGNED
from dtfn.subpixel.blocks import Float
from dtfn.subpixel.regions import signed_root

ATTENTION = "magma"
PATCH = 7  # LR positions a side of a copied patch
FLOOR = 0.2  # of the overlay's strength is there where attention is least, so that the rest shows
CLIPPED = 0.002  # of the positions may have more harm than the colours reach


@dataclass(frozen=True, eq=False)
class Crop:
    """A piece of a picture with one block outlined.

    Attributes
    ----------
    title, note
        What stands above and below it.
    image
        uint8 ``(h, w, 3)``.
    box
        The block: top, left, height, width in pixels of ``image``.
    """

    title: str
    note: str
    image: UInt8
    box: tuple[int, int, int, int]

    def zoomed(self, factor: int) -> UInt8:
        """Return the crop with every pixel enlarged by a factor, the block outlined."""
        large = self.image.repeat(factor, 0).repeat(factor, 1)
        top, left, height, width = (factor * side for side in self.box)
        inside = large[top : top + height, left : left + width].copy()
        line = 2
        large[
            max(top - line, 0) : top + height + line, max(left - line, 0) : left + width + line
        ] = _rgb(BOX)
        large[top : top + height, left : left + width] = inside
        return large


def around(shape: tuple[int, int], position: tuple[int, int], side: int) -> Window:
    """Return a square window around a position, moved into a grid, smaller where that is."""
    height, width = (min(side, length) for length in shape)
    top = min(max(position[0] - height // 2, 0), shape[0] - height)
    left = min(max(position[1] - width // 2, 0), shape[1] - width)
    return Window(top, left, height, width)


def crops(scene: Scene, position: tuple[int, int], side: int) -> list[Crop]:
    """Return LR, HR (where it is known) and what each network of the team made, around a position.

    Parameters
    ----------
    scene, position
        As for `dtfn.explorer.answer.answer`.
    side
        LR positions.
    """
    team, s = scene.team, scene.subject.scale
    window = around(scene.subject.shape, position, side)
    found = [_crop("LR", f"1/{s}, as it is", scene.subject.lr, 1, window, position)]
    if scene.subject.hr is not None:
        truth = images.as_rgb(scene.subject.hr)
        found.append(_crop("HR", "the truth", truth, s, window, position))
    named = (("L", team.without), ("N", team.with_), ("beside", team.beside))
    for role, name in named:
        if name is not None:
            note = _psnr(scene, name, window)
            title = f"{role}: {name}" if len(role) == 1 else name
            found.append(_crop(title, note, scene.ran[name].image, s, window, position))
    return found


def patches(scene: Scene, answer: Answer) -> list[Crop]:
    """Return the patch at the query and those at the attended positions, heaviest first.

    They are cut from the truth; without it, from what N made.
    """
    s, hr = scene.subject.scale, scene.subject.hr
    source = images.as_rgb(hr) if hr is not None else scene.ran[scene.team.with_].image
    here = (answer.row, answer.column)
    found = [_patch(scene, "asked", f"({here[0]}, {here[1]})", source, s, here)]
    for copy in answer.copied:
        at = f"({copy.row}, {copy.column})"
        known = not np.isnan(copy.disagreement)
        note = f"{at} · differs {copy.disagreement:.1f}" if known else at
        found.append(_patch(scene, f"{copy.weight:.2%}", note, source, s, (copy.row, copy.column)))
    return found


def attention_range(answer: Answer) -> tuple[float, float]:
    """Return the least and the largest weight, in multiples of a uniform one (1 / L)."""
    assert answer.attention is not None
    each = answer.attention * answer.attention.size
    return float(each.min()), float(each.max())


def attention_map(scene: Scene, answer: Answer, strength: float) -> UInt8:
    """Return LR under the colours of attention, uint8 ``(H, W, 3)``.

    Parameters
    ----------
    strength
        Of the overlay, in [0, 1]; with 0, or without attention, it is LR as it is. The colours span
        from the least to the largest weight, however close they are: see `attention_range`.
    """
    lr = scene.subject.lr
    if answer.attention is None or strength <= 0:
        return lr
    a = answer.attention
    low, high = float(a.min()), float(a.max())
    share = (a - low) / (high - low) if high > low else np.zeros_like(a)
    grey = np.repeat(images.luma(lr)[..., None], 3, axis=2)
    colours = mpl.colormaps[ATTENTION](share)[..., :3] * 255
    opacity = strength * (FLOOR + (1 - FLOOR) * np.sqrt(share))[..., None]
    return np.rint((1 - opacity) * grey + opacity * colours).astype(np.uint8)


def harm_root(scene: Scene, threshold: float) -> tuple[Float, float]:
    """Return the signed root of harm, and the limit of its colours (8-bit levels).

    Parameters
    ----------
    threshold
        Harm (MSE) up to which, either way, nothing is shown.
    """
    harm = scene.harm
    assert harm is not None
    root = signed_root(harm)
    limit = float(np.quantile(np.abs(root), 1 - CLIPPED)) or 1.0
    return np.where(np.abs(harm) > threshold, root, 0.0), limit


def harm_map(scene: Scene, threshold: float) -> UInt8:
    """Return harm in colours centred at 0, uint8 ``(H, W, 3)``; see `harm_root`."""
    root, limit = harm_root(scene, threshold)
    colours = mpl.colormaps[SIGNED](np.clip(root / limit, -1, 1) / 2 + 0.5)
    return np.rint(colours[..., :3] * 255).astype(np.uint8)


def beyond(scene: Scene, threshold: float) -> tuple[float, float]:
    """Return the share of positions with harm above a threshold: of the pair, of the null.

    The null's is NaN where there is none. The outermost positions are left out.
    """
    harm, luck = scene.harm, scene.null_harm
    assert harm is not None
    rates = [
        subpixel.harm_rate(subpixel.interior(map_), threshold) if map_ is not None else np.nan
        for map_ in (harm, luck)
    ]
    return float(rates[0]), float(rates[1])


def stops(name: str, count: int = 9) -> list[str]:
    """Return colours of a map at equal steps, as ``#rrggbb``."""
    return [mpl.colors.to_hex(mpl.colormaps[name](i / (count - 1))) for i in range(count)]


def _crop(
    title: str, note: str, image: UInt8, s: int, window: Window, position: tuple[int, int]
) -> Crop:
    top, left = s * window.top, s * window.left
    piece = image[top : top + s * window.height, left : left + s * window.width]
    box = (s * position[0] - top, s * position[1] - left, s, s)
    return Crop(title, note, np.ascontiguousarray(piece), box)


def _patch(
    scene: Scene, title: str, note: str, source: UInt8, s: int, position: tuple[int, int]
) -> Crop:
    window = around(scene.subject.shape, position, PATCH)
    return _crop(title, note, source, s, window, position)


def _psnr(scene: Scene, name: str, window: Window) -> str:
    if not scene.errors:
        return "no truth to compare"
    rows = slice(window.top, window.top + window.height)
    columns = slice(window.left, window.left + window.width)
    return f"{subpixel.psnr_of(scene.errors[name][rows, columns]):.2f} dB here"


def _rgb(colour: str) -> Sequence[int]:
    return [round(255 * part) for part in mpl.colors.to_rgb(colour)]
