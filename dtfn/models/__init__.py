"""Every network of the family: `create` one, or `load` one from the zoo or a checkpoint."""

from dtfn.models.checkpoints import inspect, load, load_weights, replace_upsampler, save
from dtfn.models.networks import Network, create, known_names

__all__ = [
    "Network",
    "create",
    "inspect",
    "known_names",
    "load",
    "load_weights",
    "replace_upsampler",
    "save",
]
