"""A user's own network as one of the suite: built by a function in a file, and checked once.

`dtfn.zoo.own` says how it is named. Its attention is met where torch computes it: in every softmax
and every `scaled_dot_product_attention` that runs, by the name of the submodule that runs it.
Nothing is patched for longer than a context lasts, and unchanged outputs are bit-identical.

Where the weights are not from all positions to all, as in windows, the module that computes them,
or one around it, may say which positions they belong to. It has a method::

    def attention_positions(self, numbers):  # (1, 1, H, W): 1, 2, ..., H * W, as floats
        return self.partition(numbers)

The method does to the numbers what the module does to features before it attends, e.g. cuts them
into windows (windows, L). Where it pads with 0, there is no position. What it returns must
broadcast to the weights of one picture without their keys (..., L): with heads after windows it is
(windows, 1, L). If keys lie elsewhere than queries, it returns both: (..., L), (..., S).
"""

from __future__ import annotations

import importlib.util
import math
import sys
import traceback
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from dtfn import zoo
from dtfn.errors import InputError, nearest

SIZES = ((24, 20), (16, 68))  # LR rows and columns of the pictures that it is tried on
LARGEST = 8.0  # of an output for [0, 1]; one of 0 to 255 has more
CLOSE = 1e-3  # at most so far apart are two outputs for the same picture
ROUNDING = {True: 2e-2, False: 1e-4}  # of a sum of probabilities, in half precision or not
SOFTMAX = (F.softmax, torch.softmax, Tensor.softmax, torch.special.softmax)


class Weights(NamedTuple):
    """Attention weights (..., L, S), computed a few rows at a time."""

    shape: tuple[int, ...]
    rows: Callable[[Tensor | slice], Tensor]  # queries -> (..., Q, S)


class Places(NamedTuple):
    """Flat LR positions of queries (R, L) and keys (R, S) of R windows and heads; -1 for none."""

    queries: Tensor
    keys: Tensor


Meet = Callable[[str, Weights], Tensor | None]
"""Name, weights -> weights (..., L, S) in their place, or None to leave them."""


