"""Disks that are full, a store that is away, and files that were half written when something died."""

import contextlib
import os
from pathlib import Path

from core.ids import new_id
from tests.faults.faults import Fault, Ground, Hit, NotNow
from tests.faults.kills import jobs_of, kill
from tests.faults.schedule import Draw
from tests.faults.world import SMALL_DISK

CHUNK_BYTES = 2**20
HALF_LINE = b'{"is":"metrics","at":1700000000.0,"step":3,"epo'
JUNK = [
    b"\0\xff\xfe not a record",
    HALF_LINE,
    b'{"is":"metrics","at":1700000000.0,"step":"three","epoch":0,"values":{"loss":0.5}}',
    b'{"is":"checkpoint","at":1700000000.0,"file":"../../job.json","name":"/etc/passwd","kind":"recovery","step":1}',
    b"[]",
    b"",
]


class DiskFull(Fault):
    """The disk with a worker's home is full: really, down to the last block."""

    kind = "disk_full"
    draw = Draw(1.2, (0.5, 3.0))
    costs = True

    def inject(self, ground: Ground) -> Hit:
        world = ground.world
        if world.small_disk is not None:
            raise NotNow(world.small_disk)
        # A mount belongs to the thread that made it and to what comes of it; without it, this would fill the machine's.
        assert (world.folder / SMALL_DISK).is_mount(), "the small disk is not mounted for this thread"
        filler = world.folder / SMALL_DISK / "filler"
        hit = Hit(SMALL_DISK, jobs_of(world.trainers(SMALL_DISK)), frozenset({SMALL_DISK}), {"filler": filler})
        _fill(filler)
        return hit

    def heal(self, ground: Ground, hit: Hit) -> None:
        hit.state["filler"].unlink(missing_ok=True)


class StoreAway(Fault):
    """Nothing can be stored or read: in the store's place stands something else."""

    kind = "store_away"
    draw = Draw(1.0, (0.3, 4.0))

    def inject(self, ground: Ground) -> Hit:
        store = ground.world.store
        if not store.is_dir():
            raise NotNow("there is no store yet, or it is away already")
        away = store.with_name("store-away")
        store.rename(away)
        store.touch()
        return Hit("store", state={"away": away})

    def heal(self, ground: Ground, hit: Hit) -> None:
        store = ground.world.store
        store.unlink()
        hit.state["away"].rename(store)


class SpoolJunk(Fault):
    """Lines that no trainer of ours writes appear in a spool."""

    kind = "spool_junk"
    draw = Draw(0.7)

    def inject(self, ground: Ground) -> Hit:
        found = ((one, ground.world.run_directory(one)) for one in ground.world.trainers())
        trainer, run = self.pick([(one, run) for one, run in found if run is not None], "no trainer")
        _append(run / "spool", b"\n".join([*JUNK, b""]))
        return Hit(f"spool of {trainer.job_id}", frozenset({trainer.job_id}))


class TornWrites(Fault):
    """kill -9 of a trainer in the middle of its writes: half a line ends its spool, half a checkpoint lies about."""

    kind = "torn_writes"
    draw = Draw(1.0)
    kills = costs = True

    def inject(self, ground: Ground) -> Hit:
        found = ((one, ground.world.run_directory(one)) for one in ground.world.trainers())
        trainer, run = self.pick([(one, run) for one, run in found if run is not None], "no trainer")
        hit = Hit(f"trainer of {trainer.job_id} on {trainer.worker}", frozenset({trainer.job_id}))
        kill(trainer.process)
        with contextlib.suppress(NotNow, OSError):  # a disk that is full takes none of it
            _append(run / "spool", HALF_LINE)
            for draft in (run / ".recovery-step=1.ckpt.draft", run / "checkpoints" / ".last.ckpt.draft"):
                draft.write_bytes(b"PK\x03\x04 half of a checkpoint")
        return hit


class StrayFiles(Fault):
    """What a worker leaves that dies while it stores a file: half a draft, and a whole file that no row knows."""

    kind = "stray_files"
    draw = Draw(0.7)

    def inject(self, ground: Ground) -> Hit:
        folders = [ground.world.store / "jobs" / job_id / "checkpoints" for job_id in ground.unended()]
        folder = self.pick([folder for folder in folders if folder.is_dir()], "no job with a checkpoint")
        (folder / f".{new_id('put')}").write_bytes(b"PK\x03\x04 half of a checkpoint")
        (folder / f"{new_id('ckpt')}.ckpt").write_bytes(b"PK\x03\x04 a whole file, let us say")
        return Hit(str(folder))


def _append(path: Path, data: bytes) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
    except FileNotFoundError as error:
        raise NotNow("its run directory is gone") from error
    try:
        os.write(descriptor, data)
    except OSError as error:
        raise NotNow("its disk is full") from error
    finally:
        os.close(descriptor)


def _fill(filler: Path) -> None:
    """Write until nothing more fits."""
    size = CHUNK_BYTES
    with filler.open("ab", buffering=0) as file:
        while size:
            try:
                file.write(bytes(size))
            except OSError:
                size //= 2


KINDS = [DiskFull, StoreAway, SpoolJunk, TornWrites, StrayFiles]
