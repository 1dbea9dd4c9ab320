"""What a config may make LightningCLI import: the catalogue, and nothing else."""

import functools
from collections.abc import Sequence

import jsonargparse

from workers.trainer.classes import Classes
from workers.trainer.type_schemas import dtypes


def allow_only(modules: Sequence[str]) -> None:
    """Have jsonargparse, in this process, import only what is announced of these modules, of Lightning and of torch.

    Nor does it build a class that is given to a parameter without a type. The API has checked the names against the
    catalogue before; this is the same check where it counts, in the process that imports.
    """
    jsonargparse.set_parsing_settings(
        import_path_denylist=["*"],
        import_path_allowlist=list(_allowed(tuple(modules))),
        instantiate_subclass_spec_in_any=False,
    )


@functools.cache
def _allowed(modules: tuple[str, ...]) -> tuple[str, ...]:
    """Every path of every announced class: those a config may give, and where each is defined, which is checked too."""
    paths = {path for announced in Classes(modules) for path in (announced.path, *announced.aliases)}
    paths |= {"torch.dtype", *dtypes()}
    return tuple(sorted(path for path in paths if all(part.isidentifier() for part in path.split("."))))
