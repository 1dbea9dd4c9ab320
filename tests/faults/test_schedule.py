from tests.faults.faults import kinds_of
from tests.faults.schedule import LONG, MODELS, plan


def test_a_seed_always_gives_the_same_schedule_and_another_seed_another() -> None:
    draws = {name: kind.draw for name, kind in kinds_of("production").items()}
    assert plan(17, "production", draws, LONG) == plan(17, "production", draws, LONG)
    assert plan(17, "production", draws, LONG) != plan(18, "production", draws, LONG)
    assert plan(17, "production", draws, LONG) != plan(17, "embedded", draws, LONG)


def test_fifty_seeds_draw_every_kind_of_a_backend_and_keep_to_its_limits() -> None:
    for backend in ("embedded", "production"):
        draws = {name: kind.draw for name, kind in kinds_of(backend).items()}
        drawn = set()
        for seed in range(50):
            schedule = plan(seed, backend, draws, LONG)
            assert {one.model for one in schedule.submissions} == set(MODELS)
            assert sum(draws[one.kind].heavy for one in schedule.faults) <= LONG.heavy_max
            assert all(one.at <= LONG.window_seconds for one in schedule.faults)
            drawn |= {one.kind for one in schedule.faults}
        assert drawn == draws.keys()
