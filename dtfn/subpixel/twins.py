"""All figures of two networks on one picture: how often and how much one harms, and the bounds.

Users find these in `dtfn.subpixel`.
"""

from __future__ import annotations

from dtfn.subpixel.blocks import (
    Array,
    gain,
    harm,
    harm_mass,
    harm_rate,
    lumas,
    psnr_of,
)
from dtfn.subpixel.bounds import errors_and_bounds

CURVE = {
    "image": "bound_image", "32": "bound_32", "16": "bound_16", "8": "bound_8", "4": "bound_4",
    "2": "bound_2", "1": "selection_bound", "subpixel": "bound_subpixel", "fusion": "fusion_bound",
}  # fmt: skip
"""Granularity of a bound, coarse to fine -> its column in `pair`'s figures."""


def pair(sr_n: Array, sr_l: Array, hr: Array, scale: int, tau: float = 0.0) -> dict[str, float]:
    """Return all figures of one pair on one picture; the outermost LR positions are left out.

    Parameters
    ----------
    sr_n, sr_l
        What the networks with and without non-local attention made: uint8 RGB ``(sH, sW, 3)`` or
        grey ``(sH, sW)``, or floating Y ``(sH, sW)`` in [0, 255].
    hr
        The truth, of the same size.
    scale
        s.
    tau
        Threshold of harm (MSE) for the figures that end in ``_tau``, see
        `dtfn.subpixel.blocks.noise_floor`; all others take 0.

    Returns
    -------
    ``psnr_with``, ``psnr_without`` (dB) and ``psnr_gain``, their difference;
    ``harm_rate``, ``help_rate`` (shares of the positions); ``harm_untied``, the share of harm among
    the positions where the two do not tie: a network that merely differs more from L ties less, and
    so harms and helps more often, but not more of the one than of the other: it is one half of two
    networks that err equally, each by noise of its own; NaN where all tie;
    ``harm_mass``, ``help_mass`` (MSE), ``harm_share``, ``lost_db``, ``won_db``, see `HarmMass`;
    ``tau``, and ``harm_rate_tau``, ``help_rate_tau``, ``harm_mass_tau``, ``help_mass_tau``,
    ``lost_db_tau``, ``won_db_tau`` for it; the bounds of `CURVE` (dB); ``selection_gain`` and
    ``fusion_gain``, what the bounds at one position have over the better of the two networks (dB).

    Raises
    ------
    InputError
        As `dtfn.subpixel.blocks.block_error`, or if the picture has no interior.
    """
    error_n, error_l, bounds = errors_and_bounds(*lumas(sr_n, sr_l, hr), scale)
    psnr_n, psnr_l = psnr_of(error_n), psnr_of(error_l)
    h = harm(error_n, error_l)
    harmed, helped = harm_rate(h), harm_rate(-h)
    mass, mass_tau = harm_mass(error_n, error_l), harm_mass(error_n, error_l, tau)
    return {
        "psnr_with": psnr_n,
        "psnr_without": psnr_l,
        "psnr_gain": gain(psnr_n, psnr_l),
        "harm_rate": harmed,
        "help_rate": helped,
        "harm_untied": harmed / (harmed + helped) if harmed + helped else float("nan"),
        "harm_mass": mass.harmed,
        "help_mass": mass.helped,
        "harm_share": mass.share,
        "lost_db": mass.lost_db,
        "won_db": mass.won_db,
        "tau": tau,
        "harm_rate_tau": harm_rate(h, tau),
        "help_rate_tau": harm_rate(-h, tau),
        "harm_mass_tau": mass_tau.harmed,
        "help_mass_tau": mass_tau.helped,
        "lost_db_tau": mass_tau.lost_db,
        "won_db_tau": mass_tau.won_db,
        **{CURVE[granularity]: bound for granularity, bound in bounds.items()},
        "selection_gain": gain(bounds["1"], max(psnr_n, psnr_l)),
        "fusion_gain": gain(bounds["fusion"], max(psnr_n, psnr_l)),
    }
