"""What the ranks of a run tell each other about a recovery checkpoint. One alone tells itself."""

from typing import Any

import torch
from pytorch_lightning import Trainer

State = dict[str, Any]


def gathered(trainer: Trainer, state: State) -> list[State]:
    """The states of all ranks, on the first."""
    if trainer.world_size == 1:
        return [state]
    states: list[Any] | None = [None] * trainer.world_size if trainer.is_global_zero else None
    torch.distributed.gather_object(state, states, 0)
    return states or []


def of_all_ranks(trainer: Trainer, doubts: list[str]) -> list[str]:
    """What any rank says, on every one."""
    if trainer.world_size == 1:
        return doubts
    told: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(told, doubts)
    return list(dict.fromkeys(doubt for one in told for doubt in one))


def first_says(trainer: Trainer, result: int) -> int:
    """The first rank's number, on every one."""
    if trainer.world_size == 1:
        return result
    said = torch.tensor(result, device=trainer.strategy.root_device)
    torch.distributed.broadcast(said, 0)
    return int(said)
