"""A user's own network as one of the suite: built by a function in a file, and checked once.

`dtfn.zoo.own` says how it is named. Its attention is met where torch computes it: in every softmax
and every `scaled_dot_product_attention` that runs, by the name of the submodule that runs it.
Nothing is patched for longer than a context lasts, and unchanged outputs are bit-identical.

Where the weights are not from all positions to all, as in windows, the module that computes them,
or one around it, may say which positions they belong to. It has a method::

    def attention_positions(self, numbers):  # (1, 1, H, W): 1, 2, ..., H * W, as floats
        return self.partition(numbers)

The method does to the numbers what the module does to features before it attends. Where it pads
with 0, there is no position. What it returns must broadcast to the weights of one picture without
their keys (..., L): with heads after windows it is (windows, 1, L). If keys lie elsewhere than
queries, it returns both: (..., L), (..., S).
"""

import math
import runpy
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
from dtfn.errors import InputError, require_known

SIZES = ((24, 20), (16, 68))  # LR rows and columns of the pictures that it is tried on
Size = tuple[int, ...]
SOFTMAX = (F.softmax, torch.softmax, Tensor.softmax, torch.special.softmax)


class Weights(NamedTuple):
    """Attention weights (..., L, S), computed a few rows at a time."""

    shape: Size
    rows: Callable[[Tensor | slice], Tensor]  # queries -> (..., Q, S)


# Innermost submodule (NAME#2 for its second attention in a pass), weights -> weights (..., L, S) in
# their place, or None to leave them.
Meet = Callable[[str, Weights], Tensor | None]


