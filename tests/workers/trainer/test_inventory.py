from core.precision import why_lacking
from workers.trainer.inventory import gpus, tpus, versions


def test_the_versions_that_decide_what_runs_are_announced_where_they_are_installed() -> None:
    told = versions()
    assert {"python", "torch", "pytorch_lightning"} <= told.keys()
    assert "torch_xla" not in told, "it is not installed here"


def test_a_machine_without_accelerators_has_none_and_no_error() -> None:
    assert tpus() == []
    for gpu in gpus():  # where there are some, they say what decides on precisions
        assert "." in gpu["compute_capability"]
        assert why_lacking("32-true", gpu, versions()) is None
