"""Bounded numbers for init arguments: jsonargparse refuses a value outside, and a JSON Schema shows the bound.

They are plain `Annotated` types, so a type checker still sees an `int` or a `float`.
"""

from typing import Annotated

from annotated_types import Ge, Gt, Lt

Count = Annotated[int, Gt(0)]
"""How many of something that must be there: 1, 2, …"""

Natural = Annotated[int, Ge(0)]
"""How many of something that may be absent: 0, 1, …"""

Positive = Annotated[float, Gt(0)]
"""A real number above 0."""

NonNegative = Annotated[float, Ge(0)]
"""A real number of 0 or more."""

Fraction = Annotated[float, Gt(0), Lt(1)]
"""A share that leaves something on both sides: 0 < x < 1."""

Probability = Annotated[float, Ge(0), Lt(1)]
"""A probability that is never certainty: 0 ≤ p < 1."""
