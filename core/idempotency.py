"""Answers kept under a caller's idempotency key, in the transaction that makes what they speak of."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import Connection, delete, select, update

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

        The key's row is inserted first: a second call of the same key waits for the first one's transaction and then
        finds its answer. Raises `Invalid` when the key came with another request before.
        """
        digest = hashlib.sha256(request).hexdigest()
        with self._database.write() as connection:
            now = self._database.now(connection)
            mine = (idempotency_keys.c.api_key_id == key_id) & (idempotency_keys.c.key == key)
            connection.execute(delete(idempotency_keys).where(mine, idempotency_keys.c.created_at < now - self._keep))
            statement = self._database.insert(idempotency_keys).values(
                api_key_id=key_id, key=key, request_digest=digest, status=0, location="", body=b"", created_at=now
            )
            inserted = connection.execute(statement.on_conflict_do_nothing().returning(idempotency_keys.c.key)).first()
            if inserted is None:
                return self._kept(connection, key_id, key, digest)
            answer = create(connection)
            values = {"status": answer.status, "location": answer.location, "body": answer.body}
            connection.execute(update(idempotency_keys).where(mine).values(**values))
            return answer

    def find(self, key_id: str, key: str, request: bytes) -> Answer | None:
        """The answer kept under the key, without making one. Raises `Invalid` as `once` does."""
        with self._database.read() as connection:
            now = self._database.now(connection)
            digest = hashlib.sha256(request).hexdigest()
            mine = (idempotency_keys.c.api_key_id == key_id) & (idempotency_keys.c.key == key)
            fresh = select(idempotency_keys.c.key).where(mine, idempotency_keys.c.created_at >= now - self._keep)
            if connection.execute(fresh).first() is None:
                return None
            return self._kept(connection, key_id, key, digest)

    def collect(self, limit: int = 1000) -> None:
        """Forget keys that are older than they are kept."""
        with self._database.write() as connection:
            cutoff = self._database.now(connection) - self._keep
            old = select(idempotency_keys.c.key).where(idempotency_keys.c.created_at < cutoff).limit(limit)
            connection.execute(
                delete(idempotency_keys).where(idempotency_keys.c.created_at < cutoff, idempotency_keys.c.key.in_(old))
            )

    def _kept(self, connection: Connection, key_id: str, key: str, digest: str) -> Answer:
        row = connection.execute(
            select(idempotency_keys).where(idempotency_keys.c.api_key_id == key_id, idempotency_keys.c.key == key)
        ).one()
        if row.request_digest != digest:
            raise Invalid(
                f"Idempotency-Key {key!r} came with another request before. Use a new key for a new request.",
                code="idempotency_key_reused",
            )
        return Answer(status=row.status, location=row.location, body=bytes(row.body), replayed=True)
