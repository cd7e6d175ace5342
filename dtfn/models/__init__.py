"""Every network of the family: `create` one, or `load` one from the zoo or a checkpoint."""

from dtfn.models.checkpoints import load, save
from dtfn.models.networks import Network, create, known_names

__all__ = ["Network", "create", "known_names", "load", "save"]
