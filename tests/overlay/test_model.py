"""The engine against the kernel: random scripts on both, compared after every step."""

from __future__ import annotations

import itertools
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from tests.overlay.model import Session
from tests.overlay.model_soak import run_script, script_of
from tests.strategies import OPERATIONS, USERS, Step, arguments_of

#: Not more than fits in the time of a test; model_soak runs for as long as one likes.
QUICK = settings(
    max_examples=12,
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


class SideBySide(RuleBasedStateMachine):
    """One rule for each operation; Session.run compares."""

    base: Path
    serial = itertools.count()

    def __init__(self) -> None:
        super().__init__()
        self.session: Session | None = None

    @initialize(seed=st.integers(0, 1000), directory_copyup=st.booleans())
    def start(self, seed: int, directory_copyup: bool) -> None:
        self.directory = self.base / str(next(self.serial))
        self.directory.mkdir()
        choose = random.Random(seed).choice
        self.session = Session(self.directory, choose, directory_copyup=directory_copyup)

    def teardown(self) -> None:
        if self.session is not None:
            try:
                self.session.swap()
            finally:
                self.session.close()
                shutil.rmtree(self.directory)


def _rule_for(operation: str) -> Any:
    def run(self: SideBySide, user: str, arguments: tuple[Any, ...]) -> None:
        assert self.session is not None
        self.session.run(Step(user, operation, arguments))

    run.__name__ = operation
    return rule(user=st.sampled_from(sorted(USERS)), arguments=arguments_of(operation))(run)


for _operation in OPERATIONS:
    setattr(SideBySide, f"do_{_operation}", _rule_for(_operation))


def test_every_call_agrees_with_the_kernel(tmpfs_dir: Path) -> None:
    SideBySide.base = tmpfs_dir
    run_state_machine_as_test(SideBySide, settings=QUICK)


@pytest.mark.parametrize("seed", range(6))
def test_scripts_agree_with_the_kernel(tmpfs_dir: Path, seed: int) -> None:
    """The first seeds of the soak, half of them with directory copyup."""
    _, mismatch = run_script(tmpfs_dir / "session", seed, script_of(seed, 250))
    assert mismatch is None, mismatch


def test_a_difference_is_noticed(tmpfs_dir: Path) -> None:
    """The comparison is worth something only if it can fail."""
    base = tmpfs_dir / "session"
    base.mkdir()
    session = Session(base, random.Random(1).choice, directory_copyup=False)
    try:
        (base / "engine" / "intruder").touch()
        with pytest.raises(AssertionError, match="intruder"):
            session.compare_trees()
    finally:
        session.close()
