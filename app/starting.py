"""Where a job that is submitted is to start: what its config and spec name, looked up in the caller's project."""

from core.errors import Fault, NotFound
from core.origins import Origins
from core.references import LAST, read_reference
from core.spec import JobSpec


class Start:
    """Finds the checkpoints that a spec names, while it is checked.

    `parent_id` is the job whose `best` and `last` may be named without its id: that which is run again.
    """

    def __init__(self, origins: Origins, project_id: str, parent_id: str | None = None) -> None:
        self.checkpoint_id: str | None = None
        """From where it is to go on, as by Lightning's `ckpt_path`."""
        self.weights_id: str | None = None
        """With whose weights it is to start."""
        self._origins = origins
        self._project_id = project_id
        self._parent_id = parent_id

    def faults(self, spec: JobSpec) -> list[Fault]:
        """Looks them up; what is wrong with them. Of what has no form that names a checkpoint, nothing is said here."""
        pointer = f"{spec.config_pointer}/ckpt_path"
        path = spec.config.get("ckpt_path")
        # By hand, too, `last` lets a run that has nothing to go on from start from the beginning.
        may_be_new = path == LAST and spec.subcommand == "fit" and self._parent_id is None
        self.checkpoint_id, faults = (None, []) if may_be_new else self._find(path, pointer)
        self.weights_id, more = self._find(spec.weights_from, "/weights_from")
        return faults + more

    def _find(self, name: object, pointer: str) -> tuple[str | None, list[Fault]]:
        reference = read_reference(name) if isinstance(name, str) else None
        if reference is None:
            return None, []
        if reference.is_of_parent and self._parent_id is None:
            message = (
                f"`{reference.which}` names a checkpoint of the job that is retried, and this is a new one: say of"
                f" which job, `job_…/{reference.which}`."
            )
            return None, [Fault(pointer, "requires", message)]
        try:
            return self._origins.find(self._project_id, reference, self._parent_id), []
        except NotFound as error:
            return None, [Fault(pointer, error.code, error.detail)]
