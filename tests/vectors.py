"""The golden vectors: where they are and how to compare with them. See golden/README.txt."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

FOLDER = Path(os.environ.get("DTFN_GOLDEN") or Path(__file__).parent / "golden").resolve()
NAME = re.compile(r"(?P<family>\w+)_b\d+_\d+x\d+")

# The largest absolute difference that a correct implementation may show: float32, float64.
TOLERANCES = {
    "dtfn": (5e-6, 1e-12),
    "dnlf": (1e-5, 1e-12),
    "gla": (1e-5, 1e-12),
    "nlsa": (1e-5, 1e-12),
    "nla": (1e-5, 1e-12),
    "hspa": (1e-4, 1e-11),
}
GRADIENT = (2e-5, 1e-11)  # relative to the largest gradient of the tensor

Arrays = Mapping[str, NDArray[np.generic]]


def vectors(kind: str = "") -> list[str]:
    """Return the names of the recorded inputs whose family starts with ``kind``."""
    found = sorted(file.stem for file in FOLDER.glob(f"{kind}*.npz"))
    return [name for name in found if NAME.fullmatch(name)]


def read(name: str) -> Arrays:
    """Return everything that is recorded under a name."""
    with np.load(FOLDER / f"{name}.npz") as content:
        return dict(content)


def family(name: str) -> str:
    """Return ``"dtfn_x2"`` for ``"dtfn_x2_b1_8x8"``."""
    found = NAME.fullmatch(name)
    assert found, name
    return found["family"]


def kind(name: str) -> str:
    """Return ``"dtfn"`` for ``"dtfn_x2_b1_8x8"``."""
    return name.split("_")[0]


def load_weights(module: nn.Module, name: str) -> None:
    """Load a family's weights; nothing may be unexpected, and only PReLU's constants missing."""
    state = {key: torch.from_numpy(value) for key, value in read(f"{name}_weights").items()}
    missing, unexpected = module.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(re.search(r"conv_(match1|match2|assembly)\.1\.weight$", key) for key in missing)


def distance(found: Tensor, expected: NDArray[np.generic]) -> float:
    """Return the largest absolute difference; the shapes must be equal."""
    values = found.detach().double().numpy()
    assert values.shape == expected.shape
    return float(np.abs(values - expected).max())
