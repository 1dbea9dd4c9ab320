"""Requests that get through: timeouts on everything, retries with backoff, problems raised as errors."""

import json
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx

from lightyard.config import Address
from lightyard.errors import ApiError, BadAnswerError, Fault, LightyardError, UnreachableError
from lightyard.release import client_version
from lightyard.retry import Backoff, Retry, retry_after_seconds

log = logging.getLogger("lightyard.client")

CONNECT_SECONDS = 5.0
READ_SECONDS = 30.0

# Answers that say "not now": a limit, a part that is away, a proxy in front of an API that restarts.
RETRIED_STATUSES = frozenset({429, 502, 503, 504})


class Transport:
    """HTTP to one service. Every call it is given may be sent twice: creating ones carry an idempotency key."""

    def __init__(self, address: Address, retry: Retry) -> None:
        self.address = address
        self.retry = retry
        headers = {"User-Agent": f"lightyard/{client_version()}", "Accept": "application/json, */*;q=0.5"}
        if address.key:
            headers["Authorization"] = f"Bearer {address.key}"
        self._http = httpx.Client(
            headers=headers,
            timeout=httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS),
            # A proxy named in the environment is for the world outside, never for this machine.
            trust_env=not address.is_local,
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
        read_seconds: float = READ_SECONDS,
        retry: Retry | None = None,
    ) -> httpx.Response:
        """Send a request until it is answered, and return the answer: 2xx or 304.

        Raises ApiError on a refusal, UnreachableError when the retry budget is spent without an answer, and
        BadAnswerError when the service is somewhere else.
        """
        backoff = Backoff(retry or self.retry)
        while True:
            failure: LightyardError
            try:
                response = self._http.request(
                    method,
                    self.address.url + path,
                    params={name: value for name, value in (params or {}).items() if value is not None},
                    headers=headers,
                    content=content,
                    timeout=httpx.Timeout(read_seconds, connect=CONNECT_SECONDS),
                )
            except httpx.TransportError as error:
                failure = self.unreachable(error)
            else:
                if response.has_redirect_location and method != "HEAD":
                    where = response.headers["Location"]
                    raise BadAnswerError(f"{self.address.url} has moved to {where}; use that as the address")
                if response.status_code < 400:
                    return response
                failure = refused(response)
            self.pause(backoff, failure)

    @contextmanager
    def stream(self, url: str, headers: Mapping[str, str], read_seconds: float) -> Iterator[httpx.Response]:
        """Send one GET, once, and give the answer before its body is read; redirects are the caller's.

        `url` is a path of the service, or an address elsewhere, to which the key is not sent.
        Raises `httpx.TransportError` on what a second try may mend.
        """
        timeout = httpx.Timeout(read_seconds, connect=CONNECT_SECONDS)
        if url.startswith("/"):
            request = self._http.build_request("GET", self.address.url + url, headers=headers, timeout=timeout)
        else:
            request = self._http.build_request("GET", url, headers=headers, timeout=timeout)
            request.headers.pop("Authorization", None)
        response = self._http.send(request, stream=True)
        try:
            yield response
        finally:
            response.close()

    def pause(self, backoff: Backoff, failure: LightyardError) -> None:
        """Wait before the next try, or raise `failure` when the budget is spent or no further try would help."""
        refusal = failure if isinstance(failure, ApiError) else None
        hopeless = refusal.status not in RETRIED_STATUSES if refusal else "CERTIFICATE_VERIFY_FAILED" in str(failure)
        wait = None if hopeless else backoff.next_wait(refusal.retry_after_seconds if refusal else None)
        if wait is None:
            raise failure
        log.warning("%s; trying again in %.1f s", failure, wait)
        time.sleep(wait)

    def unreachable(self, error: httpx.TransportError) -> UnreachableError:
        """The error to raise for a failure of the connection."""
        words = str(error) or type(error).__name__
        return UnreachableError(f"cannot reach {self.address.url} ({words})")


def refused(response: httpx.Response) -> ApiError:
    """The error that an answer of status 400 or more, already read, stands for.

    An answer that is no problem body, such as a proxy's page, is quoted in short instead.
    """
    try:
        raw = json.loads(response.content)
    except ValueError:
        raw = None
    problem = raw if isinstance(raw, dict) else {}
    words = "" if "html" in response.headers.get("Content-Type", "") else " ".join(response.text.split())[:200]
    errors = problem.get("errors")
    return ApiError(
        response.status_code,
        str(problem.get("code") or f"http_{response.status_code}"),
        str(problem.get("detail") or problem.get("title") or words or f"{response.reason_phrase}: {response.url.path}"),
        faults=tuple(Fault.from_raw(one) for one in errors if isinstance(one, dict))
        if isinstance(errors, list)
        else (),
        request_id=problem.get("request_id") or response.headers.get("X-Request-Id"),
        retry_after_seconds=retry_after_seconds(response.headers.get("Retry-After")),
        raw=problem,
    )


def document(response: httpx.Response) -> dict[str, Any]:
    """The JSON object of an answer. Raises BadAnswerError when it is none."""
    try:
        raw = json.loads(response.content)
    except ValueError:
        raw = None
    if not isinstance(raw, dict):
        raise BadAnswerError(
            f"{response.request.url} answered {response.status_code} with something that is not Lightyard's API; "
            "is the address right?"
        )
    return raw
