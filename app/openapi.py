"""The OpenAPI document: generated from the routes, and kept beside them as `openapi.json`."""

import sys
from pathlib import Path
from typing import Any

import orjson
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from app.request_bodies import SCHEMAS
from app.schemas.resource import ProblemOut

VERSION = "0.1.0"
SNAPSHOT = Path(__file__).resolve().parent.parent / "openapi.json"


def install(app: FastAPI) -> None:
    """Have the app describe itself by `document`."""

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = document(app)
        return app.openapi_schema

    app.openapi = described  # type: ignore[method-assign]  # FastAPI's own way to replace it


def query_parameters(app: FastAPI) -> dict[tuple[str, str], list[str]]:
    """The query parameters that each call reads, by its path and method; `*` stands for any characters."""
    found: dict[tuple[str, str], list[str]] | None = getattr(app.state, "query_parameters", None)
    if found is None:
        found = app.state.query_parameters = {
            (path, method.upper()): [one["name"] for one in operation.get("parameters", ()) if one["in"] == "query"]
            for path, operations in app.openapi()["paths"].items()
            for method, operation in operations.items()
        }
    return found


def document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document of an app."""
    found = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
    schemas = found["components"]["schemas"]
    schemas[ProblemOut.__name__] = ProblemOut.model_json_schema(
        mode="serialization", ref_template="#/components/schemas/{model}"
    )
    for name, schema in schemas[ProblemOut.__name__].pop("$defs", {}).items():
        schemas.setdefault(name, schema)
    schemas.update(SCHEMAS)
    for name in ("HTTPValidationError", "ValidationError"):  # FastAPI's own error body is never sent
        schemas.pop(name, None)
    for operations in found["paths"].values():
        for operation in operations.values():
            answers = operation["responses"]
            if "HTTPValidationError" in str(answers.get("422", "")):
                del answers["422"]
            for status in answers.values():
                status.setdefault("description", "")
    return found


def main() -> None:
    """`python -m app.openapi` prints the document; `--check` exits 1 where `openapi.json` is another."""
    from app.main import create_app

    app = create_app()
    text = orjson.dumps(app.openapi(), option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE)
    if "--check" not in sys.argv[1:]:
        sys.stdout.buffer.write(text)
    elif not SNAPSHOT.exists() or SNAPSHOT.read_bytes() != text:
        sys.stderr.write("openapi.json is not what the code says. Run: python -m app.openapi > openapi.json\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
