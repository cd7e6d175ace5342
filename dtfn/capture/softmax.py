"""The attention weights of any torch module that makes them as a whole.

Users find `attention` in `dtfn.capture`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from dtfn.capture.rows import layer_in
from dtfn.errors import InputError, nearest
from dtfn.models.layers import HALF

ROUNDING = {True: 2e-2, False: 1e-4}  # of a sum of probabilities, in half precision or not


def attention(model: nn.Module, name: str) -> Callable[..., tuple[Any, list[Tensor]]]:
    """Return the model as a function that gives its attention, too.

    Parameters
    ----------
    model
        Any torch module.
    name
        Of a submodule, as in ``model.named_modules()``: a `torch.nn.Softmax`, or a module whose
        output is, or has in it, attention weights (..., L, S) whose rows sum to 1.

    Returns
    -------
    Callable
        Takes what the model takes; returns ``(output, attentions)``: the model's output, and a copy
        of the weights, without gradients, from every time that the submodule ran. It hooks the
        submodule for the length of a call only.

    Raises
    ------
    InputError
        No submodule of this name. From the returned function: it did not run, or its output has no
        rows that sum to 1.
    """
    modules = dict(model.named_modules())
    if name not in modules:
        raise InputError(
            "submodule", expected="a name of model.named_modules()", found=repr(name),
            remedy=nearest(name, modules),
        )  # fmt: skip
    if layer_in(modules[name]) is not None:
        raise InputError(
            f"submodule {name!r}", expected="one that makes its weights as a whole",
            found=type(modules[name]).__name__, remedy="use capture.record(model)",
        )  # fmt: skip

    def run(*args: Any, **kwargs: Any) -> tuple[Any, list[Tensor]]:
        attentions: list[Tensor] = []
        hook = modules[name].register_forward_hook(
            lambda _module, _args, output: attentions.append(_stochastic(name, output))
        )
        try:
            output = model(*args, **kwargs)
        finally:
            hook.remove()
        if not attentions:
            raise InputError(
                f"submodule {name!r}", expected="that the model calls it", found="no call",
                remedy="a functional softmax cannot be seen: make it a torch.nn.Softmax",
            )  # fmt: skip
        return output, attentions

    return run


def _stochastic(name: str, output: object) -> Tensor:
    """Return a copy of the first tensor whose rows are non-negative and sum to 1."""
    parts = output if isinstance(output, tuple | list) else (output,)
    tensors = [part for part in parts if isinstance(part, Tensor)]
    for tensor in tensors:
        if tensor.ndim >= 2 and tensor.is_floating_point() and tensor.numel():
            error = (tensor.detach().double().sum(-1) - 1).abs().max()
            if error < ROUNDING[tensor.dtype in HALF] and tensor.detach().amin() >= 0:
                return tensor.detach().clone()
    shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors)
    raise InputError(
        f"submodule {name!r}", expected="attention weights (..., L, S) whose rows sum to 1",
        found=f"tensors of shape {shapes}" if tensors else "no tensor in its output",
        remedy="name the softmax; torch.nn.MultiheadAttention gives them with need_weights=True",
    )  # fmt: skip
