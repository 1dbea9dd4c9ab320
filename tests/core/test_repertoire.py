from collections.abc import Callable

import orjson

from core.catalog import Catalog, Entry, Kind
from core.database import Database
from core.fleet import Fleet
from core.ids import new_id
from core.job import Job
from core.queue import Queue

Submit = Callable[..., Job]


def join(database: Database, device: str, *classes: str) -> None:
    """A worker with one device and some classes joins."""
    worker_id, fleet = new_id("wrk"), Fleet(database)
    fleet.join(worker_id, "box", 1, [{"id": device}], {})
    catalog = Catalog(tuple(Entry(name, Kind.MODEL, (), {}) for name in classes))
    fleet.announce(worker_id, catalog.digest, orjson.dumps(catalog.to_json()).decode())


def test_a_job_whose_class_no_worker_with_its_device_has_says_which(database: Database, submit: Submit) -> None:
    queue, job = Queue(database), submit(class_paths=["m.Net", "mine.Data"], accelerator="cpu")
    lacking = "no worker that is up and has its devices announces mine.Data"

    def reasons(job: Job) -> set[str]:
        return {queue.waiting(job, 60).reason, queue.waiting_of([job], 60)[job.id].reason}

    join(database, "cpu:0", "m.Net")
    assert reasons(job) == {lacking}
    join(database, "gpu:0", "m.Net", "mine.Data")
    assert reasons(job) == {lacking}, "that worker has no CPU slot"
    join(database, "cpu:0", "m.Net", "mine.Data")
    assert reasons(job) == {"waiting for a free device"}


def test_a_worker_that_has_not_told_its_classes_yet_may_have_them(database: Database, submit: Submit) -> None:
    job = submit(class_paths=["mine.Net"], accelerator="cpu")
    join(database, "cpu:0", "m.Net")
    Fleet(database).join(new_id("wrk"), "new", 1, [{"id": "cpu:0"}], {})
    assert Queue(database).waiting(job, 60).reason == "waiting for a free device"