class OwnNetwork(nn.Module):
    """A user's network: (N, 3, H, W) in [0, 1] to (N, 3, sH, sW).

    Parameters
    ----------
    name
        For messages.
    network
        The user's module. Of several or nested outputs the first with three channels counts.
    attention
        Names of submodules whose attention counts; none: all over positions.

    Raises
    ------
    InputError
        It does not keep the contract, or there is no such submodule.
    """

    def __init__(self, name: str, network: nn.Module, attention: Collection[str] = ()) -> None:
        super().__init__()
        self.name, self.network, self.wanted = name, network.eval(), tuple(attention)
        modules = dict(network.named_modules())
        for one in self.wanted:
            if one not in modules:
                wanted, remedy = "a name of named_modules()", nearest(one, modules)
                raise InputError(f"attention of {name}", wanted, one, remedy)
        self.scale = 0
        seen = [self._tried(*size) for size in SIZES]
        # What does not grow with the picture is attention over channels.
        self.shapes = {
            call: shape
            for call, shape in seen[0].items()
            if call in seen[1] and math.prod(shape) != math.prod(seen[1][call])
        }
        """Attention over positions -> the shape of its weights for a picture of `SIZES`."""
        sides = [rows * columns for rows, columns in SIZES]
        self.dense = [
            call
            for call in self.shapes
            if all(one[call][-2:] == (side, side) for one, side in zip(seen, sides, strict=True))
        ]
        """Those from all LR positions to all; positions are taken row by row."""
        for size, shapes in zip(SIZES, seen, strict=True):
            placed = {call for call in self.shapes if self.places(call, size, 2, shapes[call])}
        self.dense = [call for call in self.dense if call not in placed]
        self.placed = [call for call in self.shapes if call in placed or call in self.dense]
        """Those whose positions are known."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the picture."""
        fast = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)  # it would hide its softmax
        try:
            return _picture(self.name, self.network(x.contiguous()))
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)

    @contextmanager
    def meeting(self, meet: Meet) -> Iterator[None]:
        """Give the attention weights of every pass to a function, which may replace them."""

        def chosen(name: str, weights: Weights) -> Tensor | None:
            return meet(name, weights) if name in self.shapes else None

        with met(self.network, chosen, self.wanted):
            yield

    def intervene(self, change: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Any:
        """Change logits, as `dtfn.models.Network.intervene` does; attention on all positions."""

        def meet(name: str, weights: Weights) -> Tensor | None:
            if name not in self.dense:
                return None
            logits = weights.rows(slice(None)).log()
            at = torch.arange(logits.shape[-1], device=logits.device)
            return change(logits, at, at).softmax(-1).nan_to_num()

        return self.meeting(meet)

    def places(
        self, call: str, size: tuple[int, int], batch: int, shape: tuple[int, ...]
    ) -> Places | None:
        """Return where the weights of one picture lie, if a module says it.

        Parameters
        ----------
        call
            Of `shapes`.
        size
            LR rows and columns.
        batch, shape
            Number of pictures, and the shape of all weights.

        Raises
        ------
        InputError
            What the module says does not fit the weights, or leaves out a position.
        """
        modules = dict(self.network.named_modules())
        parts = call.split("#")[0].split(".")
        names = [".".join(parts[:length]) for length in range(len(parts), -1, -1)]
        methods = (getattr(modules.get(name), "attention_positions", None) for name in names)
        method = next(filter(None, methods), None)
        if method is None:
            return None
        what, count = f"attention_positions of {call!r}", math.prod(size)
        numbers = torch.arange(1.0, count + 1).reshape(1, 1, *size)
        remedy = "do to the numbers what is done to features before attention"
        with _refusing(what, "positions (..., L)", remedy):
            made = method(numbers)
        both = made if isinstance(made, tuple) else (made, made)
        lead = (shape[0] // batch, *shape[1:-2])
        try:
            flat = [
                part.expand(*lead, length).reshape(-1, length).round().long() - 1
                for part, length in zip(both, shape[-2:], strict=True)
            ]
        except (RuntimeError, ValueError, AttributeError):
            wanted = f"positions that broadcast to {(*lead, shape[-2])}"
            found = [tuple(getattr(part, "shape", ())) for part in both]
            raise InputError(what, wanted, found, remedy) from None
        known = flat[0].unique()
        if known[-1] >= count or len(known[known >= 0]) < count:
            wanted = f"each of the {count} positions"
            found_ = f"{len(known[known >= 0])} positions, up to {int(known[-1]) + 1}"
            raise InputError(what, wanted, found_, remedy)
        return Places(*flat)

    def require_attention(self, placed: bool = False) -> None:
        """Refuse a network without attention over positions, or whose positions nobody knows."""
        if self.shapes and (self.placed or not placed):
            return
        found, remedy = "none", "name its submodule: ...?attention=NAME"
        if self.shapes:
            name, shape = next(iter(self.shapes.items()))
            found = f"{name!r} with weights {shape} for {SIZES[0][0]} x {SIZES[0][1]} positions"
            remedy = (
                "windows, strips or coarser grids cannot be assigned to positions of the picture: "
                "give its module a method attention_positions, see dtfn.own; `dtfn gate` works "
                "without"
            )
        wanted = f"attention over {'known ' * placed}positions"
        raise InputError(self.name, wanted, found, remedy)

    @torch.no_grad()
    def _tried(self, height: int, width: int) -> dict[str, tuple[int, ...]]:
        """Check the contract on a tiny picture; return the attention that ran, and its shapes."""
        generator = torch.Generator().manual_seed(0)
        x = F.interpolate(torch.rand(2, 3, 6, 5, generator=generator), (height, width))
        weight = next(self.network.parameters(), x)
        x = x.to(weight.device)
        seen: dict[str, tuple[int, ...]] = {}

        def meet(name: str, weights: Weights) -> None:
            seen[name] = weights.shape

        wanted = f"an output for 2 pictures of {height} x {width} pixels"
        remedy = "take pictures of any size and number in forward; pad and crop there"
        with _refusing(self.name, wanted, remedy):
            first = self(x)
            with met(self.network, meet, self.wanted):
                again = self(x)
            alone = self(x[1:])
        found: object = tuple(first.shape)
        scale = first.shape[2] // height
        fits = found == (2, 3, scale * height, scale * width) and scale in (2, 3, 4)
        if not fits or self.scale not in (0, scale):
            wanted = f"an output (2, 3, s * {height}, s * {width}) with one s of 2, 3 or 4"
            remedy = "return the super-resolved RGB picture"
        elif not (largest := float(first.abs().amax())) <= LARGEST:
            wanted = "an output in [0, 1] for a picture in [0, 1]"
            found = f"numbers up to {largest:.0f}" + ", as of 0 to 255" * (largest <= 1000)
            remedy = "divide by 255 in forward, and multiply its input by 255 if it wants that"
        elif again.shape != first.shape or not torch.allclose(first, again, atol=CLOSE, rtol=0):
            wanted, found = "the same output for the same picture", "another one the second time"
            remedy = "switch off dropout and other chance in eval mode, or give it a fixed seed"
        elif not torch.allclose(first[1:], alone, atol=CLOSE, rtol=0):
            wanted = "an output that does not depend on the other pictures of the batch"
            found, remedy = "another one for a picture alone", "mix no pictures in eval mode"
        elif self.network.training:
            wanted, found = "a network that .eval() puts into eval mode", "training mode"
            remedy = "do not override train(), or call super().train(mode) there"
        else:
            self.scale = scale
            return seen
        raise InputError(self.name, wanted, found, remedy)


def load(name: str) -> OwnNetwork:
    """Return the network that a name as for `dtfn.zoo.own` stands for, checked.

    Raises
    ------
    InputError
        The file cannot be run, has no such function, or the function returns no fit network.
    """
    own = zoo.own(name)
    assert own is not None
    module_name = f"dtfn_own_{own.fingerprint()[:16]}"
    spec = importlib.util.spec_from_file_location(module_name, own.file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(own.file.parent))  # it may import what lies next to it
    sys.modules[module_name] = module
    given = [str(own.weights)] if own.weights else []
    try:
        with _refusing(own.file, "a file of Python that runs", "mend it, or install its imports"):
            spec.loader.exec_module(module)
        function = getattr(module, own.function, None)
        if not callable(function):
            near = nearest(own.function, [key for key, at in vars(module).items() if callable(at)])
            wanted = f"a function {own.function!r}"
            raise InputError(own.file, wanted, "none", near)
        wanted = f"a network from {own.function}({'weights' if given else ''})"
        remedy = "it is called with the file of ?weights=FILE, or without arguments"
        with _refusing(own.file, wanted, remedy):
            network = function(*given)
    finally:
        sys.path.remove(str(own.file.parent))
    if not isinstance(network, nn.Module):
        wanted, remedy = f"a torch.nn.Module from {own.function}", "return the module itself"
        raise InputError(own.file, wanted, type(network), remedy)
    return OwnNetwork(f"{own.file.name}:{own.function}", network, own.attention)


@contextmanager
def met(network: nn.Module, meet: Meet, wanted: Collection[str] = ()) -> Iterator[None]:
    """Give the weights of every attention that runs in a network to a function.

    Parameters
    ----------
    network
        Any module.
    meet
        Gets the innermost submodule's name (``NAME#2`` for its second attention in a pass) and the
        weights (..., L, S).
    wanted
        Submodules inside of which attention counts, or whose output holds weights; none: all.
    """
    mode = _Attention(meet, wanted)
    with ExitStack() as stack:
        for name, module in network.named_modules():
            label = name or type(network).__name__
            handle = module.register_forward_pre_hook(partial(mode._enter, label, not name))
            stack.callback(handle.remove)
            left = partial(mode._leave, label)
            stack.callback(module.register_forward_hook(left, always_call=True).remove)
        stack.enter_context(mode)
        yield


def stochastic(output: object) -> Tensor | None:
    """Return the first tensor (..., L, S) in a nested output whose rows are probabilities."""
    for tensor in tree_leaves(output):
        if isinstance(tensor, Tensor) and tensor.ndim >= 2 and tensor.is_floating_point():
            half = tensor.dtype in (torch.float16, torch.bfloat16)
            if tensor.numel() and tensor.detach().amin() >= 0:
                error = (tensor.detach().double().sum(-1) - 1).abs().max()
                if error < ROUNDING[half]:
                    return tensor
    return None


class _Attention(TorchFunctionMode):
    """Meets softmax and scaled_dot_product_attention while modules run."""

    def __init__(self, meet: Meet, wanted: Collection[str]) -> None:
        super().__init__()
        self._meet, self._wanted = meet, frozenset(wanted)
        self._running: list[str] = []  # submodules, the innermost last
        self._times: dict[str, int] = {}
        self._inside: set[str] = set()  # submodules in which attention was met

    def _enter(self, name: str, is_root: bool, *_: object) -> None:
        if is_root:
            self._running, self._times, self._inside = [], {}, set()
        self._running.append(name)

    def _leave(self, name: str, _: nn.Module, __: object, output: object) -> object:
        new = None
        if name in self._wanted - self._inside and output is not None:
            weights = stochastic(output)
            new = None if weights is None else self._called(_whole(weights))
            if new is not None and weights is not output:
                raise InputError(
                    f"attention {name!r}",
                    "weights that the network goes on to use",
                    "a report of them among other outputs",
                    "name the module that computes their softmax",
                )
        self._running.pop()
        return new

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in SOFTMAX:
            return self._softmax(func, *args, **kwargs)
        if func is F.scaled_dot_product_attention:
            return self._product(func, *args, **kwargs)
        if func is F.multi_head_attention_forward:  # inside, the mode is off
            inside: dict[str, Any] = {
                "softmax": partial(self._softmax, F.softmax),
                "scaled_dot_product_attention": partial(
                    self._product, F.scaled_dot_product_attention
                ),
            }
            with mock.patch.multiple(F, **inside):
                return func(*args, **kwargs)
        return func(*args, **kwargs)

    def _called(self, weights: Weights) -> Tensor | None:
        if self._wanted and not self._wanted.intersection(self._running):
            return None
        self._inside.update(self._running)
        name = self._running[-1] if self._running else "attention"
        times = self._times[name] = self._times.get(name, 0) + 1
        return self._meet(name if times == 1 else f"{name}#{times}", weights)

    def _softmax(self, func: Any, x: Tensor, dim: int | None = -1, *args: Any, **how: Any) -> Any:
        weights = func(x, dim, *args, **how)
        before = 1 if dim is None else weights.ndim - 1 - dim % weights.ndim
        if weights.ndim < 3 or before > 1:  # over channels (N, C, H, W)
            return weights
        new = self._called(_whole(weights.mT if before else weights))
        return weights if new is None else new.mT if before else new

    def _product(
        self,
        func: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        **how: Any,
    ) -> Tensor:
        out: Tensor = func(query, key, value, attn_mask, dropout_p, is_causal, **how)
        if how.get("enable_gqa"):
            shared = query.shape[-3] // key.shape[-3]
            key, value = (part.repeat_interleave(shared, -3) for part in (key, value))
        scale = how.get("scale")
        scale = query.shape[-1] ** -0.5 if scale is None else scale
        shape = (*query.shape[:-1], key.shape[-2])
        if is_causal:
            attn_mask = torch.ones(shape[-2:], dtype=torch.bool, device=query.device).tril()

        def rows(at: Tensor | slice) -> Tensor:
            logits = query[..., at, :] @ key.mT * scale
            if attn_mask is not None:
                mask = attn_mask.expand(shape)[..., at, :]
                dark = mask.dtype == torch.bool
                logits = logits.masked_fill(~mask, -torch.inf) if dark else logits + mask
            return logits.softmax(-1)

        new = self._called(Weights(shape, rows))
        return out if new is None else new.to(value.dtype) @ value


@contextmanager
def _refusing(what: object, wanted: str, remedy: str) -> Iterator[None]:
    """Make one line of what the user's code raises, with the place."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{type(error).__name__}: {error}".splitlines()[0]
        text += f" ({last.filename} line {last.lineno})"
        raise InputError(what, wanted, text, remedy) from error


def _whole(weights: Tensor) -> Weights:
    return Weights(tuple(weights.shape), lambda at: weights[..., at, :])


def _picture(name: str, output: object) -> Tensor:
    for part in tree_leaves(output):
        if isinstance(part, Tensor) and part.ndim == 4 and part.shape[1] == 3:
            return part
    wanted, remedy = "an output (N, 3, sH, sW)", "return the super-resolved RGB picture"
    shapes = [tuple(part.shape) for part in tree_leaves(output) if isinstance(part, Tensor)]
    raise InputError(name, wanted, shapes or type(output), remedy)
