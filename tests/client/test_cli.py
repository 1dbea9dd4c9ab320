import json
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from lightyard.config import config_path
from tests.waiting import wait_until

KEY = "ly_test"
Run = Callable[..., Result]

PLAIN = "model: {class_path: A}\n"
FAULTS = [
    {"pointer": "/config/model/init_args/l", "code": "unknown_argument", "message": "There is no l; did you mean lr?"},
    {"pointer": "/config/trainer/max_epochs", "code": "wrong_type", "message": "max_epochs is a whole number."},
]


@pytest.fixture
def file() -> str:
    Path("job.yaml").write_text(PLAIN)
    return "job.yaml"


def one_document(result: Result) -> Any:
    return json.loads(result.stdout)


def json_lines(result: Result) -> list[Any]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def change_once_seen(yard: Any, job_id: str, **fields: Any) -> None:
    """Change a job as soon as somebody has read it."""

    def change() -> None:
        wait_until(lambda: yard.seen("GET", f"/v1/jobs/{job_id}"), what=f"{job_id} is read", deadline_seconds=20)
        yard.change(job_id, **fields)

    threading.Thread(target=change).start()


def test_submit_prints_the_id_alone(lightyard: Run, yard: Any, file: str) -> None:
    result = lightyard("submit", file)

    assert (result.exit_code, result.stdout) == (0, "job_0001\n")
    assert "lightyard watch job_0001" in result.stderr
    assert yard.requests[0].body == PLAIN.encode()


def test_submit_takes_options_and_overrides_in_any_order(lightyard: Run, yard: Any, file: str) -> None:
    result = lightyard(
        "submit", file, "trainer.max_epochs=3", "--name", "a", "--label", "team=vision", "--label", "x=", "--priority",
        "-5", "--max-seconds", "60", "--max-attempts", "2", "--retry-oom", "model.init_args.lr=1e-3",
    )  # fmt: skip

    assert result.exit_code == 0
    assert json.loads(yard.requests[0].body) == {
        "config": {"model": {"class_path": "A", "init_args": {"lr": 0.001}}, "trainer": {"max_epochs": 3}},
        "name": "a",
        "labels": {"team": "vision", "x": ""},
        "priority": -5,
        "limits": {"max_seconds": 60.0, "max_attempts": 2, "retry_oom": True},
    }


def test_submit_reads_stdin(lightyard: Run, yard: Any) -> None:
    assert lightyard("submit", "-", input=PLAIN).exit_code == 0
    assert yard.requests[0].body == PLAIN.encode()


def test_submit_as_json_is_one_document(lightyard: Run, file: str) -> None:
    assert one_document(lightyard("submit", file, "--json"))["id"] == "job_0001"


def test_a_repeated_idempotency_key_makes_one_job(lightyard: Run, yard: Any, file: str) -> None:
    lightyard("submit", file, "--idempotency-key", "mine")
    result = lightyard("submit", file, "--idempotency-key", "mine")

    assert (result.exit_code, result.stdout) == (0, "job_0001\n")
    assert "no other job was made" in result.stderr
    assert len(yard.jobs) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("submit", "nowhere.yaml"),
        ("submit", "job.yaml", "no-override"),
        ("submit", "job.yaml", "--label", "no-value"),
        ("submit", "job.yaml", "--priority", "high"),
        ("submit", "job.yaml", "x=.nan"),
        ("status", ""),
        ("frobnicate",),
        ("logs", "job_1", "--tail", "-1"),
        ("--url", "nonsense", "status", "job_1"),
    ],
)
def test_wrong_usage_is_2_and_sends_nothing(lightyard: Run, yard: Any, file: str, arguments: tuple[str, ...]) -> None:
    result = lightyard(*arguments)

    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr != ""
    assert yard.requests == []


def test_a_refused_spec_is_3_with_its_faults_as_a_table(lightyard: Run, yard: Any, file: str) -> None:
    yard.faults = FAULTS

    result = lightyard("submit", file)

    assert (result.exit_code, result.stdout) == (3, "")
    for fault in FAULTS:
        (row,) = [line for line in result.stderr.splitlines() if fault["pointer"] in line]
        assert row.split(maxsplit=2) == list(fault.values())
    assert "req_1" in result.stderr


