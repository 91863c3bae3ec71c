"""Writable overlays: the 2010 document's semantics on today's Linux overlayfs."""

__version__ = "0.1.0"
