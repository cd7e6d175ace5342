"""Every network of the family: `create` one, or `load` one from the zoo or a checkpoint."""

import ctypes
import sys

from dtfn.models.checkpoints import import_weights, load, save, start_from
from dtfn.models.networks import Network, create, register

__all__ = ["Network", "create", "import_weights", "load", "register", "save", "start_from"]

# glibc shall keep freed blocks for the next allocation: networks run up to 1.5 times as fast. Else
# a large block comes from the kernel as zeroed pages and goes back when it is freed, so that every
# layer faults its activations in anew. The process stays as large as it once was.
if sys.platform == "linux" and hasattr(ctypes.CDLL(None), "mallopt"):
    for _key in (-3, -1):  # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of <malloc.h>
        ctypes.CDLL(None).mallopt(_key, 2**31 - 1)
