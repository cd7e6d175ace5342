"""Text and tables for LaTeX's standard fonts and page."""

from __future__ import annotations

import re
from collections.abc import Sequence

WRAPPED = 40  # characters from which a column's text breaks into lines
WIDEST = 72  # characters of a line that the standard page holds
LEAST_SHARE = 0.27  # of the line, for a column whose text breaks

_ESCAPED = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{c: f"\\{c}" for c in "&%$#_{}"},
    # What the fonts lack without further packages.
    "\N{NO-BREAK SPACE}": "~",
    "×": r"$\times$",
    "−": "$-$",
    "·": r"$\cdot$",
    "±": r"$\pm$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "≈": r"$\approx$",
    "→": r"$\to$",
    "τ": r"$\tau$",
    "✓": r"$\surd$",
    "✗": r"$\times$",
}


def text(plain: str) -> str:
    """Return plain text escaped, with a true minus before numbers."""
    signed = re.sub(r"(?<![\w-])-(?=\d)", "−", plain)
    return "".join(_ESCAPED.get(c, c) for c in signed)


def table(
    columns: Sequence[str], groups: Sequence[Sequence[Sequence[str]]], caption: str, label: str
) -> str:
    r"""Return a table for the packages booktabs and, if it is wide, graphicx.

    Parameters
    ----------
    columns
        Titles, escaped.
    groups
        Rows of escaped cells, in groups that are separated by rules.
    caption
        Plain text, or empty.
    label
        For ``\label``, or empty.
    """
    rows = [row for group in groups for row in group]
    widths = [max(map(_width, cells)) for cells in zip(columns, *rows, strict=True)]
    wrapped = [width > WRAPPED for width in widths]
    plain = sum(width + 2 for width, wraps in zip(widths, wrapped, strict=True) if not wraps)
    left = 0.9 * (1 - plain / WIDEST) / max(sum(wrapped), 1)
    share = max(LEAST_SHARE, round(left, 2))
    kinds = "".join(
        rf">{{\raggedright\arraybackslash}}p{{{share}\linewidth}}" if wraps else "l"
        for wraps in wrapped
    )
    line = sum(min(width, WRAPPED) + 2 for width in widths)
    fitted = [r"\resizebox{\linewidth}{!}{%"] if line > WIDEST else []
    body: list[str] = []
    for group in groups:
        body += [r"\midrule", *(" & ".join(row) + r" \\" for row in group)]
    lines = [
        r"\begin{table}",
        r"\centering",
        r"\setlength{\belowcaptionskip}{6pt}",  # standard classes have none above a table
        *([rf"\caption{{{text(caption)}}}"] if caption else []),
        *([rf"\label{{{label}}}"] if label else []),
        *fitted,
        rf"\begin{{tabular}}{{{kinds}}}",
        r"\toprule",
        " & ".join(columns) + r" \\",
        *body,
        r"\bottomrule",
        r"\end{tabular}" + ("}" if fitted else ""),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _width(cell: str) -> int:
    """Return about how many characters a cell takes when it is set."""
    return len(re.sub(r"\\[a-z]+\{?|[{}$\\]", "", cell))