def test_a_refused_spec_as_json_carries_the_problem(lightyard: Run, yard: Any, file: str) -> None:
    yard.faults = FAULTS

    result = lightyard("submit", file, "--json")

    assert result.exit_code == 3
    assert one_document(result)["error"]["errors"] == FAULTS
    assert one_document(result)["error"]["code"] == "invalid_spec"


def test_retry_prints_the_id_of_the_new_job_and_says_from_where_it_is_to_go_on(lightyard: Run, yard: Any) -> None:
    job_id = yard.add_job(status="succeeded")
    options = ("--from", "best", "--subcommand", "test", "trainer.limit_test_batches=3", "--idempotency-key", "k")
    result = lightyard("retry", job_id, *options)
    assert (result.exit_code, result.stdout) == (0, "job_0002\n")
    (sent,) = yard.seen("POST", f"/v1/jobs/{job_id}/retry")
    assert (sent.query, sent.headers["Idempotency-Key"]) == ({"from": "best"}, "k")
    assert json.loads(sent.body) == {"config": {"trainer": {"limit_test_batches": 3}}, "subcommand": "test"}
    tuned = one_document(lightyard("retry", job_id, "--weights-from", "last", "--json"))
    assert tuned["parent_id"] == job_id
    assert json.loads(yard.requests[-1].body) == {"weights_from": "last"}
    assert yard.requests[-1].query == {}


def test_validate_tells_good_from_bad(lightyard: Run, yard: Any, file: str) -> None:
    good = lightyard("validate", file)
    yard.faults = FAULTS
    bad = lightyard("validate", file)
    as_json = lightyard("validate", file, "--json")

    assert (good.exit_code, good.stdout) == (0, "valid\n")
    assert bad.exit_code == 3
    assert "did you mean lr?" in bad.stdout
    assert as_json.exit_code == 3
    assert one_document(as_json)["valid"] is False


def test_an_unknown_job_is_4(lightyard: Run) -> None:
    result = lightyard("status", "job_9")

    assert result.exit_code == 4
    assert "job_9" in result.stderr


def test_a_wrong_key_is_5(lightyard: Run) -> None:
    result = lightyard("--key", "wrong", "list")

    assert result.exit_code == 5
    assert "lightyard login" in result.stderr


def test_a_service_that_is_away_is_6_and_submit_tells_how_to_repeat(lightyard: Run, file: str, dead_url: str) -> None:
    result = lightyard("--url", dead_url, "submit", file, "--idempotency-key", "mine")

    assert result.exit_code == 6
    assert dead_url in result.stderr
    assert result.stderr.count("trying again") == 1
    assert "--idempotency-key mine" in result.stderr


def test_a_refusal_by_the_service_itself_does_not_speak_of_a_job(lightyard: Run, yard: Any, file: str) -> None:
    yard.mishaps = [(503, {"Retry-After": "60"}, '{"code": "no_catalog", "detail": "No worker is up."}')]

    result = lightyard("submit", file)

    assert result.exit_code == 6
    assert "No worker is up." in result.stderr
    assert "--idempotency-key" not in result.stderr


def test_a_service_that_fails_is_6(lightyard: Run, yard: Any) -> None:
    yard.mishaps = [(500, {}, '{"code": "internal_error", "detail": "Something broke."}')]

    result = lightyard("list")

    assert result.exit_code == 6
    assert "Something broke." in result.stderr


@pytest.mark.parametrize(("status", "code"), [("succeeded", 0), ("failed", 1), ("cancelled", 7)])
def test_watch_ends_with_the_job_and_its_exit_code(lightyard: Run, yard: Any, status: str, code: int) -> None:
    reason = {"code": "user_error", "message": "It raised.", "traceback": "Traceback …\nValueError: [red]x"}
    job_id = yard.add_job(status="running", phase="training", progress={"epoch": 0, "global_step": 3, "max_steps": 9})
    change_once_seen(yard, job_id, status=status, reason=reason if code == 1 else None)

    result = lightyard("watch", job_id)

    assert result.exit_code == code
    first, second, *rest = result.stdout.splitlines()
    assert first == f"{job_id}  running/training  epoch 0  step 3/9"
    assert second.startswith(f"{job_id}  {status}")
    assert rest == (["user_error: It raised.", "Traceback …", "ValueError: [red]x"] if code == 1 else [])
    assert "\x1b" not in result.output


