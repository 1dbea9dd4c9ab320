"""Dockerfile and docker-compose.yml: linted, and their own commands run outside a container."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml
from sqlalchemy import make_url

from core.settings import Settings
from embedded.broker import server_binary
from embedded.home import free_port
from embedded.lineage import bound_to_parent
from tests.servers import NO_RETRY, answers, empty_database, postgres_binaries
from tests.stack import Stack
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parent.parent
VALUES = {"POSTGRES_PASSWORD": "postgres-secret", "REDIS_PASSWORD": "redis-secret"}
OURS = {"api", "worker", "worker-cpu", "migrate"}


def tool(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def interpolated(text: str) -> str:
    """The text with ${NAME:-default} and ${NAME:?message} replaced, as Compose does it."""

    def value(match: re.Match[str]) -> str:
        name, operator, operand = match.groups()
        return VALUES.get(name, operand if operator == ":-" else f"<{name} is missing>")

    return re.sub(r"\$\{(\w+)(?:(:-|:\?)([^}]*))?\}", value, text)


of_production = pytest.mark.parametrize("stack", ["production"], indirect=True)


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(interpolated((ROOT / "docker-compose.yml").read_text()))
    return document


@pytest.fixture(scope="module")
def stages() -> dict[str, dict[str, str]]:
    """The instructions of each named stage of the Dockerfile, those of the stages below it included; the last wins."""
    text = re.sub(r"\\\n", " ", re.sub(r"(?m)^#.*\n", "", (ROOT / "Dockerfile").read_text()))
    found: dict[str, dict[str, str]] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        instruction, arguments = line.split(maxsplit=1)
        if instruction == "FROM":
            below, _, name = arguments.split()
            current = found[name] = dict(found.get(below, {}))
        elif instruction == "ENV":
            current["ENV"] = f"{current.get('ENV', '')} {arguments}"
        else:
            current[instruction] = arguments
    return found


def environment_of(stage: dict[str, str]) -> dict[str, str]:
    pairs = (pair.partition("=") for pair in shlex.split(stage["ENV"]))
    return {name: value for name, _, value in pairs if name.startswith("LIGHTYARD_")}


def command_of(instruction: str) -> list[str]:
    """The exec form's words, with this test's Python in place of the image's."""
    words = json.loads(instruction[instruction.index("[") :])
    return [sys.executable if word == "python" else word for word in words]


def run(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=120)


