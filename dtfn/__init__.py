"""dtfn: where non-local attention harms textures in single-image super-resolution.

Every module is imported when it is first used: ``import dtfn; dtfn.images.read("a.png")``.
"""

import importlib
import pkgutil
from types import ModuleType

__version__ = "0.1.0"
__all__ = sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def __getattr__(name: str) -> ModuleType:
    """Import a module of the package by its name."""
    if name not in __all__:
        raise AttributeError(f"module 'dtfn' has no attribute {name!r}")
    return importlib.import_module(f"dtfn.{name}")


def __dir__() -> list[str]:
    """Return the public names."""
    return ["__version__", *__all__]