def test_watch_as_json_is_a_line_for_each_change(lightyard: Run, yard: Any) -> None:
    job_id = yard.add_job()
    change_once_seen(yard, job_id, status="succeeded")

    result = lightyard("watch", job_id, "--json")

    assert [(line["id"], line["status"]) for line in json_lines(result)] == [(job_id, "queued"), (job_id, "succeeded")]


def test_submit_and_follow_end_with_the_job(lightyard: Run, yard: Any, file: str) -> None:
    change_once_seen(yard, "job_0001", status="failed")

    result = lightyard("submit", file, "--follow", "--json")

    assert result.exit_code == 1
    assert [line["status"] for line in json_lines(result)] == ["queued", "queued", "failed"]


def test_ctrl_c_detaches_and_the_job_goes_on(yard: Any) -> None:
    job_id = yard.add_job(status="running")
    environment = {
        **os.environ,
        "PYTHONPATH": ":".join(path for path in sys.path if path),
        "LIGHTYARD_URL": yard.url,
        "LIGHTYARD_API_KEY": KEY,
    }
    command = [sys.executable, "-c", "from lightyard.cli import main; main()", "watch", job_id]

    process = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Tests that were started in the background of a shell are given it ignored, and hand that on.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith(job_id)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)

    assert process.returncode == 130
    assert f"lightyard watch {job_id}" in stderr
    assert "Traceback" not in stderr
    assert yard.jobs[job_id]["status"] == "running"
    assert yard.seen("POST", f"/v1/jobs/{job_id}/cancel") == []


def test_list_shows_jobs_and_tells_when_there_are_none(lightyard: Run, yard: Any) -> None:
    assert "No jobs." in lightyard("list").stderr
    for _ in range(25):
        yard.add_job(name="a name with [brackets]\x1b[31m", created_at="2026-01-02T03:04:05Z")

    shown, documents, every = (
        lightyard("list"),
        lightyard("list", "--json"),
        lightyard("list", "--limit", "0", "--json"),
    )

    assert len(shown.stdout.splitlines()) == 21
    assert "a name with [brackets]�[31m" in shown.stdout
    assert len(one_document(documents)["data"]) == 20
    assert len(one_document(every)["data"]) == 25


def test_status_shows_a_job_whatever_its_state(lightyard: Run, yard: Any) -> None:
    job_id = yard.add_job(
        status="queued", name="digits", waiting={"position": 2, "reason": "no free gpu"}, labels={"team": "vision"}
    )
    failed = yard.add_job(status="failed", reason={"code": "oom", "message": "Out of memory.", "traceback": None})

    result = lightyard("status", job_id)

    assert result.exit_code == 0
    assert "position 2: no free gpu" in result.stdout
    assert "team=vision" in result.stdout
    assert all(line == line.rstrip() for line in result.stdout.splitlines())
    assert lightyard("status", failed).exit_code == 0
    assert "oom: Out of memory." in lightyard("status", failed).stdout
    assert one_document(lightyard("status", job_id, "--json")) == yard.jobs[job_id]


def test_logs_are_the_trainers_words_as_they_are(lightyard: Run, yard: Any) -> None:
    job_id = yard.add_job(status="succeeded")
    yard.logs[job_id] = b"[bold]one\ntwo\nthree"

    assert lightyard("logs", job_id).stdout == "[bold]one\ntwo\nthree\n"
    assert lightyard("logs", "-f", job_id).stdout == "[bold]one\ntwo\nthree\n"
    assert lightyard("logs", job_id, "--tail", "1").stdout == "three\n"
    assert one_document(lightyard("logs", job_id, "--json")) == {
        "job_id": job_id,
        "lines": ["[bold]one", "two", "three"],
    }
    assert json_lines(lightyard("logs", "-f", job_id, "--json"))[0] == {"line": "[bold]one"}


def test_metrics_are_a_table_and_one_metric_is_its_points(lightyard: Run, yard: Any) -> None:
    job_id = yard.add_job()
    rows = {"data": [{"name": "loss", "count": 2, "last_step": 5, "last": 0.5, "min": 0.5, "max": "NaN"}]}
    series = {
        "name": "loss",
        "points": [{"step": 0, "epoch": 0, "value": 1.0}, {"step": 5, "epoch": 0, "value": 0.5}],
        "downsampled": False,
    }
    yard.documents = {f"/v1/jobs/{job_id}/metrics": rows, f"/v1/jobs/{job_id}/metrics/loss": series}

    assert lightyard("metrics", job_id).stdout.splitlines()[1].split() == ["loss", "2", "5", "0.5", "0.5", "nan"]
    points = lightyard("metrics", job_id, "loss")
    assert [line.split()[:3] for line in points.stdout.splitlines()[1:]] == [["0", "0", "1"], ["5", "0", "0.5"]]
    assert "█▁" in points.stderr
    assert one_document(lightyard("metrics", job_id, "--json")) == rows
    assert one_document(lightyard("metrics", job_id, "loss", "--json")) == series


