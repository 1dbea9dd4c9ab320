"""A warm fork server for the tests' own modules, and runs that several tests compare others with."""

import os
from collections.abc import Callable, Iterator

import pytest

from tests.workers.trainer.runs import MODULES, ROOT, USER_CODE, Case, train
from workers.forkserver import warm
from workers.rundir import RunDir


@pytest.fixture(scope="session")
def warm_fork_server() -> Iterator[None]:
    """Trainers are forked from a process that has imported all there is, and find `tests/user_code`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(USER_CODE))
        with pytest.MonkeyPatch.context() as only_then:  # for what is started later it would be one setting too many
            only_then.setenv("LIGHTYARD_CATALOG_MODULES", ",".join(MODULES))
            only_then.setenv("PYTHONPATH", os.pathsep.join([str(USER_CODE), str(ROOT)]))
            warm()
        yield


@pytest.fixture(scope="session")
def undisturbed(warm_fork_server: None, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Case], RunDir]:
    """A case's run from beginning to end, with a recovery checkpoint at every place; made once."""
    made: dict[str, RunDir] = {}

    def run(case: Case) -> RunDir:
        if repr(case) not in made:
            made[repr(case)] = train(tmp_path_factory.mktemp("undisturbed"), case)
            outcome = made[repr(case)].read_outcome()
            assert outcome is not None
            assert outcome.status == "succeeded", outcome.traceback
        return made[repr(case)]

    return run
