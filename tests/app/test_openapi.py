import re
import sys
from pathlib import Path
from typing import Any

import pytest

from app.main import create_app
from app.openapi import main
from app.request_bodies import JOB_SPEC
from core.settings import Settings
from core.spec import read_fields


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return create_app(Settings(home=tmp_path_factory.mktemp("home"))).openapi()


def test_the_snapshot_is_what_the_code_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["app.openapi", "--check"])
    main()  # exits where it is not


def test_every_guarded_call_tells_its_key_and_its_errors(document: dict[str, Any]) -> None:
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert operation["summary"], path
            if not path.startswith("/v1"):
                continue
            assert operation["security"], path
            for status in ("400", "401", "404", "406", "503"):
                assert "application/problem+json" in operation["responses"][status]["content"], (path, method)


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    def references(value: Any) -> list[str]:
        if isinstance(value, dict):
            own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
            return own + [one for item in value.values() for one in references(item)]
        return [one for item in value for one in references(item)] if isinstance(value, list) else []

    found = references(document)
    assert found
    for reference in found:
        assert reference.removeprefix("#/components/schemas/") in document["components"]["schemas"]


def test_a_submission_is_described_as_json_and_yaml(document: dict[str, Any]) -> None:
    for path in ("/v1/jobs", "/v1/jobs:validate"):
        content = document["paths"][path]["post"]["requestBody"]["content"]
        assert set(content) == {"application/json", "application/yaml"}


def test_the_fields_of_the_job_spec_are_those_that_are_read() -> None:
    fields = {name: None for name in JOB_SPEC["properties"] if name != "config"}
    _, faults = read_fields(fields, tuple(fields))
    assert not [fault for fault in faults if fault.code == "unknown_field"]


def test_every_error_code_is_in_the_documentation() -> None:
    root = Path(__file__).parents[2]
    told = (root / "docs" / "api.md").read_text()
    sources = [*(root / "app").rglob("*.py"), *(root / "core").glob("*.py")]
    codes = {code for source in sources for code in re.findall(r'\bcode="([a-z_0-9]+)"', source.read_text())}
    assert len(codes) > 20
    assert [code for code in sorted(codes) if f"`{code}`" not in told] == []
