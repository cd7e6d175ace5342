"""Every network of the family: `create` one, or `load` one from the zoo or a checkpoint.

Weights are our own, or checkpoints of the authors, which are known by the names in them.
"""

import ctypes
import json
import re
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save as serialised
from torch import Tensor

from dtfn import files, paths, recipes, zoo
from dtfn.errors import InputError
from dtfn.models.layers import Fusion, TextureFidelity
from dtfn.models.networks import NETWORKS, RGB_MEAN, Network, create, register

__all__ = ["Network", "create", "import_weights", "load", "register", "save", "start_from"]

# glibc shall keep freed blocks: networks run up to 1.5 times as fast. Else the pages of each large
# block come from the kernel anew. The process stays as large as it once was.
if sys.platform == "linux" and hasattr(ctypes.CDLL(None), "mallopt"):
    for _key in (-3, -1):  # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of <malloc.h>
        ctypes.CDLL(None).mallopt(_key, 2**31 - 1)

# What training frameworks put around the weights; the averaged ones are the better ones.
WRAPPERS = ("params_ema", "params", "state_dict", "model_state_dict", "model")
PREFIX = re.compile(r"^(module\.|model\.|_orig_mod\.)+")  # DataParallel, EDSR, torch.compile
# Constants of the mean colour, and a scalar that the authors' networks never read.
IGNORED = re.compile(r"(sub|add)_mean\..*|a")
# (body, what only the attention has: the first counts) -> network. The body tells NLN from HSPAN.
NAMES = {
    ("groups", "conv_assembly.offset_conv"): "dtfn",
    ("groups", "fc.0"): "dlsn",
    ("groups", "conv_match1.0"): "hspan",
    ("chain", "conv_match1.0"): "nln",
    ("chain", "conv_match.0"): "nlsn",
    ("chain", ""): "edsr",
}


def save(network: Network, file: Path, **notes: Any) -> None:
    """Write weights as safetensors, with what builds the network again and JSON-able notes."""
    state = {key: value.contiguous() for key, value in network.state_dict().items()}
    build = {key: getattr(network, key) for key in ("name", "scale", "hyperparameters")}
    # safetensors stores several keys in random order, and reports a full disk as no OSError.
    files.write(file, serialised(state, {"build": json.dumps(build | {"notes": notes})}))


def load(name_or_file: str | Path, hash_seed: int | None = 0, **hyperparameters: Any) -> Network:
    """Return a trained network in evaluation mode.

    It is a name of the zoo (see ``dtfn zoo list``), a file written by `save`, or a checkpoint of
    EDSR, NLN, NLSN, DLSN, HSPAN or DTFN (``.pt``, ``.pth``, ``.safetensors``). A file that is not
    there, holds more than tensors or does not fit one network exactly is an `InputError`. The
    hyperparameters are what the weights do not show (``res_scale``, ``n_hashes``, ``topk``, the
    ``chunk_size`` of NLSN, ``rgb_range`` where there is no mean shift): by default the recorded
    values, or else the authors', which the attribute ``assumed`` names.
    """
    file = zoo.file_of(str(name_or_file))
    state, build = _read(file)
    given = {key: value for key, value in state.items() if not IGNORED.fullmatch(key)}
    wanted = f"weights of {', '.join(NAMES.values())}, named as in the authors' code"
    try:
        known = _recognised(state) if build is None else build
        name, scale, shown = known["name"], known["scale"], known["hyperparameters"]
        if max(shown["n_resblocks"], shown.get("n_resgroups", 0)) > len(given):
            raise ValueError("more blocks than weights")
        # EDSR was trained with 255 by its authors and with 1 by others, the rest with 1 by all.
        white = shown.get("rgb_range", hyperparameters.get("rgb_range"))
        if name == "edsr" and white is None:
            remedy = f"dtfn weights import {file} -p rgb_range=255, or load(file, rgb_range=255.0)"
            raise InputError("rgb_range", "a sub_mean, which shows it", "none: 255 or 1", remedy)
        if hyperparameters.get("rgb_range", white) != white:
            raise ValueError(f"rgb_range is {white} in the weights")
        wanted = f"weights of {name} x{scale} with {shown | hyperparameters}"
        with torch.device("meta"):  # a damaged file must not fill the memory
            network = create(name, scale, hash_seed, **shown | hyperparameters)
        exact = {key: value.to(torch.float32, copy=True) for key, value in given.items()}
        network.load_state_dict(exact, assign=True)
        if odd := [key for key, value in exact.items() if not value.isfinite().all()]:
            raise ValueError(f"NaN or infinity in {odd[0]}")
    except InputError as error:
        error.args = (f"{file}: {error}",)
        raise
    except Exception as error:  # missing, unexpected and mis-shaped weights among them
        said = " ".join(f"{'no ' * isinstance(error, LookupError)}{error}".split())[:500]
        found = f"{len(given)} tensors: {', '.join(sorted(given)[:4]) or 'nothing'}; {said}"
        remedy = "pass the state_dict of one of these networks, or a file of dtfn.models.save"
        raise InputError(file, wanted, found, remedy) from error
    if build is None:
        seen = (shown.keys() - {"res_scale"}) | hyperparameters.keys()
        network.assumed = sorted(network.hyperparameters.keys() - seen)
    return network.eval()


