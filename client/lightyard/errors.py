"""What can go wrong between a caller and the service, one class per thing a caller would do about it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


class LightyardError(Exception):
    """Root of every error that this package raises on purpose."""

    code = "error"

    def as_dict(self) -> dict[str, Any]:
        """The error as a JSON document."""
        return {"code": self.code, "detail": str(self)}


class ConfigError(LightyardError):
    """The address or the key of the service is missing its form, or the config file cannot be read."""

    code = "bad_client_config"


class SpecError(LightyardError):
    """A spec or an override cannot be read or sent, found before anything was sent."""

    code = "bad_spec"


class UnreachableError(LightyardError):
    """The service could not be reached, or went away, for longer than the retry budget."""

    code = "unreachable"


class BadAnswerError(LightyardError):
    """Something answered, and it does not speak Lightyard's API: most often a wrong address."""

    code = "bad_answer"


class DownloadError(LightyardError):
    """What was downloaded is not what the service has listed, twice in a row."""

    code = "download_damaged"


class WaitTimeoutError(LightyardError, TimeoutError):
    """The job had not ended when the caller's patience did. The job goes on."""

    code = "wait_timeout"


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with a body: where (an RFC 6901 JSON pointer), a stable code, and a sentence."""

    pointer: str
    code: str
    message: str

    @classmethod
    def from_raw(cls, raw: Mapping[str, Any]) -> "Fault":
        """Read one member of a problem's `errors`."""
        return cls(str(raw.get("pointer", "")), str(raw.get("code", "")), str(raw.get("message", "")))


class ApiError(LightyardError):
    """The service refused: its RFC 9457 problem body, with `raw` for the members not named here.

    `status` is HTTP's, `code` the stable word, `faults` everything wrong with the body that was sent and `request_id`
    what to quote when asking the operator. `retry_after_seconds` is how long the service asked to be left alone.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        faults: tuple[Fault, ...] = (),
        request_id: str | None = None,
        retry_after_seconds: float | None = None,
        raw: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(f"{status} {code}: {detail}")
        self.status = status
        self.code = code
        self.detail = detail
        self.faults = faults
        self.request_id = request_id
        self.retry_after_seconds = retry_after_seconds
        self.raw: Mapping[str, Any] = raw or {}

    def as_dict(self) -> dict[str, Any]:
        """The problem body as it came, with the members that every error has."""
        return {**self.raw, "status": self.status, "code": self.code, "detail": self.detail}
