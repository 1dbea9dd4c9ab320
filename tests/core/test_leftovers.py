"""What lies in the store without a row."""

from collections.abc import Callable
from pathlib import Path

import pytest

from core import leftovers
from core.checkpoints import Artifact, Artifacts, Checkpoint, Checkpoints
from core.claims import Claim
from core.database import Database
from core.ids import new_id
from core.job import Job
from core.leftovers import Leftovers
from core.storage import Store, job_prefix


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(f"file://{tmp_path}/store")


@pytest.fixture
def running(submit: Callable[..., Job], worker: Callable[..., str], claim: Callable[..., Claim]) -> Claim:
    submit()
    return claim(worker("cpu:0"))


def put(store: Store, key: str) -> str:
    source = store.root.with_name("source")
    source.write_bytes(b"data")
    store.put(source, key)
    return key


def publish(database: Database, held: Claim, checkpoint_key: str, artifact_key: str) -> None:
    at = held.job.created_at
    saved = Checkpoint(
        new_id("ckpt"), held.job.id, 1, "recovery", "r", 1, 0, {}, 4, "0" * 64, checkpoint_key, False, at
    )
    Checkpoints(database).publish(held.token, saved)
    left = Artifact(new_id("art"), held.job.id, 1, "a.txt", "text/plain", 4, "0" * 64, artifact_key, at)
    Artifacts(database).publish(held.token, left)


def test_old_files_without_a_row_go_and_all_others_stay(database: Database, store: Store, running: Claim) -> None:
    prefix = job_prefix(running.job.id)
    kept = [put(store, f"{prefix}/checkpoints/a.ckpt"), put(store, f"{prefix}/artifacts/b")]
    lost = [put(store, f"{prefix}/checkpoints/c.ckpt"), put(store, f"{prefix}/artifacts/d")]
    draft = put(store, f"{prefix}/checkpoints/.put_e")
    gone = put(store, f"{job_prefix(new_id('job'))}/checkpoints/f.ckpt")
    publish(database, running, *kept)
    assert Leftovers(database, store).sweep() == 0, "all are young: each may be an upload whose row is being made"
    assert Leftovers(database, store, older_than_seconds=0.0).sweep() == 3
    assert all(store.path(key).exists() for key in [*kept, draft])
    assert not any(store.path(key).exists() for key in [*lost, gone])
    assert not store.path(gone).parent.parent.exists(), "nothing is left of a job that is gone"
    assert Leftovers(database, store, drafts_older_than_seconds=0.0).sweep() == 1
    assert not store.path(draft).exists()


def test_the_files_of_a_database_that_knows_none_of_them_are_let_be(
    database: Database, store: Store, submit: Callable[..., Job]
) -> None:
    submit()
    key = put(store, f"{job_prefix(new_id('job'))}/checkpoints/a.ckpt")
    assert Leftovers(database, store, older_than_seconds=0.0).sweep() == 0
    assert store.path(key).exists()


def test_a_pass_is_limited_and_the_next_goes_on_behind_it_round_and_round(
    database: Database, store: Store, running: Claim, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leftovers, "FOLDERS_PER_PASS", 2)
    put(store, f"{job_prefix(running.job.id)}/checkpoints/a.ckpt")
    for _ in range(4):
        put(store, f"{job_prefix(new_id('job'))}/checkpoints/a.ckpt")
    sweeping = Leftovers(database, store, older_than_seconds=0.0)
    passes = [sweeping.sweep() for _ in range(3)]
    assert max(passes) == 2
    assert sum(passes) == 5
    put(store, f"{job_prefix(running.job.id)}/checkpoints/b.ckpt")
    assert sum(sweeping.sweep() for _ in range(2)) == 1


def test_a_store_that_is_away_or_was_never_made_is_not_swept(
    database: Database, store: Store, running: Claim, tmp_path: Path
) -> None:
    sweeping = Leftovers(database, store, older_than_seconds=0.0)
    assert sweeping.sweep() == 0
    put(store, f"{job_prefix(running.job.id)}/checkpoints/a.ckpt")
    store.root.rename(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="away"):
        sweeping.sweep()
