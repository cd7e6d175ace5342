"""Keep freed memory in the process: what glibc does with large blocks costs a third of a pass.

A large block comes from the kernel as zeroed pages, one page fault for each 4 kB, and goes back
when it is freed, so that every layer of a network faults its activations in anew.
"""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of <malloc.h>
LARGEST = 2**31 - 1  # blocks from 2 GiB on come from the kernel and go back to it as before


def keep_freed_memory() -> bool:
    """Tell glibc to keep freed blocks for the next allocation; see mallopt(3).

    The process stays as large as it once was. Without glibc nothing changes.

    Returns
    -------
    bool
        Whether the C library took the settings.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all(mallopt(key, LARGEST) == 1 for key in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD))
