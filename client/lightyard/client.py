"""The service as a Python object."""

import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx

from lightyard import config
from lightyard.download import WEIGHTS, Content, Download, OnProgress, content_of_head, weights_of_first_byte
from lightyard.dry_run import DryRun
from lightyard.errors import ApiError, BadAnswerError, WaitTimeoutError
from lightyard.logs import lines, read_all, read_following
from lightyard.overrides import Overrides, apply_overrides, as_json
from lightyard.records import Checkpoint, Event, Job, Metric, Series, Validation
from lightyard.retry import Retry
from lightyard.submission import Source, build_body
from lightyard.transport import READ_SECONDS, Transport, document

PAGE_ROWS = 100
WAIT_SECONDS = 30
# Least time between two polls of a job that changes fast, and of a service that does not hold a poll as asked.
CHANGED_PAUSE_SECONDS = 0.2
UNCHANGED_PAUSE_SECONDS = 1.0
# Somebody who watches a day's training would rather sit out a restart of the service than be sent away.
WATCH_PATIENCE = 15


class Client:
    """A Lightyard service.

    Without arguments it goes where the command line goes: `LIGHTYARD_URL` and `LIGHTYARD_API_KEY`, the config file, the
    service on this machine. Every call tries again while the service is away, for `retry.budget_seconds` at most.

    Calls raise ApiError when the service refuses, UnreachableError when it is away for longer than the budget, and
    BadAnswerError when something else answers. It may be shared between threads; `close` it, or use it in a `with`.
    """

    def __init__(self, url: str | None = None, key: str | None = None, *, retry: Retry | None = None) -> None:
        retry = retry or config.retry()
        self.address = config.resolve(url, key)
        self._transport = Transport(self.address, retry)
        self._patient = replace(retry, budget_seconds=retry.budget_seconds * WATCH_PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    # Jobs

    def submit(
        self,
        source: Source,
        *,
        overrides: Overrides = (),
        name: str | None = None,
        labels: Mapping[str, str] | None = None,
        priority: int | None = None,
        limits: Mapping[str, float] | None = None,
        subcommand: str | None = None,
        idempotency_key: str | None = None,
    ) -> Job:
        """Submit a job: a spec or a LightningCLI config, as a mapping, a file's path, or a file's bytes.

        `overrides` are `["trainer.max_epochs=3"]` or `{"trainer.max_epochs": 3}`. However often the request has to be
        repeated, one job is made; with an `idempotency_key` of your own that holds across processes, for 24 hours.
        Raises SpecError when there is nothing readable to send, and ApiError, with every fault, for a bad spec.
        """
        fields = {
            "name": name, "labels": labels or None, "priority": priority, "limits": limits or None,
            "subcommand": subcommand,
        }  # fmt: skip
        body = build_body(source, overrides, fields)
        headers = {"Content-Type": body.media_type, "Idempotency-Key": idempotency_key or uuid.uuid4().hex}
        return _job(self._transport.request("POST", "/v1/jobs", headers=headers, content=body.content))

    def dry_run(
        self,
        source: Source,
        *,
        overrides: Overrides = (),
        timeout_seconds: float | None = None,
        idempotency_key: str | None = None,
        on_wait: Callable[[DryRun], None] | None = None,
    ) -> DryRun:
        """Have one batch of everything tried on a worker, ahead of the queue, and return what was found.

        `on_wait` is called each time that it has not ended yet. Raises WaitTimeoutError when it has not within
        `timeout_seconds`, and otherwise as `submit` does.
        """
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        body = build_body(source, overrides)
        headers = {"Content-Type": body.media_type, "Idempotency-Key": idempotency_key or uuid.uuid4().hex}
        wait = _wait_seconds(deadline)
        read_seconds = wait + READ_SECONDS
        params = {"dry_run": "true", "wait": wait}
        answer = self._transport.request(
            "POST", "/v1/jobs", params=params, headers=headers, content=body.content, read_seconds=read_seconds
        )
        while (found := DryRun.from_raw(document(answer))).ok is None:
            if on_wait is not None:
                on_wait(found)
            wait = _wait_seconds(deadline)
            if not wait:
                raise WaitTimeoutError(f"{found.job_id} is still {found.status} after {timeout_seconds} s")
            path = _path("jobs", found.job_id, "dry_run")
            read_seconds = wait + READ_SECONDS
            answer = self._transport.request("GET", path, params={"wait": wait}, read_seconds=read_seconds)
        return found

    def retry(
        self,
        job_id: str,
        *,
        start: str | None = None,
        overrides: Overrides = (),
        subcommand: str | None = None,
        weights_from: str | None = None,
        idempotency_key: str | None = None,
    ) -> Job:
        """Run a job again that has ended, as a new one; `overrides` change its config.

        `start`: go on from its `last` or `best` checkpoint, or from the one of that id, with optimizer, schedulers and
        counters; `weights_from`: start with the weights of one alone. `subcommand`: `test` it, for instance.
        """
        changes: dict[str, Any] = {}
        apply_overrides(changes, overrides)
        changes |= {} if subcommand is None else {"subcommand": subcommand}
        changes |= {} if weights_from is None else {"weights_from": weights_from}
        headers = {"Content-Type": "application/json", "Idempotency-Key": idempotency_key or uuid.uuid4().hex}
        params = {"from": start} if start is not None else None
        path, content = _path("jobs", job_id, "retry"), as_json(changes)
        return _job(self._transport.request("POST", path, params=params, headers=headers, content=content))

    def validate(self, source: Source, *, overrides: Overrides = ()) -> Validation:
        """Ask what is wrong with a spec, and what its config is with every default filled in. Creates nothing."""
        body = build_body(source, overrides)
        headers = {"Content-Type": body.media_type}
        answer = self._transport.request("POST", "/v1/jobs:validate", headers=headers, content=body.content)
        return Validation.from_raw(document(answer))

    def job(self, job_id: str) -> Job:
        """Return a job as it is now."""
        return _job(self._transport.request("GET", _path("jobs", job_id)))

    def jobs(
        self,
        *,
        status: str | None = None,
        name: str | None = None,
        labels: Mapping[str, str] | None = None,
        sort: str | None = None,
        limit: int | None = None,
    ) -> Iterator[Job]:
        """Iterate over all jobs that match, or the first `limit` of them, newest first, a page at a time."""
        params: dict[str, Any] = {"status": status, "name": name, "sort": sort}
        params |= {f"label.{label}": value for label, value in (labels or {}).items()}
        if limit is not None:
            params["limit"] = max(1, min(limit, PAGE_ROWS))
        return islice((Job.from_raw(raw) for raw in self._rows("/v1/jobs", params)), limit)

    def wait(self, job_id: str, timeout_seconds: float | None = None) -> Job:
        """Return the job once it has ended, however it has. Raises WaitTimeoutError when that takes too long."""
        changes = self.watch(job_id, timeout_seconds)
        job = next(changes)
        for job in changes:  # noqa: B007  the last one is what is wanted
            pass
        return job

    def watch(self, job_id: str, timeout_seconds: float | None = None) -> Iterator[Job]:
        """Yield the job as it is now, and again each time it changes, until it has ended.

        Sits out an absence of the service for fifteen times the retry budget. Raises WaitTimeoutError.
        """
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        job = self.job(job_id)
        yield job
        while not job.ended:
            left_seconds = WAIT_SECONDS if deadline is None else deadline - time.monotonic()
            if left_seconds <= 0:
                raise WaitTimeoutError(f"{job_id} is still {job.status} after {timeout_seconds} s; it goes on")
            changed = self.changed_job(job, min(WAIT_SECONDS, left_seconds))
            if changed is not None:
                job = changed
                yield job

    def changed_job(self, job: Job, wait_seconds: float) -> Job | None:
        """Return the job as soon as it differs from `job`, or None when it has not within `wait_seconds` (1 to 60)."""
        asked_at = time.monotonic()
        answer = self._transport.request(
            "GET",
            _path("jobs", job.id),
            params={"wait": max(1, round(wait_seconds))},
            headers={"If-None-Match": job.etag} if job.etag else None,
            read_seconds=wait_seconds + READ_SECONDS,
            retry=self._patient,
        )
        changed = None if answer.status_code == 304 else _job(answer)
        if changed is not None and changed.raw == job.raw:
            changed = None
        pause_seconds = UNCHANGED_PAUSE_SECONDS if changed is None else CHANGED_PAUSE_SECONDS
        if changed is None or not changed.ended:
            time.sleep(max(0.0, min(pause_seconds, wait_seconds) - (time.monotonic() - asked_at)))
        return changed

    def cancel(self, job_id: str, *, force: bool = False) -> Job:
        """Ask a job to stop, between two steps and with a checkpoint; `force` kills it. Twice is harmless."""
        params = {"force": "true"} if force else None
        return _job(self._transport.request("POST", _path("jobs", job_id, "cancel"), params=params))

    def pause(self, job_id: str) -> Job:
        """Ask a job to leave its devices: it stops between two steps, saved, or leaves the queue. Twice is harmless."""
        return _job(self._transport.request("POST", _path("jobs", job_id, "pause")))

    def resume(self, job_id: str) -> Job:
        """Put a paused job back into the queue, to go on where it stopped, or take a request to pause back."""
        return _job(self._transport.request("POST", _path("jobs", job_id, "resume")))

    def request_checkpoint(self, job_id: str) -> Job:
        """Ask a running job to save a checkpoint now, between two steps; it goes on afterwards.

        `checkpoint_requested_at` is set until it has; then `checkpoints` has it, of kind `requested`.
        """
        return _job(self._transport.request("POST", _path("jobs", job_id, "checkpoints")))

    # What a job tells

    def events(self, job_id: str) -> Iterator[Event]:
        """Iterate over all that has happened to a job."""
        return (Event.from_raw(raw) for raw in self._rows(_path("jobs", job_id, "events")))

    def logs(self, job_id: str, *, follow: bool = False, tail: int | None = None, rank: int = 0) -> Iterator[str]:
        """Iterate over the lines of what the trainer has printed, without their line ends; the last `tail` of them.

        With `follow`, waits for more until the job has ended. `rank`: which one's, of a job on several devices.
        """
        if tail is not None and not follow:
            return lines([self._log(job_id, tail=tail, rank=rank)], tail)

        def read(offset: int) -> bytes:
            return self._log(job_id, offset=offset, rank=rank)

        if not follow:
            return lines(read_all(read))

        def next_job(job: Job) -> Job:
            return self.changed_job(job, UNCHANGED_PAUSE_SECONDS) or job

        return lines(read_following(self.job(job_id), read, next_job), tail)

    def metrics(self, job_id: str) -> list[Metric]:
        """Return the job's metrics in short."""
        return [Metric.from_raw(raw) for raw in self._rows(_path("jobs", job_id, "metrics"))]

    def series(
        self,
        job_id: str,
        name: str,
        *,
        from_step: int | None = None,
        to_step: int | None = None,
        max_points: int | None = None,
    ) -> Series:
        """Return a metric's points; more than `max_points` (1000) are put into buckets that keep their extremes."""
        params = {"from_step": from_step, "to_step": to_step, "max_points": max_points}
        answer = self._transport.request("GET", _path("jobs", job_id, "metrics", name), params=params)
        return Series.from_raw(document(answer))

    # Checkpoints

    def checkpoints(self, job_id: str) -> Iterator[Checkpoint]:
        """Iterate over the checkpoints that a job has."""
        return (Checkpoint.from_raw(raw) for raw in self._rows(_path("jobs", job_id, "checkpoints")))

    def checkpoint(self, job_id: str, which: str = "best") -> Checkpoint:
        """Return a job's `best` or `last` checkpoint, or the one of that id. Raises ApiError (404)."""
        if which in ("best", "last"):
            answer = self._transport.request("GET", _path("jobs", job_id, "checkpoints", which))
            return Checkpoint.from_raw(document(answer))
        for checkpoint in self.checkpoints(job_id):
            if checkpoint.id == which:
                return checkpoint
        raise ApiError(404, "not_found", f"{job_id} has no checkpoint {which}")

    def content(self, job_or_checkpoint_id: str, which: str = "best", *, weights: bool = False) -> Content:
        """Find out what a download of a job's checkpoint, or of the checkpoint of that id, must turn out to be.

        `weights`: of its weights alone, as a safetensors file. Raises ApiError (422) where it has none, or none that
        safetensors has a form for.
        """
        checkpoint_id = job_or_checkpoint_id
        if not job_or_checkpoint_id.startswith("ckpt_"):
            checkpoint = self.checkpoint(job_or_checkpoint_id, which)
            if not weights:
                return Content(checkpoint.id, checkpoint.size_bytes, checkpoint.sha256)
            checkpoint_id = checkpoint.id
        plain = {"Accept-Encoding": "identity"}
        if weights:
            first = plain | {"Range": "bytes=0-0"}
            answer = self._transport.request("GET", _path("checkpoints", checkpoint_id, WEIGHTS), headers=first)
            return weights_of_first_byte(checkpoint_id, answer)
        answer = self._transport.request("HEAD", _path("checkpoints", checkpoint_id, "content"), headers=plain)
        return content_of_head(checkpoint_id, answer)

    def download(
        self,
        job_or_checkpoint_id: str,
        which: str = "best",
        to: str | PathLike[str] | None = None,
        *,
        weights: bool = False,
        on_progress: OnProgress | None = None,
    ) -> Path:
        """Fetch a job's checkpoint, or the checkpoint of that id, and return where it is.

        `to` is a file or an existing folder; without it the file is `ckpt_….ckpt` in the current folder. `weights`:
        fetch its weights alone, as `ckpt_….safetensors`. A download that broke off goes on from its `.part`; the file
        appears once its sha256 is right.
        Raises DownloadError when it is damaged twice, OSError when it cannot be written.
        """
        return self.fetch(self.content(job_or_checkpoint_id, which, weights=weights), to, on_progress=on_progress)

    def fetch(
        self, content: Content, to: str | PathLike[str] | None = None, *, on_progress: OnProgress | None = None
    ) -> Path:
        """Fetch a checkpoint's file, as `download` does, where `content` is known already."""
        target = Path(to) if to is not None else Path()
        if target.is_dir():
            target /= content.filename
        return Download(self._transport, content, target, on_progress or _unwatched).run()

    # The fleet

    def workers(self) -> list[dict[str, Any]]:
        """Return who is up, on what devices, doing what."""
        return list(self._rows("/v1/workers"))

    def catalog(self, *, kind: str | None = None) -> list[dict[str, Any]]:
        """Return the classes that workers can run: models, data modules, callbacks and so on."""
        return list(self._rows("/v1/catalog", {"kind": kind}))

    def catalog_class(self, class_path: str) -> dict[str, Any]:
        """Return one class of the catalogue with its JSON Schema, docstring and defaults."""
        return document(self._transport.request("GET", _path("catalog", class_path)))

    def _rows(self, path: str, params: Mapping[str, Any] | None = None) -> Iterator[dict[str, Any]]:
        cursor = None
        while True:
            answer = self._transport.request(
                "GET", path, params={"limit": PAGE_ROWS, **(params or {}), "cursor": cursor}
            )
            page = document(answer)
            rows = page.get("data")
            if not isinstance(rows, list):
                raise BadAnswerError(f"{answer.request.url} answered without a list of `data`")
            yield from rows
            cursor = page.get("next_cursor")
            if not cursor:
                return

    def _log(self, job_id: str, **params: int) -> bytes:
        return self._transport.request("GET", _path("jobs", job_id, "logs"), params=params, retry=self._patient).content


def _job(answer: httpx.Response) -> Job:
    raw = document(answer)
    if not isinstance(raw.get("id"), str):
        raise BadAnswerError(f"{answer.request.url} answered with something that is no job; is the address right?")
    replayed = answer.headers.get("Idempotent-Replayed") == "true"
    return Job.from_raw(raw, etag=answer.headers.get("ETag"), replayed=replayed)


def _wait_seconds(deadline: float | None) -> float:
    return WAIT_SECONDS if deadline is None else max(0.0, min(WAIT_SECONDS, round(deadline - time.monotonic(), 1)))


def _path(*parts: str) -> str:
    # An empty id would name the whole list instead.
    if not all(parts):
        raise ValueError("an id or a name is empty")
    return "/v1/" + "/".join(quote(part, safe="") for part in parts)


def _unwatched(done_bytes: int, total_bytes: int) -> None:
    """Nobody asked to be told."""
