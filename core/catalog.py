"""What workers can run: every class a config may name, with the JSON Schema of its init arguments.

Workers announce it (`workers.trainer.describe`), the API validates against it without importing torch.

Beside JSON Schema's own keywords (draft 2020-12) a schema of the catalogue may carry:

- `x-lightyard-class`: a list of class paths; the value is `{class_path, init_args}`, or a class path alone, of an
  entry that is one of them. `x-lightyard-implicit` is the class meant where the value names none.
- `x-lightyard-callable`: `{returns: [class paths], positional: n}`; the value names a function, a class whose
  instances can be called, or a class to make a `returns` of, whose first n arguments are given by the caller.
- `x-lightyard-type`: a list of class paths; the value is the path of a class that is one of them.
- `x-lightyard-any`: any value is taken as it is, so a class in it would not be built.
- `x-lightyard-refused`: why no value of this kind can be given in a config.
- `x-lightyard-anycase`: an `enum` of strings in upper or lower case.
- `x-lightyard-lax`: an integer may be written as `64.0`.
- `x-lightyard-expected`: words for what is expected, where the schema is hard to put into words.
"""

import difflib
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any, Self

import orjson

from core.errors import Fault

LIGHTNING_MODULE = "pytorch_lightning.LightningModule"
DATA_MODULE = "pytorch_lightning.LightningDataModule"
CALLBACK = "pytorch_lightning.Callback"
OPTIMIZER = "torch.optim.Optimizer"
LR_SCHEDULER = "torch.optim.lr_scheduler.LRScheduler"
PLATEAU = "pytorch_lightning.cli.ReduceLROnPlateau"
TRAINER = "pytorch_lightning.Trainer"
LOOP = "lightning_fabric.loop"
"""Stands among the bases of classes that are training loops on Fabric: they have `run(self, fabric, …)`."""
LOADERS = "loaders.DataLoader"
"""Stands among the bases of functions and classes that make plain DataLoaders, given in place of a data module."""
CALLABLE = "collections.abc.Callable"
"""Stands among the bases of classes whose instances can be called."""
_NAME_CHARACTERS_MAX = 200
"""Nothing longer is compared with the names there are: that takes time, and it is no class's name misspelt."""
_HINTS_KEPT = 1_000


class Kind(StrEnum):
    """What a class of the catalogue is to a config."""

    MODEL = "model"
    LOOP = "loop"
    DATA = "data"
    CALLBACK = "callback"
    OPTIMIZER = "optimizer"
    LR_SCHEDULER = "lr_scheduler"
    LOGGER = "logger"
    PROFILER = "profiler"
    MODULE = "module"
    OBJECT = "object"
    FUNCTION = "function"
    TRAINER = "trainer"


@dataclass(frozen=True)
class Entry:
    """One class or function that a config may name."""

    class_path: str
    """The path under which it is public; `aliases` are the others that mean the same."""
    kind: Kind
    bases: tuple[str, ...]
    """Paths of the classes it is one of, itself first; of a function, of what it returns."""
    schema: Mapping[str, Any]
    """JSON Schema of its init arguments."""
    doc: str = ""
    aliases: tuple[str, ...] = ()
    positional: tuple[str, ...] = ()
    """Names of its positional parameters in order, those included that a caller fills and the schema leaves out."""
    builtin: bool = False
    """Comes with Lightning or torch, not from a catalogue module."""

    @property
    def name(self) -> str:
        """The short name that a config may use where it means one class alone."""
        return self.class_path.rpartition(".")[2]

    def is_a(self, bases: Iterable[str]) -> bool:
        """Whether it is one of these classes."""
        return not set(self.bases).isdisjoint(bases)


@dataclass(frozen=True)
class Unresolved:
    """Why a name in a config means no class of the catalogue: a fault but for its pointer."""

    code: str
    reason: str
    hint: Callable[[], str] = str
    """A sentence on what may be meant, or nothing: looked for only when it is asked for, because that takes time."""

    @property
    def message(self) -> str:
        """The reason, with the hint."""
        return self.reason + self.hint()