class OwnNetwork(nn.Module):
    """A user's network: (N, 3, H, W) in [0, 1] to (N, 3, sH, sW), or an `InputError`.

    Of several or nested outputs the first with three channels counts. ``attention`` names the
    submodules inside of which attention counts; none: all.
    """

    seen: Tensor  # the input of the last pass

    def __init__(self, name: str, network: nn.Module, attention: Collection[str] = ()) -> None:
        super().__init__()
        self.name, self.network, self.wanted = name, network.eval(), frozenset(attention)
        self.parts = {n or type(network).__name__: part for n, part in network.named_modules()}
        for one in attention:
            require_known(one, self.parts, f"attention of {name}", "a name of named_modules()")
        self.scale, self.ignored = 0, set[str]()
        first, second = (self._tried(*size) for size in SIZES)
        # What does not grow with the picture is attention over channels.
        self.shapes = {  # of attention over positions, for the first picture
            call: shape
            for call, shape in first.items()
            if call in second and math.prod(shape) != math.prod(second[call])
        }
        self.ignored = set(first) - set(self.shapes)
        self.dense: list[str] = []  # from all LR positions to all, taken row by row
        self.placed: list[str] = []  # on known positions
        for call in self.shapes:
            both = list(zip(SIZES, (first[call], second[call]), strict=True))
            is_dense = all(shape[-2:] == (math.prod(size),) * 2 for size, shape in both)
            told = [self.places(call, (2, 3, *size), shape) for size, shape in both]
            self.dense += [call] * (is_dense and not all(told))
            self.placed += [call] * (is_dense or all(told))

    def forward(self, x: Tensor) -> Tensor:
        """Return the picture."""
        self.seen = x
        # Its fast path would hide its softmax.
        with mock.patch.object(torch.backends.mha, "get_fastpath_enabled", return_value=False):
            made = tree_leaves(self.network(x.contiguous()))
        tensors = [part for part in made if isinstance(part, Tensor)]
        for part in tensors:
            if part.ndim == 4 and part.shape[1] == 3:
                return part
        wanted, remedy = "an output (N, 3, sH, sW)", "return the super-resolved RGB picture"
        shapes = [tuple(part.shape) for part in tensors]
        raise InputError(self.name, wanted, shapes or "no tensor", remedy)

    @contextmanager
    def meeting(self, meet: Meet) -> Iterator[None]:
        """Give the attention weights of every pass to a function, which may replace them."""
        mode = _Attention(self, meet)
        with ExitStack() as stack:
            for name, part in self.parts.items():
                stack.enter_context(part.register_forward_pre_hook(partial(mode.enter, name)))
                stack.enter_context(part.register_forward_hook(mode.leave, always_call=True))
            stack.enter_context(mode)
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

    def places(self, call: str, pictures: Size, shape: Size) -> tuple[Tensor, Tensor] | None:
        """Return where weights of a shape lie, of a pass with pictures (N, 3, H, W).

        These are flat LR positions of queries (R, L) and keys (R, S) of R windows and heads of one
        picture, -1 for none. None: no module says it.
        """
        names = call.split("#")[0].split(".")
        around = [self.parts.get(".".join(names[:n])) for n in range(len(names), 0, -1)]
        methods = [getattr(part, "attention_positions", None) for part in [*around, self.network]]
        if not any(methods):
            return None
        (method, *_), count = filter(None, methods), math.prod(pictures[2:])
        lead = (shape[0] // pictures[0], *shape[1:-2])
        what = f"attention_positions of {call!r}"
        remedy = "do to the numbers what is done to features before attention"
        with _refusing(what, f"positions that broadcast to {(*lead, shape[-2])}", remedy):
            told = method(torch.arange(1.0, count + 1).reshape(1, 1, *pictures[2:]))
            both = told if isinstance(told, tuple) else (told, told)
            queries, keys = (
                part.expand(*lead, length).reshape(-1, length).round().long() - 1
                for part, length in zip(both, shape[-2:], strict=True)
            )
        known = queries[queries >= 0].unique()
        if len(known) < count or known[-1] >= count:
            wanted, found = f"each of the {count} positions", f"{len(known)} positions"
            raise InputError(what, wanted, found, remedy)
        return queries, keys

    def require_attention(self, placed: bool = False) -> None:
        """Refuse a network without attention over positions, or whose positions nobody knows."""
        if self.shapes and (self.placed or not placed):
            return
        inside = f" in {', '.join(sorted(self.wanted))}" * bool(self.wanted)
        found = f"no softmax and no scaled_dot_product_attention{inside}"
        if self.ignored:
            found = f"only attention of one size for every picture, as over channels{inside}"
        remedy = "let the module of its attention call one of these"
        if self.shapes:
            name, shape = next(iter(self.shapes.items()))
            found = f"{name!r} with weights {shape} for {SIZES[0][0]} x {SIZES[0][1]} positions"
            remedy = (
                "windows, strips or coarser grids cannot be assigned to positions of the picture: "
                "give its module a method attention_positions, see dtfn.own"
            )
        wanted = f"attention over {'known ' * placed}positions"
        raise InputError(self.name, wanted, found, remedy)

    @torch.no_grad()
    def _tried(self, height: int, width: int) -> dict[str, Size]:
        """Check the contract on a tiny picture; return the attention that ran, and its shapes."""
        generator = torch.Generator().manual_seed(0)
        x = F.interpolate(torch.rand(2, 3, 6, 5, generator=generator), (height, width))
        x = x.to(next(self.network.parameters(), x).device)
        shapes: dict[str, Size] = {}
        wanted = f"an output for 2 pictures of {height} x {width} pixels"
        remedy = "take pictures of any size and number in forward; pad and crop there"
        with _refusing(self.name, wanted, remedy):
            first = self(x)
            with self.meeting(lambda name, met: shapes.update({name: met.shape})):
                again = self(x)
            again = torch.cat([again[:1], self(x[1:])])
        found: object = tuple(first.shape)
        scale, largest = first.shape[2] // height, float(first.abs().amax())
        fits = found == (2, 3, scale * height, scale * width) and scale in (2, 3, 4)
        if not fits or self.scale not in (0, scale):
            wanted = f"an output (2, 3, s * {height}, s * {width}) with one s of 2, 3 or 4"
            remedy = "return the super-resolved RGB picture"
        elif not largest <= 8:  # NaN too; an output of 0 to 255 has more
            wanted = "an output in [0, 1] for a picture in [0, 1]"
            found = f"numbers up to {largest:.0f}" + ", as of 0 to 255" * (largest <= 1000)
            remedy = "divide by 255 in forward, and multiply its input by 255 if it wants that"
            if math.isnan(largest):
                found, remedy = "NaN", "load its trained weights, and look for a division by 0"
        elif not torch.allclose(first, again, atol=1e-3, rtol=0):
            wanted = "the same output for the same picture, alone or in a batch"
            found = "another one the second time"
            remedy = "in eval mode switch off dropout and other chance, and mix no pictures"
        else:
            self.scale = scale
            return shapes
        raise InputError(self.name, wanted, found, remedy)


def load(name: str) -> OwnNetwork:
    """Return the network that a name as for `dtfn.zoo.own` stands for."""
    own = zoo.own(name)
    assert own is not None
    zoo.file_of(name)  # refuses one that does not exist
    given = [str(zoo.file_of(str(own.weights)))] if own.weights else []
    sys.path.insert(0, str(own.file.parent))  # it may import what lies next to it
    try:
        wanted = f"Python that runs, and a network from {own.function}({'weights' * len(given)})"
        with _refusing(own.file, wanted, "mend it, or install what it imports"):
            made = runpy.run_path(str(own.file), run_name=own.file.stem)
            known = [key for key, value in made.items() if callable(value)]
            require_known(own.function, known, str(own.file), "the name of a function in it")
            network = made[own.function](*given)
    finally:
        sys.path.remove(str(own.file.parent))
    if not isinstance(network, nn.Module):
        wanted, remedy = f"a torch.nn.Module from {own.function}", "return the module itself"
        raise InputError(own.file, wanted, type(network), remedy)
    return OwnNetwork(f"{own.file.name}:{own.function}", network, own.attention)


class _Attention(TorchFunctionMode):
    """Meets softmax and scaled_dot_product_attention while the parts of a network run."""

    def __init__(self, network: OwnNetwork, meet: Meet) -> None:
        super().__init__()
        self._network, self._meet = network, meet
        self._running: list[str] = []  # parts, the innermost last
        self._times: dict[str, int] = {}

    def enter(self, name: str, *_: object) -> None:
        if not self._running:  # a pass begins
            self._times = {}
        self._running.append(name)

    def leave(self, *_: object) -> None:
        self._running.pop()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in SOFTMAX:
            return self._softmax(func, *args, **kwargs)
        if func is F.scaled_dot_product_attention:
            return self._product(func, *args, **kwargs)
        if func is F.multi_head_attention_forward:  # inside, the mode is off
            softmax = partial(self._softmax, F.softmax)
            product = partial(self._product, F.scaled_dot_product_attention)
            with mock.patch.multiple(F, softmax=softmax, scaled_dot_product_attention=product):
                return func(*args, **kwargs)
        return func(*args, **kwargs)

    def _called(self, weights: Weights) -> Tensor | None:
        wanted, name = self._network.wanted, self._running[-1]
        if wanted and not wanted.intersection(self._running):
            return None
        times = self._times[name] = self._times.get(name, 0) + 1
        call = name if times == 1 else f"{name}#{times}"
        return None if call in self._network.ignored else self._meet(call, weights)

    def _softmax(self, func: Any, x: Tensor, dim: int | None = -1, *args: Any, **how: Any) -> Any:
        weights = func(x, dim, *args, **how)
        before = 1 if dim is None else weights.ndim - 1 - dim % weights.ndim
        if weights.ndim < 3 or before > 1:  # over channels (N, C, H, W)
            return weights
        rows = weights.mT if before else weights
        new = self._called(Weights(tuple(rows.shape), lambda at: rows[..., at, :]))
        return weights if new is None else new.mT if before else new

    def _product(
        self, func: Any, query: Tensor, key: Tensor, value: Tensor, *args: Any, **how: Any
    ) -> Tensor:
        out: Tensor = func(query, key, value, *args, **how)
        how |= zip(("attn_mask", "dropout_p", "is_causal"), args, strict=False)
        scale, attn_mask = how.get("scale") or query.shape[-1] ** -0.5, how.get("attn_mask")
        shape = (*query.shape[:-1], key.shape[-2])
        if how.get("is_causal"):
            attn_mask = torch.ones(shape[-2:], dtype=torch.bool, device=query.device).tril()

        def rows(at: Tensor | slice) -> Tensor:
            logits = query[..., at, :] @ key.mT * scale
            if attn_mask is not None:
                mask = attn_mask.expand(shape)[..., at, :]
                is_bool = mask.dtype == torch.bool
                logits = logits.masked_fill(~mask, -torch.inf) if is_bool else logits + mask
            return logits.softmax(-1)

        new = self._called(Weights(shape, rows))
        return out if new is None else new.to(value.dtype) @ value


@contextmanager
def _refusing(what: object, wanted: str, remedy: str) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{type(error).__name__}: {error}".splitlines()[0]
        place = f"{last.filename} line {last.lineno}"
        raise InputError(what, wanted, f"{text} ({place})", remedy) from error
