"""A claim and what a run says about it: computed, printed, never bent."""

from __future__ import annotations

from dataclasses import dataclass

MARKS = {True: "✓ yes", False: "✗ no", None: "? open"}


@dataclass(frozen=True)
class Verdict:
    """One claim and what the run says about it.

    Attributes
    ----------
    claim
        A sentence that can be true or false.
    measured, interval
        The number that decides (or text) and its 95 % interval, or None.
    holds
        True, False, or None where the run cannot tell.
    form
        How the numbers are printed, e.g. ``"{:+.3f} dB"``.
    """

    claim: str
    measured: float | str | None
    interval: tuple[float, float] | None
    holds: bool | None
    form: str = "{:.3g}"

    def row(self) -> dict[str, str]:
        """Return the verdict as printed: claim, measured, 95 % interval, holds."""
        number, brace, unit = self.form.partition("}")
        ends = [(number + brace).format(end) for end in self.interval or ()]
        return {
            "claim": self.claim,
            "measured": self._print(self.measured),
            "95 % interval": " to ".join(ends) + unit if ends else "–",
            "holds": MARKS[self.holds],
        }

    def _print(self, value: float | str | None) -> str:
        if value is None or value != value:  # NaN
            return "–"
        return value if isinstance(value, str) else self.form.format(value)


def above_zero(low: float, high: float) -> bool | None:
    """Return whether an interval lies above 0; None where it holds 0 or is not known (NaN)."""
    if low > 0:
        return True
    return False if high < 0 else None
