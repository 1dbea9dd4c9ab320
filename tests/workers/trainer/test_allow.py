"""What a config may import, in a fork as a trainer is one: what is looked up here holds for the whole process."""

import copy
import json
import warnings
from pathlib import Path
from typing import Any

from pytorch_lightning.cli import LightningCLI

from tests.workers.trainer.sample_configs import GOOD, HERE, NET, net
from workers.forkserver import Fork
from workers.trainer.allow import allow_only

EVIL = {"class_path": "subprocess.Popen", "init_args": {"args": "touch /nowhere"}}
BAD = {
    "Popen": net(encoder=EVIL),
    "model": {"model": EVIL},
    "callback": {"model": NET, "trainer": {"callbacks": [EVIL]}},
    "system": net(activation="os.system"),
    "eval": net(activation="builtins.eval"),
    "through a module": net(activation=f"{HERE}.dataclasses.sys.exit"),
    "torch.load": net(activation="torch.load"),
    "type": net(loss="subprocess.Popen"),
    "any": net(anything=EVIL),
    "hub": net(activation="torch.hub.load"),
}


class ParserOnly(LightningCLI):
    """LightningCLI that reads a config and builds nothing."""

    def instantiate_classes(self) -> None:
        pass


def parse(path: str) -> None:
    """Leave what became of each config; called in the fork."""
    warnings.filterwarnings("ignore")
    allow_only([HERE])
    cli = ParserOnly(args={"model": NET}, run=False, save_config_callback=None, parser_kwargs={"exit_on_error": False})

    def outcome(config: dict[str, Any]) -> str | None:
        try:
            cli.parser.parse_object(copy.deepcopy(config))
        except Exception as error:  # whatever it is, the test says which it must be
            return str(error)
        return None

    anything = {"class_path": "torch.nn.ReLU"}
    built = cli.parser.instantiate_classes(cli.parser.parse_object(net(anything=anything)))
    told = {
        "good": {name: outcome(config) for name, config in GOOD.items()},
        "bad": {name: outcome(config) for name, config in BAD.items()},
        "built": built.model.anything,
    }
    Path(path).write_text(json.dumps(told, default=vars))


def test_a_config_can_import_the_catalogue_and_nothing_else(warm_fork_server: None, tmp_path: Path) -> None:
    fork = Fork(__name__, "parse", str(tmp_path / "told"))
    assert fork.wait(120.0)
    assert fork.exit_code == 0
    told = json.loads((tmp_path / "told").read_text())
    assert {name: error for name, error in told["good"].items() if error} == {}
    assert all("is not allowed, denied by" in (error or "") for error in told["bad"].values()), told["bad"]
    assert told["built"]["class_path"] == "torch.nn.ReLU", "a class for a parameter without a type stays data"
