"""dtfn: where non-local attention harms textures in single-image super-resolution."""

__version__ = "0.1.0"
