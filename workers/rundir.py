"""The run directory: all that a supervisor and its trainer share. The trainer sees nothing else of Lightyard.

job.json      in: what to run (`Order`)
control       in: what the trainer is asked to do between two steps (`Control`); not there: nothing
spool         out: one JSON object a line, in order: events, phases, metrics, checkpoints, artifacts
progress      out: a few numbers, rewritten in place every step
trainer.log   out: standard output and error of the first rank here; trainer.1.log, … of the others
rendezvous    where the ranks meet, where there are several: out on the first machine, in on the others
outbox/       out: finished checkpoint files, and files that were logged, which the supervisor takes
uploads/      the supervisor's: files that wait to be stored
checkpoints/  the run's own: where ModelCheckpoint keeps its files
artifacts/    out: whatever else the run leaves; taken when it has ended
resume.ckpt   in: the recovery checkpoint to go on from, where there is one
start.ckpt    in: the checkpoint from which the job starts, where it names one and there is no other to go on from
weights.ckpt  in: the checkpoint whose weights it starts with, likewise
outcome.json  out: how it ended, written last
ended         the supervisor's mark that nobody needs the directory any more
lock          locked by the supervisor as long as it lives
reserve       room for the outcome on a disk that is full: the trainer removes it to write its last words
"""

import fcntl
import json
import os
import re
import shutil
import struct
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from workers.statements import StatementError, read_reason_data, storable_text

PROGRESS = struct.Struct("<Qdqqqqq")
"""Sequence (odd while being written), unix time, epoch, global_step, batches seen, steps and batches in all (-1: not
known)."""


RESERVE_BYTES = 128 * 1024
CONFIG, RUN = "config", "run"
"""What a worker tells a trainer that stands by: the config that its run will probably have; its run directory."""
EXACT, PLAIN = "exact", "plain"
"""How a job goes on from a checkpoint of another: with its random numbers and its place in the data, or without."""
OUTCOMES = frozenset({"succeeded", "failed", "stopped", "lost"})


@dataclass(frozen=True, slots=True)
class Order:
    """What a trainer is to run. `devices` as claimed, e.g. `["gpu:2"]`; one rank each.

    `threads` is the most that torch may use in a rank; 0: as many as it would by hand. `resume`: go on from the
    recovery checkpoint in the directory. `seed_by_index`: randomness inside DataLoader workers follows from (seed,
    epoch, index) of an item, so that a resumed epoch need not fetch again what it has seen. `saves`: as many
    checkpoints were asked for before this attempt. `stop_on_nan`: a loss that is not finite ends the run.
    `dry_run`: one batch of everything. On several `nodes`, each has as many devices; this is the one of `node_rank`,
    which others reach at `address`. `start`: go on from the checkpoint of another job in the directory, `EXACT` where
    that job did the same, `PLAIN` where not. `weights`: start with the weights of one.
    `logged_files_…`: the most files that a module may log. `data_locks`: the folder where the machine's trainers lock
    the data that they prepare; `data_wait_seconds`: how long one waits for another.
    """

    job_id: str
    attempt: int
    config: dict[str, Any]
    devices: list[str]
    catalog_modules: list[str]
    threads: int = 0
    recovery_interval_seconds: float = 60.0
    resume: bool = False
    seed_by_index: bool = False
    saves: int = 0
    subcommand: str = "fit"
    stop_on_nan: bool = False
    dry_run: bool = False
    start: str = ""
    weights: bool = False
    logged_files_max_count: int = 500
    logged_files_max_bytes: int = 256 * 2**20
    data_locks: str = ""
    data_wait_seconds: float = 7200.0
    nodes: int = 1
    node_rank: int = 0
    address: str = "127.0.0.1"

    @property
    def world_size(self) -> int:
        """How many ranks there are on all machines."""
        return self.nodes * len(self.devices)


@dataclass(frozen=True, slots=True)
class Control:
    """What a running trainer is asked to do. `saves` counts the checkpoints asked for so far; `stop` is for good."""

    stop: bool = False
    saves: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended, in the trainer's own words. `code` is a `core.states.ReasonCode`."""

    status: str
    code: str | None = None
    message: str | None = None
    traceback: str | None = None
    data: dict[str, Any] | None = None
    """What the message says, for programs: `workers.statements.read_reason_data`."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is. `at` in unix seconds; `max_steps` and `max_batches` None where that many are not known."""

    at: float
    epoch: int
    global_step: int
    batches: int
    max_steps: int | None
    max_batches: int | None = None


