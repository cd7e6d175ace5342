"""What the explorer says about a position, in words and numbers."""

from __future__ import annotations

import math

import numpy as np

from dtfn import subpixel
from dtfn.explorer.state import Float, State
from dtfn.models.attention import HashedAttention

NO_TRUTH = "needs the truth (HR), and this picture came without"
EVEN = 0.8  # effective positions as a share of those in sight, from which attention is even

Line = tuple[str, str, str]  # label, value and meaning of a number


def verdict(state: State) -> str:
    """Return what the harm of this block means against chance."""
    if not state.has_truth:
        return f"Harm {NO_TRUTH}"
    if not state.is_judged:
        return "Not judged: with equal weights the network is off-distribution on this picture"
    if state.record is None and state.choice.baseline != state.choice.off:
        return "No attention is seen in this network: any difference is chance"
    if not state.choice.control:
        return "Chance is not known: choose a control to judge this block"
    harm, chance = state.harm[state.position], abs(state.chance[state.position])
    if abs(harm) <= state.threshold:
        return "No difference beyond chance"
    if abs(harm) <= chance:
        return "Beyond the threshold, but chance differs as much in this very block"
    who = "This network"
    if state.choice.baseline == state.choice.off:
        who = "Its choice of keys" if state.choice.off.endswith("@uniform") else "Attention"
    return f"{who} {'harmed' if harm > 0 else 'helped'} here, beyond chance"


def block_lines(state: State) -> list[Line]:
    """Return the numbers of the block at the position; empty without the truth."""

    def mse(differences: Float) -> str:
        shown = round(differences[state.position], 2) + 0.0  # no "−0.00"
        return f"{shown:+.2f} MSE".replace("-", "−") if shown else "0.00 MSE"

    if not state.has_truth:
        return []
    choice = state.choice
    labels = {f"{choice.network}@off": "harm: on minus off"}
    labels[f"{choice.network}@uniform"] = "harm: over equal weights"
    label = labels.get(choice.baseline, "harm: over baseline")
    about = "Error of this block, less the error of the baseline. Above 0 the network is worse"
    lines = [(label, mse(state.harm), about)]
    if choice.control:
        control = " minus ".join(choice.labels[one] for one in choice.control)
        about = f"The same difference where chance alone acts: {control}"
        lines.append(("chance, this block", mse(state.chance), about))
        about = "Chance differs less at 95 % of the positions, or at the share that you set"
        lines.append(("threshold", f"±{state.threshold:.2f} MSE", about))
    return lines


def attention_lines(state: State) -> list[Line]:
    """Return how the query spreads its attention; empty where there is none."""
    if state.attention is None:
        return []
    a, total = state.spread, state.attention.size
    named = sum(copy.weight for copy in state.copied)
    most = f"{state.attention.max() * total:.3g} × uniform"
    support = f"{a['support']:,.0f} of {total:,}"
    lines = [
        ("effective positions", support, "exp of the entropy of the weights"),
        ("largest weight", most, "1 × is what each gets if all get the same"),
        (f"on the {len(state.copied)} ringed", f"{named:.1%}", "Their summed weight"),
        ("on itself", f"{a['on_self']:.2%}", "The weight of this very position"),
        ("mean distance", f"{a['distance']:.1f} LR pixels", "By weight"),
    ]
    if not math.isnan(a.get("disagreeing", math.nan)):
        about = "Weight on positions whose detail is farther from the truth than no detail"
        lines.append(("on false detail", f"{a['disagreeing']:.0%}", about))
    return lines


def looked(state: State) -> str:
    """Return in words what the query attends to, or why nothing is shown."""
    if state.attention is None or state.record is None:
        name = state.choice.labels[state.choice.network]
        return f"{name} has no attention layer that can be shown: choose another network."
    reached = int((state.attention > 0).sum())
    all_of = reached == state.attention.size
    of = "all positions" if all_of else f"the {reached:,} positions that get any"
    said = f"Spread evenly over {of}."
    if state.spread["support"] < EVEN * reached:
        half = np.cumsum(np.sort(state.attention, axis=None)[::-1]) < 0.5
        said = f"Half of the weight is on {int(half.sum()) + 1:,} of {of}."
    if isinstance(state.record.module(state.choice.layer), HashedAttention):
        said += " Equal hash codes are cut into chunks row by row, hence the band."
    return said


def share(state: State) -> str:
    """Return how often harm and chance are beyond the threshold on the picture."""
    if not state.has_truth:
        return f"Harm {NO_TRUTH}."
    limit = state.threshold
    ours, by_chance = (
        float(np.mean(subpixel.interior(one) > limit)) for one in (state.harm, state.chance)
    )
    if not state.choice.control:
        return f"Harm above 0 at {ours:.1%} of the positions; chance is not known."
    return f"Harm above {limit:.2f} MSE at {ours:.1%} of the positions; by chance {by_chance:.1%}."
