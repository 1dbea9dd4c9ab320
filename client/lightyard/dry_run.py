"""What the service found when it tried one batch of everything."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from lightyard.records import Raw, Reason, number


@dataclass(frozen=True, slots=True)
class Tried:
    """A phase that was tried; `seconds` is None where it did not come to its end, `metrics` what was logged by then."""

    phase: str
    ok: bool
    batches: int
    seconds: float | None
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class DryRun:
    """A dry run: `ok` is None until it has ended, `waiting` what a queued one waits for, `log` the end of its log."""

    job_id: str
    status: str
    ok: bool | None
    phases: tuple[Tried, ...]
    warnings: tuple[str, ...]
    reason: Reason | None
    seconds: float | None
    log: str
    waiting: str | None
    raw: Raw = field(repr=False, compare=False)

    @classmethod
    def from_raw(cls, raw: Raw) -> "DryRun":
        """Read the answer to a dry run."""
        reason, waiting, ok = raw.get("reason"), raw.get("waiting") or {}, raw.get("ok")
        return cls(
            job_id=str(raw.get("job_id", "")),
            status=str(raw.get("status", "unknown")),
            ok=ok if isinstance(ok, bool) else None,
            phases=tuple(_tried(one) for one in raw.get("phases") or ()),
            warnings=tuple(map(str, raw.get("warnings") or ())),
            reason=Reason(str(reason.get("code", "")), str(reason.get("message", "")), reason.get("traceback"))
            if reason
            else None,
            seconds=number(raw.get("seconds")),
            log=str(raw.get("log") or ""),
            waiting=waiting.get("reason"),
            raw=raw,
        )


def _tried(raw: Raw) -> Tried:
    metrics = {name: number(value) for name, value in (raw.get("metrics") or {}).items()}
    return Tried(
        phase=str(raw.get("phase", "")),
        ok=raw.get("ok") is True,
        batches=int(number(raw.get("batches")) or 0),
        seconds=number(raw.get("seconds")),
        metrics={name: value for name, value in metrics.items() if value is not None},
    )
