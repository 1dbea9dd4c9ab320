"""The loss curve of two ranks against that of one device with the same global batch, as a picture.

`python -m benchmarks.ddp_curve` submits `examples/lessons/ddp.yaml` and `ddp_alone.yaml` to a running service, whose
worker has `lessons` in its catalogue and two devices, reads what they logged through the API and writes `docs/ddp.svg`.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from lightyard import Client

ROOT = Path(__file__).resolve().parent.parent
WIDTH, HEIGHT, LEFT, BOTTOM, MARGIN = 720, 360, 56, 40, 16
"""Pixels."""
RUNS = (("ddp_alone", "one device, batches of 64", "#9db7d5", 6.0), ("ddp", "two ranks, batches of 32", "#b3400e", 1.5))
"""Lesson, legend, colour, width of the line: the second is drawn upon the first."""

Curve = Sequence[tuple[int, float]]


def curve(client: Client, lesson: str) -> Curve:
    """The loss that a job of this lesson logged, by step."""
    job = client.wait(client.submit(ROOT / "examples" / "lessons" / f"{lesson}.yaml").id)
    if job.status != "succeeded":
        raise SystemExit(f"{lesson}: {job.status}: {job.reason}")
    return [(point.step, point.value) for point in client.series(job.id, "loss").points if point.value is not None]


def svg(curves: Sequence[Curve]) -> str:
    """The curves, with axes and a legend."""
    last = max(step for points in curves for step, _ in points)
    most = max(value for points in curves for _, value in points) * 1.05

    def x(step: float) -> float:
        return LEFT + step / last * (WIDTH - LEFT - MARGIN)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - value / most * (HEIGHT - BOTTOM - MARGIN)

    apart = max(abs(one[1] - other[1]) for one, other in zip(*curves, strict=True))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif"'
        ' font-size="12">',
        f"<title>Loss of two ranks and of one device; at most {apart:.2g} apart</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<path d="M{LEFT} {MARGIN}V{y(0):.1f}H{WIDTH - MARGIN}" fill="none" stroke="#444"/>',
    ]
    parts += [
        f'<text x="{x(tick):.1f}" y="{y(0) + 16:.1f}" text-anchor="middle">{tick}</text>'
        for tick in range(0, last + 1, 10)
    ]
    parts += [
        f'<text x="{LEFT - 8}" y="{y(tenths / 10) + 4:.1f}" text-anchor="end">{tenths / 10}</text>'
        for tenths in range(0, int(most * 10) + 1, 5)
    ]
    parts.append(f'<text x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 6}" text-anchor="middle">step</text>')
    parts.append(
        f'<text x="14" y="{HEIGHT / 2}" text-anchor="middle" transform="rotate(-90 14 {HEIGHT / 2})">loss</text>'
    )
    for number, (points, (_, legend, colour, width)) in enumerate(zip(curves, RUNS, strict=True)):
        path = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in points)
        line = f'fill="none" stroke="{colour}" stroke-width="{width}" stroke-linejoin="round"'
        parts.append(f'<polyline points="{path}" {line}/>')
        top = MARGIN + 16 + 20 * number
        parts.append(f'<path d="M{WIDTH - 240} {top}h32" {line}/>')
        parts.append(f'<text x="{WIDTH - 200}" y="{top + 4}">{legend}</text>')
    return "\n".join([*parts, "</svg>", ""])


def main() -> None:
    """Draw it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ddp_curve", description=main.__doc__)
    parser.add_argument("--to", type=Path, default=ROOT / "docs" / "ddp.svg")
    to: Path = parser.parse_args().to
    with Client() as client:
        to.write_text(svg([curve(client, lesson) for lesson, *_ in RUNS]))


if __name__ == "__main__":
    main()