@dataclass(frozen=True)
class Catalog:
    """What one worker, or several together, can run."""

    entries: tuple[Entry, ...] = ()
    faults: tuple[Fault, ...] = field(default=())
    """Modules that could not be imported where the catalogue was made; the pointer names the module."""

    memo: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """What others derive from the catalogue and make once, such as its validator."""

    @cached_property
    def _by_path(self) -> dict[str, Entry]:
        paths = {alias: entry for entry in self.entries for alias in entry.aliases}
        return paths | {entry.class_path: entry for entry in self.entries}

    @cached_property
    def _by_name(self) -> dict[str, list[Entry]]:
        names: dict[str, list[Entry]] = {}
        for entry in self.entries:
            if entry.kind is not Kind.TRAINER:
                names.setdefault(entry.name, []).append(entry)
        return names

    @cached_property
    def digest(self) -> str:
        """The sha256 in hexadecimal of the catalogue as canonical JSON: equal catalogues have equal digests."""
        return hashlib.sha256(orjson.dumps(self.to_json(), option=orjson.OPT_SORT_KEYS)).hexdigest()

    @cached_property
    def trainer(self) -> Mapping[str, Any]:
        """The schema of the Trainer's flags; of no flags where no worker has announced them."""
        entry = self.get(TRAINER)
        return entry.schema if entry else {"type": "object"}

    def to_json(self) -> dict[str, Any]:
        """The catalogue as JSON values, from which `from_json` makes an equal one."""
        return {
            "entries": sorted((asdict(entry) for entry in self.entries), key=lambda entry: str(entry["class_path"])),
            "faults": sorted((asdict(fault) for fault in self.faults), key=lambda fault: str(fault["pointer"])),
        }

    @classmethod
    def from_json(cls, body: str | bytes | Mapping[str, Any]) -> Self:
        """The catalogue that `to_json` wrote, from its values or their text."""
        if isinstance(body, (str, bytes)):
            body = orjson.loads(body)
        assert isinstance(body, Mapping)
        return cls(
            entries=tuple(
                Entry(
                    class_path=entry["class_path"],
                    kind=Kind(entry["kind"]),
                    bases=tuple(entry["bases"]),
                    schema=entry["schema"],
                    doc=entry["doc"],
                    aliases=tuple(entry["aliases"]),
                    positional=tuple(entry["positional"]),
                    builtin=entry["builtin"],
                )
                for entry in body["entries"]
            ),
            faults=tuple(Fault(**fault) for fault in body["faults"]),
        )

    @classmethod
    def union(cls, catalogs: Iterable["Catalog"]) -> "Catalog":
        """All that any of these can run.

        Where two describe a class differently (workers of two versions), one description holds, the same one in
        whatever order they come.
        """
        ordered = sorted(catalogs, key=lambda catalog: catalog.digest)
        if len(ordered) == 1:
            return ordered[0]
        entries: dict[str, Entry] = {}
        for catalog in ordered:
            for entry in catalog.entries:
                entries.setdefault(entry.class_path, entry)
        faults = dict.fromkeys(fault for catalog in ordered for fault in catalog.faults)
        return cls(tuple(entries[path] for path in sorted(entries)), tuple(faults))

    def get(self, class_path: str) -> Entry | None:
        """The entry of this path or alias."""
        return self._by_path.get(class_path)

    def knows(self, name: str) -> bool:
        """Whether some entry has this path, alias or short name."""
        return name in self._by_path or name in self._by_name

    def named(self, name: str) -> Sequence[Entry]:
        """The entries that have this short name."""
        return self._by_name.get(name, ())

    def of_kind(self, kind: Kind) -> tuple[Entry, ...]:
        """Its entries of one kind, by path."""
        return tuple(
            sorted((entry for entry in self.entries if entry.kind is kind), key=lambda entry: entry.class_path)
        )

    def resolve(self, name: str, bases: Sequence[str]) -> Entry | Unresolved:
        """What `name`, a path or a short name, means where a value of one of `bases` is expected (empty: any).

        As in LightningCLI, each base in turn may settle a short name, so that `ReduceLROnPlateau` means Lightning's
        class where torch's has the same name.
        """
        if "." in name:
            entry = self.get(name)
            found: Sequence[Entry] = [entry] if entry else []
        else:
            found = self.named(name)
            for base in bases:
                fitting = [entry for entry in found if entry.is_a([base])]
                if len(fitting) == 1:
                    return fitting[0]
        fitting = [entry for entry in found if not bases or entry.is_a(bases)]
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            paths = ", ".join(sorted(entry.class_path for entry in fitting))
            return Unresolved("ambiguous_class", f"{name} may mean {paths}: give the full path.")
        if found:
            return Unresolved("wrong_kind", _wrong_kind(found[0], bases))
        reason = f"No worker announces {name[:200]!r}."
        broken = next((fault for fault in self.faults if name.startswith(fault.pointer)), None)
        if broken:
            reason += f" Its module could not be imported: {broken.message.rstrip('. ')}."
        reason += " A class must be in a module that a worker announces."
        return Unresolved("unknown_class", reason, lambda: self._hint(name, tuple(bases)))

    def _hint(self, name: str, bases: tuple[str, ...]) -> str:
        """The classes whose names are close to this one; looked for once per name, milliseconds each."""
        if len(name) > _NAME_CHARACTERS_MAX:
            return ""
        hints: dict[tuple[str, tuple[str, ...]], str] = self.memo.setdefault("hints", {})
        if (name, bases) not in hints:
            if len(hints) >= _HINTS_KEPT:
                hints.clear()
            hints[name, bases] = self._look_for(name, bases)
        return hints[name, bases]

    def _look_for(self, name: str, bases: tuple[str, ...]) -> str:
        fitting = [entry for entry in self.entries if not bases or entry.is_a(bases)]
        last = name.rpartition(".")[2]
        close = [entry.class_path for entry in fitting if entry.name == last]
        if not close:
            names = {entry.name: entry.class_path for entry in fitting}
            paths = {path: path for entry in fitting for path in (entry.class_path, *entry.aliases)}
            close = [names[match] for match in difflib.get_close_matches(last, names, n=2, cutoff=0.7)]
            close += [match for match in difflib.get_close_matches(name, paths, n=1, cutoff=0.8) if match not in close]
        return f" Did you mean {' or '.join(close)}?" if close else ""


