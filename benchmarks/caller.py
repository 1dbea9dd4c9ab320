"""A client that costs little: one kept connection, no more than HTTP/1.1 and JSON."""

import http.client
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

TIMEOUT_SECONDS = 60.0


class Caller:
    """One connection to a server, for one thread at a time. Raises `OSError` and `http.client.HTTPException`."""

    def __init__(self, address: str, headers: Mapping[str, str] | None = None) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=TIMEOUT_SECONDS)
        self._headers = dict(headers or {})

    def call(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
        """Status and body of the answer."""
        self._connection.request(method, path, body, self._headers | headers)
        answer = self._connection.getresponse()
        return answer.status, answer.read()

    def json(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Any:
        """The answer as JSON values; one that is no success breaks the benchmark."""
        status, content = self.call(method, path, body, **headers)
        assert status < 400, f"{method} {path}: {status} {content[:500]!r}"
        return json.loads(content)

    def close(self) -> None:
        """End the connection."""
        self._connection.close()
