"""Processes killed, stopped for a while, or told to end."""

import contextlib
import signal
import time

import psutil

from tests.faults.faults import Fault, Ground, Hit, NotNow
from tests.faults.schedule import Draw
from tests.faults.world import GONE, WORKERS, Trainer
from tests.stack import STOP_SECONDS

LOOK_SECONDS = 0.1


class TrainerKill(Fault):
    """kill -9 of a trainer."""

    kind = "trainer_kill"
    draw = Draw(3.0)
    kills = costs = True

    def inject(self, ground: Ground) -> Hit:
        trainer = self.pick(ground.world.trainers(), "no trainer")
        hit = Hit(f"trainer of {trainer.job_id} on {trainer.worker}", frozenset({trainer.job_id}))
        kill(trainer.process)
        return hit


class LoaderKill(Fault):
    """kill -9 of one of a trainer's DataLoader workers."""

    kind = "loader_kill"
    draw = Draw(0.7)
    kills = costs = True

    def inject(self, ground: Ground) -> Hit:
        trainer = self.pick([one for one in ground.world.trainers() if one.loaders], "no DataLoader worker")
        hit = Hit(f"DataLoader worker of {trainer.job_id} on {trainer.worker}", frozenset({trainer.job_id}))
        kill(trainer.loaders[0])
        return hit


class ForkServerKill(Fault):
    """kill -9 of a worker's fork server: its trainers go with it."""

    kind = "forkserver_kill"
    draw = Draw(1.2, heavy=True)
    kills = costs = True

    def inject(self, ground: Ground) -> Hit:
        world = ground.world
        worker = self.pick([name for name in WORKERS if world.fork_server(name)], "no fork server")
        jobs, server = jobs_of(world.trainers(worker)), world.fork_server(worker)
        if server is None:
            raise NotNow("the fork server is gone")
        hit = Hit(f"fork server of {worker}", jobs, frozenset({worker}))
        kill(server)
        return hit


class WorkerKill(Fault):
    """kill -9 of a worker, which is started again later."""

    kind = "worker_kill"
    draw = Draw(1.5, (0.1, 3.0), heavy=True)
    kills = costs = True

    def inject(self, ground: Ground) -> Hit:
        world = ground.world
        worker = self.pick([name for name in WORKERS if world.up(name)], "no worker up")
        hit = Hit(worker, jobs_of(world.trainers(worker)), frozenset({worker}))
        world.kill(worker)
        return hit

    def heal(self, ground: Ground, hit: Hit) -> None:
        for worker in hit.workers:
            ground.world.start(worker)


class WorkerDrain(Fault):
    """SIGTERM to a worker, which hands its jobs back and ends well; it is started again."""

    kind = "worker_drain"
    draw = Draw(1.0, heavy=True)
    kills = costs = True

    def inject(self, ground: Ground) -> Hit:
        world = ground.world
        up = [name for name in WORKERS if world.up(name) and name not in world.leaving]
        worker = self.pick(up, "no worker up")
        jobs = jobs_of(world.trainers(worker))
        process = world.stack.processes[worker]
        world.leaving.add(worker)
        state = {"process": process, "by": time.monotonic() + STOP_SECONDS, "begun": begun(process.pid)}
        hit = Hit(worker, jobs, frozenset({worker}), state)
        process.send_signal(signal.SIGTERM)
        return hit

    def heal(self, ground: Ground, hit: Hit) -> float | None:
        process, worker = hit.state["process"], hit.what
        # Another fault may have killed it meanwhile, and one still importing has nothing to end well.
        allowed = {0, -signal.SIGKILL} if hit.state["begun"] else {0, -signal.SIGKILL, -signal.SIGTERM}
        if process.poll() is None:
            if time.monotonic() < hit.state["by"]:
                return LOOK_SECONDS
            ground.complain(f"{worker} had not ended {STOP_SECONDS:g} s after SIGTERM")
            process.kill()
            process.wait()
        elif process.returncode not in allowed:
            ground.complain(f"{worker} ended with {process.returncode} after SIGTERM")
        ground.world.leaving.discard(worker)
        ground.world.start(worker)
        return None


