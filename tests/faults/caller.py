"""A caller of an API that comes and goes: asks once, and knows an outage from a wrong answer."""

import time
from typing import Any

import httpx

ASK_SECONDS = 3.0
INSIST_SECONDS = 60.0
PAUSE_SECONDS = 0.2
PAGE = 200


class Caller:
    """Asks one API. What no outage explains is kept in `oddities`."""

    def __init__(self, address: str, key: str) -> None:
        self.oddities: list[str] = []
        self._http = httpx.Client(
            base_url=address, headers={"Authorization": f"Bearer {key}"}, timeout=ASK_SECONDS, trust_env=False
        )

    def ask(self, method: str, path: str, **request: Any) -> httpx.Response | None:
        """The answer; None while the API or what it stands on is away. Never raises for that."""
        try:
            answer = self._http.request(method, path, **request)
        except httpx.TransportError:
            return None
        if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE:
            if "Retry-After" not in answer.headers:
                self.oddities.append(f"{method} {path} answered 503 without Retry-After: {answer.text[:300]}")
            return None
        if answer.status_code >= httpx.codes.INTERNAL_SERVER_ERROR:
            self.oddities.append(f"{method} {path} answered {answer.status_code}: {answer.text[:300]}")
            return None
        return answer

    def get(self, path: str, **parameters: Any) -> Any:
        """What a path says, once the API answers. Raises `AssertionError` when that takes too long or it refuses."""
        return self.insist(path, parameters).json()

    def content(self, path: str) -> bytes:
        """The bytes behind a path, as `get`."""
        return self.insist(path, {}).content

    def all(self, path: str, **parameters: Any) -> list[Any]:
        """Every row of a list, as `get`."""
        rows: list[Any] = []
        cursor: dict[str, str] = {}
        while True:
            page = self.get(path, **parameters, **cursor, limit=PAGE)
            rows += page["data"]
            if not page.get("next_cursor"):
                return rows
            cursor = {"cursor": page["next_cursor"]}

    def insist(self, path: str, parameters: dict[str, Any]) -> httpx.Response:
        """The answer to a GET, asked for until there is one."""
        deadline = time.monotonic() + INSIST_SECONDS
        while True:
            answer = self.ask("GET", path, params=parameters)
            if answer is not None:
                assert answer.is_success, f"GET {path} answered {answer.status_code}: {answer.text[:500]}"
                return answer
            assert time.monotonic() < deadline, f"the API has not answered GET {path} for {INSIST_SECONDS:g} s"
            time.sleep(PAUSE_SECONDS)

    def close(self) -> None:
        """Hang up."""
        self._http.close()
