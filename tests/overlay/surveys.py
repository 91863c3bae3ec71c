"""The overlays of one test: the machine may have others, as a container has for its root."""

from __future__ import annotations

from pathlib import Path

from overlay import status
from tests.conftest import Layers

__all__ = ["survey"]


def survey(layers: Layers, *more: Path) -> list[status.OverlayStatus]:
    """What ``status.survey`` tells of overlays below ``layers.base`` and ``more``."""
    places = tuple(str(place) for place in (layers.base, *more))
    return [each for each in status.survey() if each.mount.mount_point.startswith(places)]