def test_events_are_told_in_order(lightyard: Run, yard: Any) -> None:
    job_id = yard.add_job()
    events = [
        {"id": "1", "type": "created", "at": "2026-01-02T03:04:05Z", "data": {}},
        {"id": "2", "type": "claimed", "at": "2026-01-02T03:04:06Z", "data": {"worker": "w"}},
    ]
    yard.documents = {f"/v1/jobs/{job_id}/events": {"data": events, "next_cursor": None}}

    assert [line.split()[2:] for line in lightyard("events", job_id).stdout.splitlines()] == [
        ["created"],
        ["claimed", "worker=w"],
    ]
    assert one_document(lightyard("events", job_id, "--json")) == {"data": events}


def test_download_prints_where_the_file_is(lightyard: Run, yard: Any) -> None:
    job_id = yard.add_job(status="succeeded")
    listed = yard.add_checkpoint(job_id, b"weights" * 1000)

    result = lightyard("download", job_id)
    as_json = lightyard("download", listed["id"], "-o", "other.ckpt", "--json")

    assert (result.exit_code, result.stdout) == (0, "ckpt_0001.ckpt\n")
    assert Path("ckpt_0001.ckpt").read_bytes() == b"weights" * 1000
    assert one_document(as_json) == {
        "checkpoint_id": listed["id"],
        "path": "other.ckpt",
        "size_bytes": 7000,
        "sha256": listed["sha256"],
    }
    assert lightyard("checkpoints", job_id).stdout.splitlines()[1].split()[:1] == [listed["id"]]
    assert one_document(lightyard("checkpoints", job_id, "--json")) == {"data": [listed]}


def test_download_weights_prints_where_the_safetensors_file_is(lightyard: Run, yard: Any) -> None:
    job_id = yard.add_job(status="succeeded")
    yard.add_checkpoint(job_id, b"all of it")
    yard.weights["ckpt_0001"] = b"tensors"

    result = lightyard("download", job_id, "--weights")

    assert (result.exit_code, result.stdout) == (0, "ckpt_0001.safetensors\n")
    assert Path("ckpt_0001.safetensors").read_bytes() == b"tensors"


def test_a_damaged_download_is_8(lightyard: Run, yard: Any) -> None:
    job_id = yard.add_job(status="succeeded")
    yard.add_checkpoint(job_id, b"weights")
    yard.wrong_files = [b"wrongly", b"wrongly"]

    damaged = lightyard("download", job_id)
    unwritable = lightyard("download", job_id, "-o", "missing/a.ckpt")

    assert (damaged.exit_code, damaged.stdout) == (8, "")
    assert "damaged" in damaged.stderr
    assert unwritable.exit_code == 8
    assert "missing" in unwritable.stderr


def test_cancel_waits_until_the_job_has_ended(lightyard: Run, yard: Any) -> None:
    job_id = yard.add_job(status="running")

    result = lightyard("cancel", job_id, "--wait", "--force")

    assert result.exit_code == 0
    assert result.stdout.startswith(f"{job_id}  cancelled")
    assert yard.jobs[job_id]["force"] == "true"


def test_cancelling_what_cannot_be_is_3(lightyard: Run, yard: Any) -> None:
    yard.mishaps = [(409, {}, '{"code": "invalid_transition", "detail": "The job has ended.", "status": "failed"}')]

    result = lightyard("cancel", yard.add_job(status="failed"), "--json")

    assert result.exit_code == 3
    assert one_document(result)["error"]["code"] == "invalid_transition"


@pytest.mark.parametrize(
    ("command", "path", "shown"),
    [
        ("pause", "pause", "running/training  pause requested"),
        ("resume", "resume", "queued/training"),
        ("checkpoint", "checkpoints", "running/training  checkpoint requested"),
    ],
)
def test_a_job_is_asked_for_something_and_shown_as_it_answers(
    lightyard: Run, yard: Any, command: str, path: str, shown: str
) -> None:
    job_id = yard.add_job(status="running", phase="training")

    result = lightyard(command, job_id)

    assert (result.exit_code, result.stdout) == (0, f"{job_id}  {shown}\n")
    assert [one.query for one in yard.seen("POST", f"/v1/jobs/{job_id}/{path}")] == [{}]
    assert one_document(lightyard(command, job_id, "--json")) == yard.jobs[job_id]
    assert lightyard(command, "job_9").exit_code == 4