def test_the_compose_file_matches_the_compose_schema() -> None:
    checked = run(
        [tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(ROOT / "docker-compose.yml")]
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_dockerfile_passes_its_linter() -> None:
    checked = run([tool("hadolint"), str(ROOT / "Dockerfile")])
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("name", ["Dockerfile", "docker-compose.yml"])
def test_no_file_holds_a_secret(name: str) -> None:
    named = re.compile(r"(?i)(?:password|secret|token|api_?key|requirepass|rediscli_auth)\w*(?:\s*[:=]\s*|\s+)(\S+)")
    in_address = re.compile(r"://[^\s/@]*:([^\s/@]+)@")
    for line in (ROOT / name).read_text().splitlines():
        code = re.sub(r"\$\{[^}]*\}", "<given>", line.partition("#")[0])
        assert all(value == "<given>" for pattern in (named, in_address) for value in pattern.findall(code)), line


def test_a_secret_that_is_not_set_stops_compose_with_its_name() -> None:
    used = re.findall(r"\$\{(\w*PASSWORD)([^}]*)\}", (ROOT / "docker-compose.yml").read_text())
    assert {name for name, _ in used} == set(VALUES)
    assert all(rest.startswith(":?") for _, rest in used)


@pytest.mark.parametrize("target", ["api", "worker"])
def test_the_images_run_as_an_unprivileged_user(stages: dict[str, dict[str, str]], target: str) -> None:
    user = stages[target]["USER"].partition(":")[0]
    assert int(user) > 0
    assert f"--uid {user} " in stages[target]["RUN"]


def test_the_api_image_has_no_torch_and_the_worker_image_has(stages: dict[str, dict[str, str]]) -> None:
    assert "'.[server]'" in stages["build-api"]["RUN"]
    assert "'.[server,worker]'" in stages["build-worker"]["RUN"]
    assert "--from=build-api" in stages["api"]["COPY"]
    assert "--from=build-worker" in stages["worker"]["COPY"]


def test_everything_that_the_package_is_built_from_gets_into_the_build() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    packages = re.search(r"(?m)^packages = (\[.*\])", (ROOT / "pyproject.toml").read_text())
    assert packages is not None
    folders = {package.partition("/")[0] for package in json.loads(packages[1])}
    assert kept == folders | {"pyproject.toml", "constraints.txt", "README.md", "LICENSE", "Procfile"}


def test_every_variable_that_the_files_set_is_a_setting(
    compose: dict[str, Any], stages: dict[str, dict[str, str]]
) -> None:
    known = {f"LIGHTYARD_{name.upper()}" for name in Settings.model_fields}
    for name in OURS:
        assert set(compose["services"][name]["environment"]) <= known
    for target in ("api", "worker"):
        assert set(environment_of(stages[target])) <= known


def test_services_start_after_what_they_need_is_healthy(compose: dict[str, Any]) -> None:
    services = compose["services"]
    for name in ("api", "worker", "worker-cpu"):
        assert services[name]["depends_on"]["migrate"]["condition"] == "service_completed_successfully"
        assert services[name]["depends_on"]["redis"]["condition"] == "service_healthy"
    assert services["migrate"]["depends_on"]["postgres"]["condition"] == "service_healthy"
    assert all("healthcheck" in services[name] for name in ("postgres", "redis"))


def test_only_the_api_can_be_reached_from_outside_and_by_default_from_this_machine_alone(
    compose: dict[str, Any],
) -> None:
    published = {name: service["ports"] for name, service in compose["services"].items() if "ports" in service}
    assert published == {"api": ["127.0.0.1:8000:8000"]}
    assert compose["networks"]["backend"]["internal"] is True
    assert all(compose["services"][name]["networks"] == ["backend"] for name in ("postgres", "redis"))


def test_the_gpu_is_the_workers_alone(compose: dict[str, Any]) -> None:
    [device] = compose["services"]["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
    assert all("deploy" not in compose["services"][name] for name in ("api", "worker-cpu", "migrate"))


def test_stopping_gives_a_worker_more_time_than_its_trainers_have(compose: dict[str, Any]) -> None:
    for name in ("worker", "worker-cpu"):
        period = compose["services"][name]["stop_grace_period"]
        assert int(period.removesuffix("s")) > Settings().stop_grace_seconds


@pytest.fixture
def redis_command(compose: dict[str, Any], tmp_path: Path) -> tuple[list[str], int]:
    """The compose file's Redis command with its configuration, on a port and in a folder of this test."""
    service = compose["services"]["redis"]
    [binding] = service["configs"]
    port = free_port("127.0.0.1")
    configuration = tmp_path / "redis.conf"
    text = compose["configs"][binding["source"]]["content"].replace("dir /data", f"dir {tmp_path}")
    configuration.write_text(f"{text}bind 127.0.0.1\nport {port}\n")
    words = [str(configuration) if word == binding["target"] else word for word in service["command"]]
    assert words[0] == "redis-server"
    return [str(server_binary()), *words[1:]], port


def test_redis_starts_from_its_configuration_and_keeps_messages(redis_command: tuple[list[str], int]) -> None:
    command, port = redis_command
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, preexec_fn=bound_to_parent())
    try:
        with redis.Redis(port=port, password=VALUES["REDIS_PASSWORD"], retry=NO_RETRY) as client:
            wait_until(lambda: answers(client), what="Redis answers with the password")
            assert client.config_get("appendonly") == {"appendonly": "yes"}
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        with redis.Redis(port=port, retry=NO_RETRY) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()
    finally:
        server.terminate()
        server.wait()


def test_the_migration_runs_twice_and_makes_the_first_key(
    compose: dict[str, Any], postgres_url: str, home: Path
) -> None:
    command = command_of(json.dumps(compose["services"]["migrate"]["command"]))
    with empty_database(postgres_url) as url:
        keys = set()
        for _ in range(2):
            ran = run(command, LIGHTYARD_HOME=str(home), LIGHTYARD_DATABASE_URL=url)
            assert ran.returncode == 0, ran.stdout + ran.stderr
            keys.add((home / "key").read_text())
            assert not any(key.strip() in ran.stdout + ran.stderr for key in keys)
        assert len(keys) == 1


@of_production
def test_the_images_run_what_the_stack_runs(stages: dict[str, dict[str, str]], stack: Stack) -> None:
    ran = {name: process.args for name, process in stack.processes.items()}
    assert command_of(stages["api"]["CMD"]) == ran["api"]
    assert command_of(stages["worker"]["CMD"]) == ran[stack.workers[0]]


@of_production
def test_the_apis_health_check_passes_while_it_runs_and_fails_where_none_does(
    stages: dict[str, dict[str, str]], stack: Stack
) -> None:
    check = command_of(stages["api"]["HEALTHCHECK"])
    healthy = run(check, LIGHTYARD_PORT=str(stack.port))
    assert healthy.returncode == 0, healthy.stderr
    assert run(check, LIGHTYARD_PORT=str(free_port("127.0.0.1"))).returncode != 0


@of_production
def test_the_workers_health_check_passes_while_it_runs(stages: dict[str, dict[str, str]], stack: Stack) -> None:
    assert stack.processes[stack.workers[0]].poll() is None
    checked = run(command_of(stages["worker"]["HEALTHCHECK"]))
    assert checked.returncode == 0, checked.stderr


def test_the_workers_health_check_fails_where_no_worker_runs(stages: dict[str, dict[str, str]]) -> None:
    alone = ["unshare", "--fork", "--pid", "--mount-proc"]
    if shutil.which("unshare") is None or run([*alone, "true"]).returncode != 0:
        pytest.skip("this user may make no process namespace")
    checked = run([*alone, *command_of(stages["worker"]["HEALTHCHECK"])])
    assert checked.returncode == 1, checked.stderr
    assert "Traceback" not in checked.stderr


def test_the_health_check_of_redis_is_run_with_its_password(compose: dict[str, Any]) -> None:
    service = compose["services"]["redis"]
    assert service["environment"]["REDISCLI_AUTH"] == VALUES["REDIS_PASSWORD"]
    assert service["healthcheck"]["test"][0] == "CMD-SHELL"


def test_the_health_check_of_postgres_passes_on_a_server_that_answers_and_fails_on_none(
    compose: dict[str, Any], postgres_url: str
) -> None:
    kind, name, *arguments = compose["services"]["postgres"]["healthcheck"]["test"]
    assert (kind, name) == ("CMD", "pg_isready")
    server = make_url(postgres_url)
    if server.host != "127.0.0.1":
        pytest.skip("the check asks the machine it runs on")
    command = [str(postgres_binaries() / name), *arguments]
    assert run(command, PGPORT=str(server.port)).returncode == 0
    assert run(command, PGPORT=str(free_port("127.0.0.1"))).returncode != 0