@dataclass(frozen=True, slots=True)
class RunDir:
    """The paths of one attempt's run directory, and what is written to them by either side."""

    path: Path
    job: Path = field(init=False)
    control: Path = field(init=False)
    spool: Path = field(init=False)
    progress: Path = field(init=False)
    log: Path = field(init=False)
    rendezvous: Path = field(init=False)
    outbox: Path = field(init=False)
    checkpoints: Path = field(init=False)
    artifacts: Path = field(init=False)
    work: Path = field(init=False)
    resume: Path = field(init=False)
    start: Path = field(init=False)
    weights: Path = field(init=False)
    outcome: Path = field(init=False)
    ended: Path = field(init=False)
    lock: Path = field(init=False)
    reserve: Path = field(init=False)

    def __post_init__(self) -> None:
        names = {"job": "job.json", "log": "trainer.log", "outcome": "outcome.json", "resume": "resume.ckpt"}
        names |= {"start": "start.ckpt", "weights": "weights.ckpt"}
        for name in self.__slots__[1:]:
            object.__setattr__(self, name, self.path / names.get(name, name))

    @classmethod
    def of(cls, runs: Path, job_id: str, attempt: int, node_rank: int = 0) -> "RunDir":
        """The run directory of an attempt, among those of this machine's workers, who may share one."""
        return cls(runs / job_id / (f"attempt-{attempt}-node-{node_rank}" if node_rank else f"attempt-{attempt}"))

    def of_what(self) -> tuple[str, int, int] | None:
        """The job, the attempt and the node rank that it is of, by its name; None: it has none of ours."""
        found = re.fullmatch(r"attempt-(\d{1,9})(?:-node-(\d{1,9}))?", self.path.name)
        return (self.path.parent.name, int(found[1]), int(found[2] or 0)) if found else None

    @property
    def node_rank(self) -> int:
        """Which machine of the attempt it is of."""
        of = self.of_what()
        return of[2] if of else 0

    def log_of(self, local_rank: int) -> Path:
        """The log of one of the ranks on this machine."""
        return self.path / f"trainer.{local_rank}.log" if local_rank else self.log

    def create(self, order: Order) -> None:
        """Make the directory with the trainer's orders in it. Raises `OSError`, for instance when the disk is full."""
        for folder in (self.path, self.outbox, self.checkpoints, self.artifacts, self.work):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.reserve.write_bytes(bytes(RESERVE_BYTES))
        self.spool.touch()
        self.log.touch()
        self.progress.write_bytes(bytes(PROGRESS.size))
        write_whole(self.job, asdict(order))

    def hold(self) -> int | None:
        """Lock the directory for as long as this process lives, or until the descriptor is closed; None: another does.

        Raises `OSError` when the directory cannot be made.
        """
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self.lock, os.O_CREAT | os.O_RDWR, 0o600)  # not inherited by any process started later
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError:
            os.close(descriptor)
            raise
        return descriptor

    def empty(self) -> None:
        """Remove what is in it, but its lock: left by an attempt of the same number whose claim a database forgot."""
        for path in self.path.iterdir():
            if path != self.lock:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    def order(self) -> Order:
        """What the trainer is to run."""
        return Order(**json.loads(self.job.read_bytes()))

    def ask(self, control: Control) -> None:
        """Ask the trainer for something, between two steps. Raises `OSError`, for instance when the disk is full."""
        write_whole(self.control, asdict(control))

    def read_rendezvous(self) -> tuple[str, int] | None:
        """The address and port at which the ranks meet; None: not known yet, or not to be read."""
        try:
            host, port = json.loads(self.rendezvous.read_bytes())
            return (str(host)[:255], int(port)) if 0 < int(port) < 2**16 else None
        except (OSError, ValueError, TypeError):
            return None

    def has_spoken(self) -> bool:
        """Whether the trainer has reported anything."""
        try:
            return self.spool.stat().st_size > 0
        except FileNotFoundError:
            return False

    def read_outcome(self) -> Outcome | None:
        """How the run ended; None: the trainer did not live to say, or what it said is not to be read."""
        try:
            said = json.loads(self.outcome.read_bytes())
            told = {name: storable(said[name]) for name in ("code", "message", "traceback")}
            data = _reason_data(said.get("data"))
            return Outcome(said["status"], **told, data=data) if said["status"] in OUTCOMES else None
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def read_progress(self) -> Progress | None:
        """How far the run is; None before its first step, and while a write is under way."""
        try:
            before = self.progress.read_bytes()
        except FileNotFoundError:
            return None
        if len(before) != PROGRESS.size:
            return None
        sequence, at, epoch, global_step, batches, *most = PROGRESS.unpack(before)
        if sequence == 0 or sequence % 2:
            return None
        max_steps, max_batches = (None if value < 0 else value for value in most)
        return Progress(at, epoch, global_step, batches, max_steps, max_batches)

    def log_tail(self, size_bytes: int) -> str:
        """The end of what the trainer printed."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, self.log.stat().st_size - size_bytes))
                return file.read().decode(errors="replace")
        except OSError:
            return ""


def storable(text: str | None) -> str | None:
    """Text that every database takes: user code may put anything into a message, half a character or a NUL too."""
    return None if text is None else storable_text(str(text))


def _reason_data(said: Any) -> dict[str, Any] | None:
    try:
        return read_reason_data(said)
    except StatementError:  # how the run ended counts all the same
        return None


def write_whole(path: Path, value: Any) -> None:
    """Write JSON so that a reader sees all of it or nothing."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(json.dumps(value))
    draft.replace(path)
