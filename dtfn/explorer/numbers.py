"""What is said of a position in numbers, as lines of text; the same on screen and on paper."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dtfn.explorer import pixels
from dtfn.explorer.answer import Answer
from dtfn.explorer.scene import Scene

NO_TRUTH = "needs the truth (HR), and this picture came without"


@dataclass(frozen=True)
class Line:
    """One number.

    Attributes
    ----------
    key
        A name for it, as in `Answer.block` and `Answer.spread`.
    label, value
        As printed.
    about
        What it is, in a sentence.
    """

    key: str
    label: str
    value: str
    about: str


def block(scene: Scene, answer: Answer) -> list[Line]:
    """Return the numbers of the block under the position; empty without the truth."""
    b, team = answer.block, scene.team
    if not b:
        return []
    lines = [
        _error("without", f"L {team.without}", answer),
        _error("with", f"N {team.with_}", answer),
    ]
    if team.beside is not None:
        lines.append(_error("beside", team.beside, answer))
    lines.append(Line("harm", "harm e(N) − e(L)", signed(b["harm"]), "above 0, attention harmed"))
    if "null_harm" in b:
        about = "what the training seed alone changes here: the null pair's harm"
        lines.append(Line("null_harm", "the same by luck", signed(b["null_harm"]), about))
    return [
        *lines,
        Line("selection", "selection bound", decibels(b["selection"]), "the better of N and L"),
        Line(
            "fusion", "fusion bound",
            f"{decibels(b['fusion'])} with {b['fusion_weight']:.0%} of N",
            "the best mixture of N and L in this block",
        ),
    ]  # fmt: skip


def verdict(answer: Answer, threshold: float) -> str:
    """Return what the harm of this block means beside the null's threshold; empty without truth."""
    harm = answer.block.get("harm")
    if harm is None:
        return ""
    if abs(harm) <= threshold:
        return "no difference that luck would not make"
    return f"N {'harmed' if harm > 0 else 'helped'} here, beyond the threshold"


def spread(answer: Answer) -> list[Line]:
    """Return how the query spreads its attention; empty where there is none."""
    if answer.attention is None:
        return []
    a, total = answer.spread, answer.attention.size
    low, high = pixels.attention_range(answer)
    named = sum(copy.weight for copy in answer.copied)
    lines = [
        Line("support", "effective positions", f"{a['support']:,.0f} of {total:,}",
             "exp of the entropy: as many positions as if all had one weight"),
        Line("range", "weights", f"{low:.3g} to {high:.3g} × uniform", "1 is what each would get"),
        Line("distance", "mean distance", f"{a['distance']:.1f} LR pixels", "weighted"),
        Line("on_self", "on itself", f"{a['on_self']:.2%}", "the query's weight on itself"),
        Line("named", f"on the top {len(answer.copied)}", f"{named:.1%}", "their weights' sum"),
    ]  # fmt: skip
    if "disagreeing" in a and not math.isnan(a["disagreeing"]):
        about = "weight on positions whose HR detail is farther from the truth than no detail"
        lines.append(Line("disagreeing", "on disagreeing detail", f"{a['disagreeing']:.0%}", about))
    return lines


def share(scene: Scene, threshold: float) -> str:
    """Return how often N harms beyond a threshold on the whole picture, and how often luck does."""
    if scene.harm is None:
        return f"Harm {NO_TRUTH}."
    ours, luck = pixels.beyond(scene, threshold)
    if math.isnan(luck):
        return f"Harm above 0 at {ours:.1%} of the positions; no null pair to compare."
    return f"Harm above {threshold:.2g} MSE at {ours:.1%} of the positions; by luck {luck:.1%}."


def signed(harm: float) -> str:
    """Return harm as printed, with a minus sign that is one."""
    shown = round(harm, 2) + 0.0  # no "−0.00"
    return f"{shown:+.2f} MSE".replace("-", "−") if shown else "0.00 MSE"


def decibels(psnr: float) -> str:
    """Return a PSNR as printed."""
    return "no error" if math.isinf(psnr) else f"{psnr:.2f} dB"


def _error(role: str, label: str, answer: Answer) -> Line:
    error, psnr = answer.block[f"error_{role}"], answer.block[f"psnr_{role}"]
    value = f"{error:.2f} MSE · {decibels(psnr)}"
    return Line(f"error_{role}", f"e({label[0]}) {label[2:]}" if label[1] == " " else label, value,
                "error of the block, and its sub-pixel PSNR")  # fmt: skip
