from core.states import FINAL, TRANSITIONS, Status, allowed_actions, sources


def test_every_status_has_its_row_and_the_last_three_are_final() -> None:
    assert set(TRANSITIONS) == set(Status)
    assert {Status.SUCCEEDED, Status.FAILED, Status.CANCELLED} == FINAL


def test_sources_are_the_transitions_read_backwards() -> None:
    for target in Status:
        assert sources(target) == {status for status in Status if target in TRANSITIONS[status]}


def test_every_status_can_be_reached_and_left_unless_final() -> None:
    for status in Status:
        assert sources(status), f"nothing leads to {status}"
        assert bool(TRANSITIONS[status]) == (status not in FINAL)
        assert ("cancel" in allowed_actions(status)) == (status not in FINAL)
        assert ("delete" in allowed_actions(status)) == (status in FINAL)
        assert ("pause" in allowed_actions(status)) == (Status.PAUSED in TRANSITIONS[status])
        assert ("checkpoints" in allowed_actions(status)) == (status is Status.RUNNING)
        assert ("resume" in allowed_actions(status)) == (status is Status.PAUSED)
