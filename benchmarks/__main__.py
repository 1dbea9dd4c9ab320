"""`python -m benchmarks [NAME …]`: measures, each benchmark against its peer in the same run, and prints the table.

Figures go to `benchmarks/.results.json` too, from where `--table` prints all that were measured last.
"""

import argparse
import dataclasses
import importlib
import json
import os
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

from benchmarks.figure import Figure, table

RESULTS = Path(__file__).resolve().parent / ".results.json"
BENCHMARKS = (
    "first_step",
    "short_jobs",
    "steps",
    "ingest",
    "curves",
    "poll",
    "submit",
    "watchers",
    "download",
    "growth",
    "contention",
    "memory",
    "publishing",
)
"""Modules of this folder with a function `measure(folder) -> list[Figure]`, in the order of their numbers."""


def main() -> None:
    """Measure what is asked for, all by default. Exit status 1 if a benchmark broke; an aim missed is told, no more."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; default: all")
    parser.add_argument("--table", action="store_true", help="measure nothing: print what was measured last")
    arguments = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # whoever runs a script often has it compiled, and so have peers
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(143))  # so that what was started is stopped
    if unknown := set(arguments.names) - set(BENCHMARKS):
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}")
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    broken = False
    for name in [] if arguments.table else arguments.names or BENCHMARKS:
        began = time.monotonic()
        try:
            with tempfile.TemporaryDirectory(prefix="lightyard-bench-") as folder:
                found: list[Figure] = importlib.import_module(f"benchmarks.{name}").measure(Path(folder))
        except Exception:
            traceback.print_exc()
            broken = True
            continue
        results[name] = [dataclasses.asdict(figure) for figure in found]
        RESULTS.write_text(json.dumps(results))
        sys.stderr.write(f"{name}: {time.monotonic() - began:.0f} s\n{table(found)}\n")
    figures = [Figure(**one) for name in BENCHMARKS for one in results.get(name, [])]
    sys.stdout.write(table(figures))
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
