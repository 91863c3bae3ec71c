"""Names of unions: a device number that is used again names only the newest union."""

from __future__ import annotations

import os

from tests.conftest import Layers
from tests.rawoverlay import overlay
from tracer.news import MountRecord
from tracer.unions import Unions


def record(number: int, dev: tuple[int, int]) -> MountRecord:
    return MountRecord(number=number, dev=dev, pid=os.getpid(), metacopy=False, layers=())


def test_a_union_that_is_gone_does_not_keep_the_place_of_the_next(layers: Layers) -> None:
    """What mountinfo shows may be newer than the last announcement that was read."""
    unions = Unions()
    with overlay(layers.mnt, [layers.bottom], layers.top, layers.work, {}):
        number = os.stat(layers.mnt).st_dev
        device = (os.major(number), os.minor(number))
        # The first is gone already; the union mounted here now has its device number.
        unions.learn([record(1, device)])
        unions.look_for([1])
        unions.learn([record(2, device)])
        unions.look_for([1, 2])
        assert unions.name(2) == str(layers.mnt)
        assert unions.name(1) is None


def test_an_earlier_place_is_remembered_when_the_number_is_used_again(layers: Layers) -> None:
    unions = Unions()
    with overlay(layers.mnt, [layers.bottom], layers.top, layers.work, {}):
        number = os.stat(layers.mnt).st_dev
        device = (os.major(number), os.minor(number))
        unions.learn([record(1, device)])
    unions.learn([record(2, device)])
    assert unions.name(1) == str(layers.mnt)
    assert unions.name(2) is None
