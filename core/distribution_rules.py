"""What a config may ask of several processes: which strategies run here, and on how many machines."""

from collections.abc import Iterator, Mapping
from typing import Any

from core.errors import Fault

NODES_MAX = 1024
_HERE = "use `auto` or `ddp`, where every device has a copy of the whole model"
_ELSEWHERE = {
    "fsdp": f"its checkpoints are in pieces, one on each rank, which this service does not keep: {_HERE}",
    "deepspeed": f"it needs the package deepspeed and checkpoints of its own form: {_HERE}",
    "model_parallel": f"its checkpoints are in pieces, one on each rank, which this service does not keep: {_HERE}",
    "xla": "with `accelerator: tpu` the strategy is chosen by itself: leave it out",
    "single_": "with one device the strategy is chosen by itself: leave it out",
}


def distribution_faults(flags: Mapping[str, Any], nodes: Any, pointer: str) -> Iterator[Fault]:
    """What is wrong with a Trainer's `strategy` and `num_nodes` (`nodes`: its value, read)."""
    strategy = flags.get("strategy")
    if isinstance(strategy, dict):
        message = "A strategy given as a class is not supported yet: name one, as `ddp`."
        yield Fault(f"{pointer}/strategy", "not_yet_supported", message)
    name = strategy[:100].lower() if isinstance(strategy, str) else ""
    if any(word in name for word in ("spawn", "fork", "notebook")):
        message = f"`{name}` starts processes of its own, outside the service: use `ddp`, which starts one per device."
        yield Fault(f"{pointer}/strategy", "refused", message)
    for prefix, why in _ELSEWHERE.items():
        if name.startswith(prefix):
            yield Fault(f"{pointer}/strategy", "refused", f"`{name}` does not run here: {why}.")
    if not isinstance(nodes, int) or isinstance(nodes, bool) or nodes < 2:
        return
    if nodes > NODES_MAX:
        message = f"`num_nodes` is {nodes}; a job has at most {NODES_MAX} machines."
        yield Fault(f"{pointer}/num_nodes", "out_of_range", message)
    if flags.get("accelerator") in ("mps", "tpu"):
        message = f"with `accelerator: {flags['accelerator']}` a job runs on one machine"
        yield Fault(
            f"{pointer}/num_nodes", "excludes", f"This and {pointer}/accelerator exclude each other: {message}."
        )