def import_weights(
    file: Path,
    name: str | None = None,
    hyperparameters: Mapping[str, str] | None = None,
    replace: bool = False,
) -> zoo.Entry:
    """Import a checkpoint: its name stands for it everywhere. Return its `dtfn.zoo.imported` entry.

    It must load strictly and run on a small image. Arguments are as for `load`, the hyperparameters
    as text; the ``name``, by default ``<network>-x<scale>``, stands for other weights only to
    ``replace`` them.
    """
    try:
        values = {key: json.loads(text) for key, text in (hyperparameters or {}).items()}
    except ValueError as error:
        raise InputError("hyperparameters", "numbers", hyperparameters, "mend them") from error
    file = zoo.file_of(str(file))
    network = load(file, **values)
    name = name or f"{network.name}-x{network.scale}"
    taken = {"bicubic", *(row["name"] for row in zoo.registry())}
    if name in taken or Path(name).name != name or Path(name).suffix in zoo.SUFFIXES:
        raise InputError("--name", "a plain word that no method has", repr(name), "choose another")
    known, (_, full) = network.hyperparameters, NETWORKS.get(network.name, (None, {}))
    sizes = ("n_feats", "n_resblocks", "n_resgroups")
    source = {"source": file.name, "source_sha256": files.sha256(file)}
    stored = paths.WEIGHTS / f"{name}.safetensors"
    made: dict[str, Any] = {
        **{"name": name, "network": network.name, "scale": network.scale, "file": stored.name},
        "parameters": sum(weight.numel() for weight in network.parameters()),
        "full_size": bool(full) and all(full.get(key) == known.get(key) for key in sizes),
        **{"hyperparameters": known, "assumed": network.assumed, **source},
    }
    before = next((row for row in zoo.imported() if row["name"] == name and stored.is_file()), None)
    if before and all(before[key] == made[key] for key in ("source_sha256", "hyperparameters")):
        return before
    if before and not replace:
        remedy = "choose another with --name, or pass --replace"
        raise InputError(f"weights {name!r}", "a name that is free", before["source"], remedy)
    x = torch.rand(1, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        if not network(x).isfinite().all():
            remedy = "mend a hyperparameter that they do not show, or fetch the weights again"
            raise InputError(file, "a finite output", "NaN or infinity", remedy)
    save(network, stored, **source)
    made["sha256"] = files.sha256(stored)
    zoo.record(paths.WEIGHTS, made)
    return made


def start_from(network: Network, begin: Network) -> None:
    """Give a fresh network the weights of another, in place.

    It may have another scale: then the upsampler stays fresh, as where the authors train x3 and x4
    on from x2. Or it has no TFS: then TFS at first changes nothing. Else it is an `InputError`.
    """
    state, own = begin.state_dict(), network.state_dict()
    fresh: tuple[str, ...] = () if network.scale == begin.scale else ("tail.0.",)
    if begin.name == (plain := recipes.without_tfs(network.name)) != network.name:
        for place, layer in network.named_modules():
            if isinstance(layer, Fusion):
                layer.begin_as_attention()
                fresh += (f"{place}.fusion.", f"{place}.shrink.")
            if isinstance(layer, TextureFidelity):
                for key in [key for key in state if key.startswith(f"{place}.")]:
                    state[key.replace(place, f"{place}.attention", 1)] = state.pop(key)
    kept = {key: value for key, value in state.items() if not key.startswith(fresh)}
    kept |= {key: value for key, value in own.items() if key.startswith(fresh)}
    shapes = {key: value.shape for key, value in kept.items()}
    fits = shapes == {key: value.shape for key, value in own.items()}
    if not fits or begin.name not in (network.name, plain):
        wanted = f"weights that fit {network.name}, {network.hyperparameters}"
        found, remedy = f"{begin.name}, {begin.hyperparameters}", "choose a start of the same size"
        raise InputError("start", wanted, found, remedy)
    network.load_state_dict(kept)


def _read(file: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    content: Any
    build = None
    try:
        if file.suffix.lower() == ".safetensors":
            with safe_open(file, "pt") as opened:
                build = json.loads((opened.metadata() or {}).get("build", "null"))
                content = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
        else:
            with warnings.catch_warnings(action="ignore"):  # about pickles that it then refuses
                content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # the libraries raise whatever a broken file leads them to
        # torch goes on to advise reading the file unchecked, which may run any code in it.
        found = f"{type(error).__name__}: {str(error).partition('. ')[0].partition(chr(10))[0]}"
        begins = file.read_bytes()[:60].lstrip()
        if begins.startswith((b"<", b"version https://git-lfs")):  # a page of an error, a pointer
            found = f"no weights but {begins.splitlines()[0].decode(errors='replace')!r}"
        remedy = "fetch it again (`git lfs pull`), or save a state_dict() where it was trained"
        raise InputError(file, "weights, and nothing but tensors", found, remedy) from error
    content = content if isinstance(content, Mapping) else {type(content).__name__: None}
    while inner := [content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)]:
        content = inner[0]
    # torch's AveragedModel counts the averaged states next to the weights.
    state = {PREFIX.sub("", str(key)): content[key] for key in content if key != "n_averaged"}
    if not all(isinstance(v, Tensor) and v.is_floating_point() for v in state.values()):
        remedy = "save a state_dict(); of a run of `dtfn train` name the weights.safetensors"
        raise InputError(file, "a state dict of real numbers", ", ".join(state)[:200], remedy)
    return state, build


def _recognised(state: dict[str, Tensor]) -> dict[str, Any]:
    """Return what `save` writes of a network, with the hyperparameters that its weights show."""
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    if "tail.0.weight" in shapes:
        raise ValueError("a mini network, whose name only a file of dtfn.models.save knows")
    found = [re.fullmatch(r"body\.(\d+)(?:\.body\.(\d+))?\.body\.0\.weight", key) for key in shapes]
    groups = {block[1] for block in found if block and block[2]}
    blocks = {block[2] or block[1] for block in found if block and bool(block[2]) == bool(groups)}
    # The first attention, perhaps inside of TFS.
    inside = re.compile(r"(body\.\d+(?:\.body\.\d+)?(?:\.attention)?\.)conv_match1?\.0\.weight")
    layer = next((m for key in shapes if (m := inside.fullmatch(key))), None)
    place = layer[1] if layer else ""
    kind = next((sign for _, sign in NAMES if f"{place}{sign}.weight" in shapes), "")
    if ("groups" if groups else "chain", kind) not in NAMES:
        raise ValueError("another body or attention")
    name = NAMES["groups" if groups else "chain", kind]
    growth, n_feats = shapes["tail.0.0.weight"][:2]
    factor = {4: 2, 9: 3}[growth // n_feats]
    shown: dict[str, Any] = {"n_feats": n_feats, "n_resblocks": len(blocks)}
    if groups:
        shown["n_resgroups"] = len(groups)
    if layer:
        shown["reduction"] = n_feats // shapes[layer.string][0]
    if f"{place}fc.0.weight" in shapes:
        shown["chunk_size"] = shapes[f"{place}fc.0.weight"][0]
    if "sub_mean.bias" in state:
        mean, bias = torch.tensor(RGB_MEAN), state["sub_mean.bias"].float()  # rounded, if half
        white = next((w for w in (1.0, 255.0) if torch.allclose(-bias, w * mean, 5e-3)), None)
        weight = state.get("sub_mean.weight", torch.eye(3)).float().view(3, 3)
        if white is None or not torch.equal(weight, torch.eye(3)):
            raise ValueError(f"a sub_mean other than the mean colour of DIV2K: {bias.tolist()}")
        shown["rgb_range"] = white
    if name == "edsr" and n_feats == 64:
        shown["res_scale"] = 1.0  # EDSR's baseline adds its residuals unscaled
    scale = 4 if "tail.0.2.weight" in shapes else factor
    name += "+tfs" * place.endswith(".attention.")
    return {"name": name, "scale": scale, "hyperparameters": shown}