@pytest.mark.parametrize("command", ["pause", "resume", "checkpoint"])
def test_what_a_job_cannot_do_now_is_3_with_the_services_words(lightyard: Run, yard: Any, command: str) -> None:
    problem = {"code": "invalid_transition", "detail": "job_1 is failed: it cannot pause.", "status": 409}
    yard.mishaps = [(409, {}, json.dumps(problem | {"job_status": "failed", "allowed_actions": ["retry"]}))] * 2
    job_id = yard.add_job(status="failed")

    told, as_json = lightyard(command, job_id), lightyard(command, job_id, "--json")

    assert (told.exit_code, told.stdout) == (3, "")
    assert "it cannot pause" in told.stderr
    assert as_json.exit_code == 3
    assert one_document(as_json)["error"]["allowed_actions"] == ["retry"]


def test_workers_and_catalogue_are_shown(lightyard: Run, yard: Any) -> None:
    worker = {
        "id": "worker_1", "name": "host", "status": "online",
        "devices": [
            {"id": "gpu:0", "name": "H100", "busy": True, "job_id": "job_1"},
            {"id": "gpu:1", "name": None, "busy": True, "job_id": None},
        ],
    }  # fmt: skip
    entry = {
        "class_path": "models.A",
        "kind": "model",
        "summary": "A model.",
        "doc": "A model.\n\nLong.",
        "schema": {
            "properties": {"lr": {"type": "number", "default": 0.1}, "n": {"type": "integer"}},
            "required": ["n"],
        },
    }
    yard.documents = {
        "/v1/workers": {"data": [worker], "next_cursor": None},
        "/v1/catalog": {"data": [entry], "next_cursor": None},
        "/v1/catalog/models.A": entry,
    }

    shown = lightyard("workers").stdout.splitlines()[1]
    assert shown.split() == ["host", "online", "gpu:0", "(H100),", "gpu:1", "gpu:0:", "job_1,", "gpu:1:", "busy"]
    assert lightyard("catalog", "--kind", "model").stdout.splitlines()[1].split() == [
        "model",
        "models.A",
        "A",
        "model.",
    ]
    assert yard.requests[-1].query["kind"] == "model"
    details = lightyard("catalog", "models.A").stdout.splitlines()
    assert [line.split() for line in details[-2:]] == [["lr", "number", "0.1", "–"], ["n", "integer", "required", "–"]]
    assert one_document(lightyard("workers", "--json")) == {"data": [worker]}
    assert one_document(lightyard("catalog", "--json")) == {"data": [entry]}
    assert one_document(lightyard("catalog", "models.A", "--json")) == entry


def test_login_stores_what_the_service_takes(lightyard: Run, yard: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = lightyard("login", "--url", yard.url, "--key", "wrong")
    assert refused.exit_code == 5
    assert not config_path().exists()

    stored = lightyard("login", "--url", yard.url, "--key", "-", input=f"{KEY}\n")
    assert stored.exit_code == 0
    assert stat.S_IMODE(config_path().stat().st_mode) == 0o600
    assert KEY not in stored.output
    monkeypatch.delenv("LIGHTYARD_URL")
    monkeypatch.delenv("LIGHTYARD_API_KEY")
    assert lightyard("list").exit_code == 0


def test_version_is_told(lightyard: Run) -> None:
    result = lightyard("version", "--json")

    assert result.exit_code == 0
    assert one_document(result)["version"]


def test_the_help_and_the_manual_tell_of_every_command_and_exit_code(lightyard: Run) -> None:
    from lightyard.cli import app
    from lightyard.commands.session import ExitCode

    manual = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    shown = lightyard("--help").stdout
    names = [command.name or command.callback.__name__ for command in app.registered_commands if command.callback]

    assert len(names) == 19
    for name in names:
        assert f" {name} " in shown
        assert f"`lightyard {name}" in manual
    for code in ExitCode:
        assert f"| {code.value} |" in manual
        assert str(code.value) in shown
