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

from overlay.spec.fuzz.steps import OPERATIONS, SWAP, USERS, Step
from tests.overlay.model import Model, Unannounced, case_of
from tests.overlay.model_soak import numbered, run_case
from tests.strategies import arguments_of

#: Not more than fits in the time of a test; model_soak runs for as long as one likes.
QUICK = settings(
    max_examples=12,
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


class SideBySide(RuleBasedStateMachine):
    """One rule for each operation; Model.run compares."""

    base: Path
    serial = itertools.count()

    def __init__(self) -> None:
        super().__init__()
        self.session: Model | None = None

    @initialize(seed=st.integers(0, 1000), directory_copyup=st.booleans())
    def start(self, seed: int, directory_copyup: bool) -> None:
        self.directory = self.base / str(next(self.serial))
        self.directory.mkdir()
        choose = random.Random(seed).choice
        self.session = Model(self.directory, case_of(choose, directory_copyup=directory_copyup))
        self.session.open()

    def teardown(self) -> None:
        if self.session is not None:
            try:
                self.session.run(SWAP)
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
    _, found = run_case(tmpfs_dir / "session", numbered(seed, 250))
    assert found is None, found


def test_a_difference_is_noticed(tmpfs_dir: Path) -> None:
    """The comparison is worth something only if it can fail."""
    base = tmpfs_dir / "session"
    base.mkdir()
    model = Model(base, case_of(random.Random(1).choice, directory_copyup=False))
    try:
        model.open()
        (base / "tops" / "other" / "intruder").touch()
        with pytest.raises(Unannounced, match="intruder"):
            model.run(Step("root", "stat", (".", True)))
    finally:
        model.close()
