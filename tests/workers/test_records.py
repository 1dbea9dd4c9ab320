import json

import pytest

from workers.records import RecordError, Saved, read_record


def saved(name: str) -> bytes:
    record = {"is": "checkpoint", "at": 1.0, "file": "000001", "name": name, "kind": "recovery", "step": 1}
    return json.dumps(record | {"epoch": 0, "metrics": {}, "best": False}).encode()


@pytest.mark.parametrize("name", [".", "..", "a/../../b", "/a", "é" * 200, "a/" + "b" * 254 + "é"])
def test_a_checkpoint_has_a_name_that_a_file_can_have(name: str) -> None:
    assert isinstance(read_record(saved("folder/" + "b" * 240 + "é.ckpt")), Saved)
    with pytest.raises(RecordError):
        read_record(saved(name))
