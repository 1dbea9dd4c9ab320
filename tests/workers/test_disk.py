import os
from pathlib import Path

from workers.disk import used_bytes

BLOCK = 64 * 1024


def test_a_folder_takes_what_is_written_in_it_and_below_each_file_once(tmp_path: Path) -> None:
    empty = used_bytes(tmp_path)
    (tmp_path / "a").write_bytes(b"x" * BLOCK)
    folder = tmp_path / "below"
    folder.mkdir()
    (folder / "b").write_bytes(b"x" * 2 * BLOCK)
    os.link(folder / "b", tmp_path / "another name")
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1000 * BLOCK)
    (tmp_path / "link").symlink_to("/")
    assert 3 * BLOCK <= used_bytes(tmp_path) - empty < 4 * BLOCK


def test_counting_stops_once_it_is_enough_and_a_folder_that_is_gone_takes_nothing(tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / str(number)).write_bytes(b"x" * BLOCK)
    assert 2 * BLOCK < used_bytes(tmp_path, enough_bytes=2 * BLOCK) <= 3 * BLOCK
    assert used_bytes(tmp_path / "gone") == 0