class ApiKill(Fault):
    """kill -9 of the API, which is started again on its port."""

    kind = "api_kill"
    draw = Draw(1.5, (0.1, 3.0))

    def inject(self, ground: Ground) -> Hit:
        if not ground.world.up("api"):
            raise NotNow("there is no API up")
        hit = Hit("api", jobs_of(ground.world.trainers()))
        ground.world.kill("api")
        return hit

    def heal(self, ground: Ground, hit: Hit) -> None:
        ground.world.start("api")


class PowerCut(Fault):
    """kill -9 of everything at once, as when the box loses its power; then everything starts again."""

    kind = "power_cut"
    draw = Draw(0.5, (0.2, 1.0), heavy=True)
    kills = costs = True

    def inject(self, ground: Ground) -> Hit:
        world = ground.world
        hit = Hit("everything", jobs_of(world.trainers()), frozenset(WORKERS))
        for name in (*WORKERS, "api"):
            if world.up(name):
                world.kill(name)
        world.kill_broker()
        world.kill_postgres()
        return hit

    def heal(self, ground: Ground, hit: Hit) -> None:
        world = ground.world
        world.start_postgres()
        world.start_broker()
        for name in ("api", *WORKERS):
            world.start(name)


class WorkerFreeze(Fault):
    """SIGSTOP to a worker and all below it, for longer than its lease; then it goes on, and must not count any more."""

    kind = "worker_freeze"
    draw = Draw(1.5, (4.5, 7.0))
    costs = zombies = True

    def inject(self, ground: Ground) -> Hit:
        world = ground.world
        worker = self.pick([name for name in WORKERS if world.up(name)], "no worker up")
        jobs, family = jobs_of(world.trainers(worker)), world.family(worker)
        hit = Hit(worker, jobs, frozenset({worker}), {"family": family})
        freeze(family)
        return hit

    def heal(self, ground: Ground, hit: Hit) -> None:
        resume(hit.state["family"])


class TrainerFreeze(Fault):
    """SIGSTOP to a trainer alone, for a moment: nothing comes of it."""

    kind = "trainer_freeze"
    draw = Draw(1.0, (0.3, 2.0))

    def inject(self, ground: Ground) -> Hit:
        trainer = self.pick(ground.world.trainers(), "no trainer")
        what = f"trainer of {trainer.job_id} on {trainer.worker}"
        hit = Hit(what, frozenset({trainer.job_id}), state={"family": [trainer.process]})
        freeze(hit.state["family"])
        return hit

    def heal(self, ground: Ground, hit: Hit) -> None:
        resume(hit.state["family"])


def jobs_of(trainers: list[Trainer]) -> frozenset[str]:
    """The jobs that trainers run."""
    return frozenset(trainer.job_id for trainer in trainers)


def kill(process: psutil.Process) -> None:
    """Kill a process outright. Raises `NotNow` when it is gone."""
    try:
        process.kill()
    except GONE as error:
        raise NotNow("it has just ended by itself") from error


def begun(pid: int) -> bool:
    """Whether a worker has got past importing itself: it names its process first of all."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return "-m" not in psutil.Process(pid).cmdline()
    return False


def freeze(family: list[psutil.Process]) -> None:
    """Stop processes, as far as they live."""
    for process in family:
        with contextlib.suppress(*GONE):
            process.suspend()


def resume(family: list[psutil.Process]) -> None:
    """Have processes that were stopped go on, as far as they live."""
    for process in family:
        with contextlib.suppress(*GONE):
            process.resume()


KINDS = [
    TrainerKill,
    LoaderKill,
    ForkServerKill,
    WorkerKill,
    WorkerDrain,
    ApiKill,
    PowerCut,
    WorkerFreeze,
    TrainerFreeze,
]
