import os
import shutil
from pathlib import Path

import pytest

from core.storage import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(f"file://{tmp_path / 'my store'}".replace(" ", "%20"))


def test_a_file_is_stored_whole_and_survives_the_source(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"weights")
    store.put(source, "jobs/job_1/a.ckpt")
    source.unlink()
    assert store.path("jobs/job_1/a.ckpt").read_bytes() == b"weights"
    assert [path.name for path in store.path("jobs/job_1").iterdir()] == ["a.ckpt"], "no draft is left"


def test_a_store_on_another_file_system_gets_a_copy(tmp_path: Path) -> None:
    shared_memory = Path("/dev/shm")
    if not shared_memory.is_dir() or shared_memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs a second file system: /dev/shm is not one here")
    folder = shared_memory / f"lightyard-test-{os.getpid()}"
    store = Store(f"file://{folder}")
    source = tmp_path / "source"
    source.write_bytes(b"weights")
    try:
        store.put(source, "a/b.ckpt")
        assert store.path("a/b.ckpt").read_bytes() == b"weights"
    finally:
        shutil.rmtree(folder)


def test_a_failed_put_leaves_nothing(store: Store, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        store.put(tmp_path / "missing", "a/b.ckpt")
    assert list(store.path("a").iterdir()) == []


@pytest.mark.parametrize("key", ["../outside", "/etc/passwd", "a/../../outside"])
def test_a_key_never_leads_outside(store: Store, key: str) -> None:
    with pytest.raises(ValueError, match="outside"):
        store.path(key)


def test_deleting_what_is_gone_is_no_error(store: Store) -> None:
    store.delete("never/there")
    store.delete_all("never")


def test_a_store_that_has_gone_away_is_not_made_anew_in_its_place(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"weights")
    store.put(source, "a/b.ckpt")
    elsewhere = store.root.rename(tmp_path / "elsewhere")
    for folder_is_there in (False, True):  # as when the mount point is left
        if folder_is_there:
            store.root.mkdir()
        for change in (
            lambda: store.put(source, "a/c.ckpt"),
            lambda: store.delete("a/b.ckpt"),
            lambda: store.delete_all("a"),
            lambda: store.renew("a/b.ckpt"),
            lambda: store.folders("a"),
        ):
            with pytest.raises(FileNotFoundError, match="away"):
                change()
        assert not store.is_there
    assert list(store.root.iterdir()) == []
    store.root.rmdir()
    elsewhere.rename(store.root)
    store.put(source, "a/c.ckpt")
    assert store.is_there
    assert store.path("a/b.ckpt").read_bytes() == b"weights"


def test_a_store_never_made_is_made_by_the_first_file_that_comes(store: Store, tmp_path: Path) -> None:
    assert not store.is_there
    assert store.folders("jobs") == []
    (tmp_path / "source").write_bytes(b"weights")
    store.put(tmp_path / "source", "a/b.ckpt")
    assert store.is_there
    assert Store(f"file://{store.root}").is_there, "another process knows it too"


def test_a_stored_file_counts_as_young_however_old_its_source(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"weights")
    os.utime(source, (0, 0))
    store.put(source, "a/b.ckpt")
    (found,) = store.files("a")
    assert (found.key, found.is_draft) == ("a/b.ckpt", False)
    assert found.age_seconds < 60
    assert store.renew("a/b.ckpt")
    assert not store.renew("a/c.ckpt")


@pytest.mark.parametrize("url", ["s3://bucket/x", "/plain/path", "file://host/share"])
def test_an_address_that_is_no_local_folder_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="LIGHTYARD_STORAGE_URL"):
        Store(url)
