"""What a benchmark found: samples of ours, samples of its peer from the same run, and what was aimed at."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table. `ours` and `theirs` are samples in `unit`, taken by turns where that is possible."""

    number: int
    """The group it belongs to, as the table in docs/benchmarks.md counts them."""
    what: str
    """What was measured, and how much of it."""
    unit: str
    ours: Sequence[float]
    aim: str = ""
    """In words; empty where nothing was aimed at."""
    met: bool | None = None
    """Whether the aim was met; None where there is none."""
    peer: str = ""
    """What it was compared with; empty where there is nothing like it."""
    theirs: Sequence[float] = ()
    """Empty where the peer could not be had."""
    note: str = ""
    """What limits it, or why the peer is missing."""
    paired: bool = False
    """Whether each sample of ours was taken beside one of theirs, in that order."""

    @property
    def ratio(self) -> float | None:
        """Our median by the peer's; of pairs, the median of their ratios."""
        if not self.theirs:
            return None
        if self.paired:
            return ratio_of_pairs(self.ours, self.theirs)
        return statistics.median(self.ours) / statistics.median(self.theirs)

    @property
    def cells(self) -> list[str]:
        """The line, cell by cell, as `HEAD` names them."""
        ratio = self.ratio
        met = "" if self.met is None else ("yes" if self.met else "**no**")
        told = f"{number(ratio)} ×" if ratio is not None else ""
        return [
            str(self.number),
            self.what,
            spread(self.ours, self.unit),
            f"{self.peer}: {spread(self.theirs, self.unit)}" if self.theirs else self.peer and f"{self.peer}: –",
            told,
            self.aim,
            met,
            self.note,
        ]


HEAD = ("#", "what", "Lightyard: median (min–max)", "peer: median (min–max)", "ratio", "aim", "met", "what limits it")


def ratio_of_pairs(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of how many times theirs each of ours is."""
    return statistics.median(mine / other for mine, other in zip(ours, theirs, strict=True))


def table(figures: Sequence[Figure]) -> str:
    """The figures as a table in Markdown."""
    rows = [HEAD, ("---",) * len(HEAD), *(figure.cells for figure in figures)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in rows)


def spread(samples: Sequence[float], unit: str) -> str:
    """Median, and least and most where there are several."""
    if not samples:
        return "–"
    middle = f"{number(statistics.median(samples))} {unit}".rstrip()
    return middle if len(samples) == 1 else f"{middle} ({number(min(samples))}–{number(max(samples))})"


def number(value: float) -> str:
    """Three significant digits, no exponent, thousands apart."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 0.001 else f"{value:.5f}"


def percentile(samples: Sequence[float], share: float) -> float:
    """The sample below which that share of them lies, 0 to 1; nearest rank."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
