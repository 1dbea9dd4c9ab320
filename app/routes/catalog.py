"""The catalogue: what workers can run."""

from typing import Annotated

from fastapi import APIRouter, Header, Query, Response

from app import cursor as cursors
from app import etag
from app.deps import GUARDS, Cursor, PageLimit, Parts
from app.routes.documented import problems
from app.schemas.fleet import CatalogPage, ClassDetailOut, ClassOut
from app.schemas.resource import FaultOut, answer
from core.catalog import Kind, Unresolved
from core.errors import NotFound

router = APIRouter(prefix="/v1/catalog", tags=["catalog"], dependencies=GUARDS)

IfNoneMatch = Annotated[str | None, Header()]


@router.get("", response_model=CatalogPage, summary="List what can be run", responses=problems(304))
def list_classes(
    parts: Parts,
    kind: Annotated[Kind | None, Query()] = None,
    limit: PageLimit = 20,
    cursor: Cursor = None,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """Every class that a config may name, by path: what the workers that are up announce, together."""
    catalog = parts.catalog.current()
    tag = f'"{catalog.digest}"'
    if etag.matches_weakly(if_none_match, tag):
        return Response(status_code=304, headers={"ETag": tag})
    listing = f"catalog {kind}"
    entries = sorted(catalog.entries, key=lambda entry: entry.class_path)
    rows = [entry for entry in entries if kind is None or entry.kind is kind]
    if cursor is not None:
        after = cursors.decode(cursor, listing, str)
        rows = [entry for entry in rows if entry.class_path > after]
    limit = min(limit, parts.config.page_max_rows)
    shown, behind = cursors.cut(rows, limit, listing, lambda row: row.class_path)
    page = CatalogPage(
        data=[ClassOut.of(entry) for entry in shown],
        next_cursor=behind,
        errors=[FaultOut(pointer=fault.pointer, code=fault.code, message=fault.message) for fault in catalog.faults],
    )
    return answer(page, headers={"ETag": tag})


@router.get("/{class_path}", response_model=ClassDetailOut, summary="Read one class", responses=problems(304))
def read_class(parts: Parts, class_path: str, if_none_match: IfNoneMatch = None) -> Response:
    """One class with its arguments' JSON Schema, docstring and defaults; an alias or a short name finds it too."""
    catalog = parts.catalog.current()
    tag = f'"{catalog.digest}"'
    entry = catalog.resolve(class_path, ())
    if isinstance(entry, Unresolved):
        raise NotFound(entry.message, code="class_not_found")
    if etag.matches_weakly(if_none_match, tag):
        return Response(status_code=304, headers={"ETag": tag})
    return answer(ClassDetailOut.of(entry), headers={"ETag": tag})
