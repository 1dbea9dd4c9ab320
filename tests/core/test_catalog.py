import dataclasses
import difflib
import json
import subprocess
import sys
import time

import pytest

from core.catalog import CALLBACK, LIGHTNING_MODULE, LR_SCHEDULER, PLATEAU, Catalog, Entry, Kind, Unresolved
from core.errors import Fault


def entry(class_path: str, kind: Kind, *bases: str, aliases: tuple[str, ...] = ()) -> Entry:
    schema = {"type": "object", "properties": {"z": {"default": 1}, "a": {}}, "additionalProperties": False}
    return Entry(class_path, kind, (class_path, *bases), schema, doc="What it is.", aliases=aliases, positional=("z",))


NET = entry("zoo.Net", Kind.MODEL, LIGHTNING_MODULE, aliases=("zoo.net.Net",))
OTHER_NET = entry("other.Net", Kind.MODEL, LIGHTNING_MODULE)
NOTE = entry("zoo.Note", Kind.CALLBACK, CALLBACK)
TORCHS = entry("torch.optim.lr_scheduler.ReduceLROnPlateau", Kind.LR_SCHEDULER, LR_SCHEDULER)
LIGHTNINGS = entry(PLATEAU, Kind.LR_SCHEDULER, LR_SCHEDULER)


def test_a_catalogue_survives_its_json() -> None:
    catalog = Catalog((NET, NOTE), (Fault("zoo.broken", "import_failed", "ImportError: x"),))
    text = json.dumps(catalog.to_json())
    for again in (Catalog.from_json(text), Catalog.from_json(text.encode()), Catalog.from_json(catalog.to_json())):
        assert again.entries == catalog.entries
        assert again.faults == catalog.faults
        assert again.digest == catalog.digest
    assert list(Catalog.from_json(text).entries[0].schema["properties"]) == ["z", "a"], "in the signature's order"


def test_the_digest_depends_on_what_is_announced_and_on_nothing_else() -> None:
    assert Catalog((NET, NOTE)).digest == Catalog((NOTE, NET)).digest
    assert len(Catalog().digest) == 64
    changed = dataclasses.replace(NET, schema={**NET.schema, "required": ["z"]})
    assert Catalog((changed, NOTE)).digest != Catalog((NET, NOTE)).digest


def test_a_class_is_found_by_its_path_its_aliases_and_its_short_name() -> None:
    catalog = Catalog((NET, NOTE))
    for name in ("zoo.Net", "zoo.net.Net", "Net"):
        assert catalog.resolve(name, [LIGHTNING_MODULE]) is catalog.entries[0]
    assert catalog.get("Net") is None


def test_a_short_name_of_two_classes_must_be_told_apart() -> None:
    found = Catalog((NET, OTHER_NET)).resolve("Net", [LIGHTNING_MODULE])
    assert isinstance(found, Unresolved)
    assert found.code == "ambiguous_class"
    assert "other.Net, zoo.Net" in found.message


def test_a_short_name_is_settled_by_the_base_that_fits_one_class_alone() -> None:
    catalog = Catalog((TORCHS, LIGHTNINGS))
    assert catalog.resolve("ReduceLROnPlateau", [LR_SCHEDULER, PLATEAU]) == LIGHTNINGS


@pytest.mark.parametrize(
    ("name", "code", "hint"),
    [
        ("Note", "wrong_kind", "a callback"),
        ("Nett", "unknown_class", "Did you mean zoo.Net?"),
        ("lightning.zoo.Net", "unknown_class", "Did you mean zoo.Net?"),
        ("zoo.broken.Net2", "unknown_class", "ImportError: x"),
        ("os.system", "unknown_class", "worker announces"),
    ],
)
def test_a_name_that_means_no_class_is_explained(name: str, code: str, hint: str) -> None:
    catalog = Catalog((NET, NOTE), (Fault("zoo.broken", "import_failed", "ImportError: x"),))
    found = catalog.resolve(name, [LIGHTNING_MODULE])
    assert isinstance(found, Unresolved)
    assert found.code == code
    assert hint in found.message


def test_sentences_of_an_explanation_end_with_a_full_stop() -> None:
    for error in ("RuntimeError: no GPU at import", "RuntimeError: no GPU at import."):
        found = Catalog((NET,), (Fault("zoo.broken", "import_failed", error),)).resolve("zoo.broken.X", [])
        assert isinstance(found, Unresolved)
        assert "RuntimeError: no GPU at import. A class must be in" in found.message


def test_close_names_are_looked_for_only_when_asked_and_once_per_name(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(difflib, "get_close_matches", lambda word, *_, **__: asked.append(word) or [])
    catalog = Catalog((NET, NOTE))
    unresolved = [catalog.resolve("zoo.Nat", [LIGHTNING_MODULE]) for _ in range(5)]
    assert asked == []
    assert len({found.message for found in unresolved if isinstance(found, Unresolved)}) == 1
    assert asked == ["Nat", "zoo.Nat"]


def test_the_union_has_what_any_worker_has_in_whatever_order_they_come() -> None:
    newer = dataclasses.replace(NET, doc="Newer.")
    one, two = Catalog((NET,), (Fault("a", "import_failed", "x"),)), Catalog((newer, NOTE))
    union = Catalog.union([one, two])
    assert [e.class_path for e in union.entries] == ["zoo.Net", "zoo.Note"]
    assert union.faults == one.faults
    assert Catalog.union([two, one]).digest == union.digest
    assert Catalog.union([one]) is one
    assert Catalog.union([]).entries == ()


def test_entries_are_listed_by_kind() -> None:
    catalog = Catalog((OTHER_NET, NET, NOTE))
    assert [e.class_path for e in catalog.of_kind(Kind.MODEL)] == ["other.Net", "zoo.Net"]
    assert NET.name == "Net"


def test_reading_and_checking_a_job_needs_no_torch_and_little_time() -> None:
    code = (
        "import sys, time; t = time.perf_counter()\n"
        "import core.documents, core.spec, core.defaults\n"
        "print(time.perf_counter() - t)\n"
        "print([m for m in ('torch', 'pytorch_lightning', 'jsonargparse', 'fastapi', 'celery') if m in sys.modules])\n"
    )
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    took, loaded = done.stdout.splitlines()
    assert loaded == "[]"
    assert float(took) < min(2.0, time.perf_counter() - started)
