"""What LightningCLI does with the objects of a config, by its subcommands: fit, validate, test, predict."""

from typing import TYPE_CHECKING, Any

from workers.rundir import Order

if TYPE_CHECKING:
    from workers.trainer.build import Run


def run(made: "Run", order: Order) -> None:
    """Run the subcommand with the arguments that the config gives to it. Raises what Lightning and the run raise."""
    trainer, config = made.trainer, order.config
    given: dict[str, Any] = {"datamodule": made.data, "ckpt_path": made.origin.path, "weights_only": True}
    match order.subcommand:
        case "validate":
            trainer.validate(made.module, verbose=config.get("verbose", True), **given)
        case "test":
            trainer.test(made.module, verbose=config.get("verbose", True), **given)
        case "predict":
            # Nobody takes what is returned. Kept in memory it is only for hooks that read it, where the config says so.
            trainer.predict(made.module, return_predictions=config.get("return_predictions") is True, **given)
        case _:
            trainer.fit(made.module, **given)
