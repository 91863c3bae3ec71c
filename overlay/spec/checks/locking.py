"""What the locking rules come to when seen from outside (L429–L447, L462–L469, L661–L664)."""

from __future__ import annotations

from overlay.spec.bench import Bench
from overlay.spec.checks import Observations, check


def _directories(b: Bench, *names: str) -> None:
    b.make(*(b.top.parent / name for name in names))


@check("locking.exactly-two")
def exactly_two(b: Bench) -> Observations:
    b.file("file")
    _directories(b, "second", "several")
    home = b.top.parent
    bottoms = (str(b.bottom), str(home / "second"))

    def mount() -> None:
        b.mount_bottoms(home / "several", bottoms, top=b.top, work=b.work)

    yield b.refuses("mounting over two bottoms", mount)


@check("locking.top-is-no-bottom")
def top_is_no_bottom(b: Bench) -> Observations:
    b.file("file")
    b.mount()
    _directories(b, "top2", "top2.work")
    home = b.top.parent
    yield b.refuses(
        "mounting another union whose bottom is this one's top",
        lambda: b.mount_union(
            b.mnt.parent / "above", bottom=b.top, top=home / "top2", work=home / "top2.work"
        ),
    )


@check("locking.bottom-is-no-top")
def bottom_is_no_top(b: Bench) -> Observations:
    b.file("file")
    b.mount()
    work = b.bottom.parent / "bottom.work"
    b.make(work)
    _directories(b, "bottom2")
    accepted = b.refuses(
        "mounting another union whose top is this one's bottom",
        lambda: b.mount_union(
            b.mnt.parent / "below", bottom=b.top.parent / "bottom2", top=b.bottom, work=work
        ),
    )
    yield accepted
    if not accepted.ok:
        b.bottom_became_a_top()
