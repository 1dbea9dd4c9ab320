"""Projects and the keys that speak for them."""

import contextlib
import hashlib
import os
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import insert, select

from core.database import Database, private_folder
from core.errors import Unauthorized
from core.ids import new_id
from core.tables import api_keys, projects

KEY_PREFIX = "ly_"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who a request speaks for."""

    key_id: str
    project_id: str
    project: str


def digest(key: str) -> str:
    """What is kept of a key. A key has 256 random bits, so a plain hash cannot be reversed by guessing."""
    return hashlib.sha256(key.encode()).hexdigest()


def authenticate(database: Database, key: str) -> Caller:
    """The caller that a key belongs to.

    Raises `Unauthorized` for a key that was never made or was revoked.
    """
    query = (
        select(api_keys.c.id, projects.c.id.label("project_id"), projects.c.name)
        .join(projects, projects.c.id == api_keys.c.project_id)
        .where(api_keys.c.digest == digest(key), api_keys.c.revoked_at.is_(None))
    )
    with database.read() as connection:
        row = connection.execute(query).one_or_none()
    if row is None:
        raise Unauthorized(
            "This API key is not known here. Send `Authorization: Bearer ly_…` with a key of this service."
        )
    return Caller(key_id=row.id, project_id=row.project_id, project=row.name)


def first_start(database: Database, key_path: Path) -> None:
    """Make the project `default` and a first key, kept in `key_path`, where there is no key yet.

    A key file that is already there is taken as the key, so that an operator may choose it. Several processes may
    call this at once: the file is made exclusively, and the loser takes the winner's.
    """
    with database.read() as connection:
        if connection.execute(select(api_keys.c.id).limit(1)).first() is not None:
            return
    private_folder(key_path.parent)
    key = _kept_key(key_path)
    now = datetime.now(UTC)
    with database.write() as connection:
        statement = database.insert(projects).values(id=new_id("proj"), name="default", created_at=now)
        connection.execute(statement.on_conflict_do_nothing())
        project_id = connection.execute(select(projects.c.id).where(projects.c.name == "default")).scalar_one()
        known = connection.execute(select(api_keys.c.id).where(api_keys.c.digest == digest(key))).first()
        if known is None:
            connection.execute(
                insert(api_keys).values(id=new_id("key"), project_id=project_id, digest=digest(key), created_at=now)
            )


def _kept_key(path: Path) -> str:
    """The key in the file, made first where there is none: written whole beside it, then linked to its name."""
    if not path.exists():
        draft = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(KEY_PREFIX + secrets.token_urlsafe(32) + "\n")
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
        draft.unlink()
    return path.read_text().strip()
