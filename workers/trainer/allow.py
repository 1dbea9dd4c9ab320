"""What a config may make LightningCLI import: the catalogue, and nothing else."""

import functools
from collections.abc import Mapping, Sequence

import jsonargparse

from workers.trainer.classes import Announced, Classes
from workers.trainer.type_schemas import dtypes

REHEARSED = ("workers.trainer.rehearsal.Piece", "workers.trainer.rehearsal.Score")
"""What a standby trainer rehearses with. No catalogue has it, so the API refuses it in a job's config."""

_allowed_now: list[tuple[str, ...]] = []
"""The modules of which this process allows what they have, once it does."""


def allow_only(modules: Sequence[str]) -> None:
    """Have jsonargparse, in this process, import only what is announced of these modules, of Lightning and of torch.

    Nor does it build a class that is given to a parameter without a type. The API has checked the names against the
    catalogue before; this is the same check where it counts, in the process that imports.
    """
    if _allowed_now == [tuple(modules)]:  # as the fork server has said for all its forks
        return
    jsonargparse.set_parsing_settings(
        import_path_denylist=["*"],
        import_path_allowlist=list(_allowed(tuple(modules))),
        instantiate_subclass_spec_in_any=False,
    )
    _allowed_now[:] = [tuple(modules)]


def announced(modules: Sequence[str]) -> Mapping[str, Announced]:
    """What a config may name, by each of its paths."""
    return {path: one for one in _classes(tuple(modules)) for path in (one.path, *one.aliases)}


@functools.cache
def _classes(modules: tuple[str, ...]) -> Classes:
    return Classes(modules)


@functools.cache
def _allowed(modules: tuple[str, ...]) -> tuple[str, ...]:
    """Every path of what is announced: those that a config may give, and where it is defined, which is checked too."""
    paths = {"torch.dtype", *dtypes(), *REHEARSED}
    for one in _classes(modules):
        paths |= {one.path, *one.aliases, f"{one.thing.__module__}.{one.thing.__qualname__}"}
    return tuple(sorted(path for path in paths if all(part.isidentifier() for part in path.split("."))))