_LABELS = {
    Kind.MODEL: "a LightningModule",
    Kind.LOOP: "a training loop on Fabric",
    Kind.DATA: "a LightningDataModule",
    Kind.CALLBACK: "a callback",
    Kind.OPTIMIZER: "an optimizer",
    Kind.LR_SCHEDULER: "a learning rate scheduler",
    Kind.LOGGER: "a logger",
    Kind.PROFILER: "a profiler",
    Kind.MODULE: "a plain nn.Module",
    Kind.FUNCTION: "a function",
    Kind.OBJECT: "a plain class",
    Kind.TRAINER: "the Trainer",
}


def words_for(bases: Sequence[str]) -> str:
    """What is expected where one of these classes is, in words."""
    names = dict.fromkeys(base.rpartition(".")[2] for base in bases)
    return " or ".join(f"{'an' if name[0] in 'AEIOU' else 'a'} {name}" for name in names) or "a class"


def _wrong_kind(entry: Entry, bases: Sequence[str]) -> str:
    label = "what makes DataLoaders" if entry.is_a([LOADERS]) else _LABELS[entry.kind]
    message = f"{entry.class_path} is {label}; here goes {words_for(bases)}."
    if entry.kind is Kind.MODULE and LIGHTNING_MODULE in bases:
        message += (
            " Wrap it in a LightningModule with a training_step, which may take this class as an argument:"
            " `backbone: {class_path: …}`."
        )
    if entry.kind is Kind.OBJECT and LIGHTNING_MODULE in bases:
        message += " A training loop on Lightning Fabric has a method `run(self, fabric)`."
    if entry.kind is Kind.FUNCTION and LOADERS in bases:
        message += (
            " A function that makes DataLoaders must be annotated to return a DataLoader, or a tuple or a mapping of"
            " them: `-> tuple[DataLoader, DataLoader]`."
        )
    return message
