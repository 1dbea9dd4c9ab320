"""Answers kept under a caller's idempotency key, in the transaction that makes what they speak of."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, Row, Select, delete, select

from core.database import Database
from core.errors import Invalid
from core.tables import idempotency_keys


@dataclass(frozen=True, slots=True)
class Answer:
    """What a creating call answers; `replayed` when it was made by an earlier call of the same key."""

    status: int
    location: str
    body: bytes
    replayed: bool = False


class Idempotency:
    """Runs a creating call once per key."""

    def __init__(self, database: Database, keep_hours: float) -> None:
        self._database = database
        self._keep = timedelta(hours=keep_hours)

    def once(self, key_id: str, key: str, request: bytes, create: Callable[[Connection], Answer]) -> Answer:
        """The answer kept under the key, or the one that `create` makes now.

        The key's row comes last: whoever finds it taken, perhaps after waiting for the transaction that takes it,
        undoes what it made and gives that one's answer. Raises `Invalid` when the key came with another request before.
        """
        digest = hashlib.sha256(request).hexdigest()
        try:
            with self._database.write() as connection:
                answer = create(connection)
                self._keep_under(connection, key_id, key, digest, answer)
                return answer
        except _Taken:
            with self._database.read() as connection:
                return self._kept(connection.execute(_row(key_id, key)).one(), key, digest)

    def find(self, key_id: str, key: str, request: bytes) -> Answer | None:
        """The answer kept under the key, without making one. Raises `Invalid` as `once` does."""
        with self._database.read() as connection:
            fresh = idempotency_keys.c.created_at >= self._database.clock(self._keep)
            row = connection.execute(_row(key_id, key).where(fresh)).one_or_none()
        return None if row is None else self._kept(row, key, hashlib.sha256(request).hexdigest())

    def collect(self, limit: int = 1000) -> None:
        """Forget keys that are older than they are kept."""
        with self._database.write() as connection:
            cutoff = self._database.now(connection) - self._keep
            old = select(idempotency_keys.c.key).where(idempotency_keys.c.created_at < cutoff).limit(limit)
            connection.execute(
                delete(idempotency_keys).where(idempotency_keys.c.created_at < cutoff, idempotency_keys.c.key.in_(old))
            )

    def _keep_under(self, connection: Connection, key_id: str, key: str, digest: str, answer: Answer) -> None:
        """Write the key's row, in place of one that is kept no longer. Raises `_Taken`."""
        values = {
            "request_digest": digest,
            "status": answer.status,
            "location": answer.location,
            "body": answer.body,
            "created_at": self._database.clock(),
        }
        statement = self._database.insert(idempotency_keys).values(api_key_id=key_id, key=key, **values)
        expired = idempotency_keys.c.created_at < self._database.clock(self._keep)
        statement = statement.on_conflict_do_update(index_elements=["api_key_id", "key"], set_=values, where=expired)
        if connection.execute(statement.returning(idempotency_keys.c.key)).first() is None:
            raise _Taken

    def _kept(self, row: Row[Any], key: str, digest: str) -> Answer:
        if row.request_digest != digest:
            raise Invalid(
                f"Idempotency-Key {key!r} came with another request before. Use a new key for a new request.",
                code="idempotency_key_reused",
            )
        return Answer(status=row.status, location=row.location, body=bytes(row.body), replayed=True)


class _Taken(Exception):
    """Another call has an answer under this key."""


def _row(key_id: str, key: str) -> Select[Any]:
    return select(idempotency_keys).where(idempotency_keys.c.api_key_id == key_id, idempotency_keys.c.key == key)
