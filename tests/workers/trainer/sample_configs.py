"""Configs that LightningCLI reads, and configs with a fault: where it is and what it is."""

import functools
from typing import Any

from core.catalog import Catalog

HERE = "tests.workers.trainer.sample_catalog"
NET = f"{HERE}.Net"


@functools.cache
def described() -> Catalog:
    """The catalogue of the sample module, described once for all tests; torch is imported on the way."""
    from workers.trainer.describe import describe

    return describe([HERE])


def net(**init_args: Any) -> dict[str, Any]:
    return {"model": {"class_path": NET, "init_args": init_args}}


def flags(**trainer: Any) -> dict[str, Any]:
    return {"model": {"class_path": NET}, "trainer": trainer}


def callback(class_path: str, **init_args: Any) -> dict[str, Any]:
    return {"class_path": class_path, "init_args": init_args}


def callbacks(*items: Any, **trainer: Any) -> dict[str, Any]:
    return flags(callbacks=list(items), **trainer)


def optimizer(class_path: str, scheduler: Any = None, **init_args: Any) -> dict[str, Any]:
    config = flags() | {"optimizer": {"class_path": class_path, "init_args": init_args}}
    return config | ({"lr_scheduler": scheduler} if scheduler else {})


GOOD: dict[str, dict[str, Any]] = {
    "a class path alone": {"model": NET},
    "a short name": {"model": "Net", "data": {"class_path": "Blobs", "init_args": {"batch_size": 8}}},
    "everything of a usual job": {
        "seed_everything": 42,
        "model": {"class_path": NET, "init_args": {"lr": 0.001, "hidden": 32}},
        "data": {"class_path": f"{HERE}.Blobs", "init_args": {"batch_size": 64}},
        "trainer": {
            "max_epochs": 20,
            "accelerator": "cpu",
            "devices": 1,
            "gradient_clip_val": 1.0,
            "callbacks": [
                callback("EarlyStopping", monitor="val_loss", patience=3),
                callback("ModelCheckpoint", monitor="val_acc", mode="max", save_top_k=2, save_last=True),
                callback("LearningRateMonitor", logging_interval="epoch"),
            ],
        },
        "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.001, "betas": [0.9, 0.95]}},
        "lr_scheduler": {"class_path": "torch.optim.lr_scheduler.CosineAnnealingLR", "init_args": {"T_max": 20}},
    },
    "strings for numbers": net(hidden="64", lr="1e-3", flag="yes", count="3", share="0.5", infinite=".inf"),
    "null for what may be left out": net(hidden=None, lr=None, flag=None, encoder=None, augmentation=None),
    "an integer for a real": net(lr=1, share=1, weights={"a": 1}),
    "lists and mappings": net(sizes=[3], pair=[1, 2], weights={"a": 0.5, "b": "2"}, by_epoch={"0": 4, "8": 2}),
    "a list in a string": net(sizes="[1, 2, 3]"),
    "choices": net(colour="BLUE", mode="b", dtype="torch.float16", every="0:05:00", path="data/x"),
    "a lax integer": net(bounded=3.0),
    "a union": net(number_or_name="x"),
    "a dataclass by its fields": net(augmentation={"shift": 2}),
    "a dataclass by its class": net(augmentation={"class_path": f"{HERE}.Augmentation", "init_args": {"flip": True}}),
    "nested modules": net(
        encoder={"class_path": f"{HERE}.Encoder", "init_args": {"width": 4}},
        layers=[
            "torch.nn.ReLU",
            {
                "class_path": "torch.nn.Conv2d",
                "init_args": {"in_channels": 1, "out_channels": 2, "kernel_size": 3, "padding": "same"},
            },
        ],
    ),
    "a class itself": net(loss="torch.nn.L1Loss"),
    "functions": net(activation="torch.nn.functional.gelu"),
    "a callable object": net(activation={"class_path": "torch.nn.ReLU"}),
    "factories": net(
        optimizer={"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1, "momentum": 0.9}},
        scheduler={"class_path": "StepLR", "init_args": {"step_size": 3}},
    ),
    "a factory by its arguments alone": net(optimizer={"lr": 0.1}),
    "arguments through kwargs": {"model": {"class_path": f"{HERE}.Child", "init_args": {"extra": 1, "hidden": 3}}},
    "plain data for anything": net(anything={"a": [1, {"b": None}]}),
    "one callback, no list": flags(callbacks=callback("EarlyStopping", monitor="x")),
    "callbacks by name and by path": callbacks(
        "ModelCheckpoint", "pytorch_lightning.callbacks.RichModelSummary", callback(f"{HERE}.Note", text="hi")
    ),
    "callbacks that live together": callbacks(
        callback("ModelCheckpoint", monitor="a", save_top_k=3),
        callback("ModelCheckpoint", monitor="b", every_n_train_steps=100, save_top_k=-1),
        callback("ModelCheckpoint", train_time_interval="0:01:00"),
        callback("Timer", duration="00:12:00:00", interval="step"),
        callback("GradientAccumulationScheduler", scheduling={"0": 4, "8": 2}),
        callback("StochasticWeightAveraging", swa_lrs=0.01),
        "TQDMProgressBar",
    ),
    "trainer flags": flags(
        max_epochs="3",
        max_steps=-1,
        min_epochs=1,
        max_time={"hours": 1},
        limit_train_batches=0.5,
        limit_val_batches=10,
        overfit_batches=2.0,
        val_check_interval=0.25,
        check_val_every_n_epoch=2,
        num_sanity_val_steps=-1,
        log_every_n_steps=1,
        precision="bf16-mixed",
        accumulate_grad_batches=4,
        gradient_clip_algorithm="norm",
        deterministic="warn",
        benchmark=False,
        profiler="simple",
        detect_anomaly=True,
        sync_batchnorm=False,
        enable_progress_bar=False,
        enable_model_summary=None,
        reload_dataloaders_every_n_epochs=1,
    ),
    "durations as LightningCLI saves them": callbacks(
        callback("Timer", duration="{'minutes': 1}", interval="epoch"),
        max_time="{'minutes': 1}",
        val_check_interval='{"hours": 1, "minutes": 30}',
    ),
    "files below the job's folder": callbacks(
        callback("ModelCheckpoint", dirpath="/data/runs", filename="a/{epoch:02d}-{val/acc:.2f}..x"),
        logger=callback("CSVLogger", save_dir="/logs", name="a/b", version="v1$", prefix="/x"),
        profiler=callback("SimpleProfiler", dirpath="/x", filename="report"),
    ),
    "precision as a number": flags(precision=16, accelerator="cpu"),
    "flags as print_config writes them": flags(
        accelerator="auto",
        strategy="auto",
        devices="auto",
        num_nodes=1,
        precision=None,
        logger=None,
        callbacks=None,
        fast_dev_run=False,
        max_epochs=None,
        min_epochs=None,
        max_steps=-1,
        min_steps=None,
        max_time=None,
        plugins=None,
        default_root_dir=None,
        model_registry=None,
        inference_mode=True,
        profiler=None,
        barebones=False,
    )
    | {"data": None, "optimizer": None, "lr_scheduler": None, "seed_everything": True},
    "two devices": flags(accelerator="cpu", devices=2, strategy="ddp"),
    "two machines": flags(accelerator="cpu", num_nodes=2, strategy="ddp_find_unused_parameters_false"),
    "devices by index": flags(accelerator="auto", devices=[0, 1]),
    "a logger": flags(logger={"class_path": "CSVLogger", "init_args": {"save_dir": "logs"}}),
    "a list of loggers": flags(logger=[{"class_path": "CSVLogger", "init_args": {"save_dir": "logs"}}]),
    "no logger": flags(logger=False),
    "a profiler by class": flags(profiler={"class_path": "SimpleProfiler", "init_args": {"extended": False}}),
    "a profiler by its short name": flags(profiler="simple"),
    "a dry run": flags(fast_dev_run=True, overfit_batches=1),
    "barebones": flags(barebones=True, max_steps=10),
    "no seed": {"model": NET, "seed_everything": False},
    "no trainer": {"model": NET},
    "an empty trainer": {"model": NET, "trainer": {}},
    "Lightning's own plateau": optimizer("Adam", {"class_path": "ReduceLROnPlateau", "init_args": {"monitor": "x"}}),
    "an optimizer alone": {"model": NET, "optimizer": "torch.optim.AdamW"},
    "nesterov": optimizer("SGD", nesterov=True, momentum=0.9, lr=0.1),
    "one cycle": optimizer(
        "SGD", {"class_path": "torch.optim.lr_scheduler.OneCycleLR", "init_args": {"max_lr": 0.1, "total_steps": 9}}
    ),
}

BAD: dict[str, tuple[dict[str, Any], str, str]] = {
    "no model": ({"trainer": {}}, "/model", "missing_argument"),
    "a null model": ({"model": None}, "/model", "wrong_type"),
    "an unknown key": ({"model": NET, "modle": 1}, "/modle", "unknown_field"),
    "an unknown class": ({"model": {"class_path": f"{HERE}.Nett"}}, "/model/class_path", "unknown_class"),
    "an unknown class, bare": ({"model": "nowhere.Net"}, "/model", "unknown_class"),
    "an unknown short name": (callbacks("EarlyStoping"), "/trainer/callbacks/0", "unknown_class"),
    "one unknown callback": (flags(callbacks="EarlyStoping"), "/trainer/callbacks", "unknown_class"),
    "a plain module as model": ({"model": {"class_path": f"{HERE}.Encoder"}}, "/model/class_path", "wrong_kind"),
    "a callback as data": ({"model": NET, "data": "EarlyStopping"}, "/data", "wrong_kind"),
    "a module as callback": (callbacks(callback("torch.nn.ReLU")), "/trainer/callbacks/0/class_path", "wrong_kind"),
    "an unknown argument": (net(learning_rte=1), "/model/init_args/learning_rte", "unknown_argument"),
    "a private argument": (net(_private=1), "/model/init_args/_private", "unknown_argument"),
    "an argument beside": ({"model": {"class_path": NET, "lr": 1}}, "/model/lr", "unknown_field"),
    "a real for an integer": (net(hidden=64.0), "/model/init_args/hidden", "wrong_type"),
    "a boolean for an integer": (net(hidden=True), "/model/init_args/hidden", "wrong_type"),
    "a word for a number": (net(lr="fast"), "/model/init_args/lr", "wrong_type"),
    "an integer for a string": (net(name=5), "/model/init_args/name", "wrong_type"),
    "an integer for a boolean": (net(flag=1), "/model/init_args/flag", "wrong_type"),
    "a scalar for a list": (net(sizes=3), "/model/init_args/sizes", "wrong_type"),
    "a wrong item": (net(sizes=[1, "x"]), "/model/init_args/sizes/1", "wrong_type"),
    "a short tuple": (net(pair=[1]), "/model/init_args/pair", "out_of_range"),
    "no such choice": (net(mode="c"), "/model/init_args/mode", "not_allowed"),
    "no such member": (net(colour="GREEN"), "/model/init_args/colour", "not_allowed"),
    "not positive": (net(count=0), "/model/init_args/count", "out_of_range"),
    "above one": (net(share=1.5), "/model/init_args/share", "out_of_range"),
    "out of annotated bounds": (net(bounded=10), "/model/init_args/bounded", "out_of_range"),
    "a missing argument": (
        {"model": NET, "data": {"class_path": f"{HERE}.Blobs"}},
        "/data/init_args/batch_size",
        "missing_argument",
    ),
    "a missing argument of a bare name": ({"model": NET, "data": f"{HERE}.Blobs"}, "/data", "missing_argument"),
    "a null where one is needed": (
        {"model": NET, "data": callback("Blobs", batch_size=None)},
        "/data/init_args/batch_size",
        "wrong_type",
    ),
    "a wrong argument deep inside": (
        net(layers=[callback("torch.nn.Conv2d", in_channels=1, out_channels="x", kernel_size=3)]),
        "/model/init_args/layers/0/init_args/out_channels",
        "wrong_type",
    ),
    "a factory of the wrong kind": (net(optimizer="torch.nn.ReLU"), "/model/init_args/optimizer", "wrong_kind"),
    "a factory without what it needs": (net(scheduler="StepLR"), "/model/init_args/scheduler", "missing_argument"),
    "no init_args": ({"model": {"class_path": NET, "init_args": None}}, "/model/init_args", "wrong_type"),
    "a callback that is null": (callbacks(None), "/trainer/callbacks/0", "wrong_type"),
    "a callback without class_path": (
        callbacks({"init_args": {"monitor": "x"}}),
        "/trainer/callbacks/0/class_path",
        "missing_argument",
    ),
    "no monitor": (callbacks(callback("EarlyStopping")), "/trainer/callbacks/0/init_args/monitor", "missing_argument"),
    "an unknown flag": (flags(max_epoch=1), "/trainer/max_epoch", "unknown_argument"),
    "no precision": (flags(precision="17"), "/trainer/precision", "not_allowed"),
    "a fraction of a device": (flags(devices=1.5), "/trainer/devices", "wrong_type"),
    "a wrong seed": ({"model": NET, "seed_everything": "abc"}, "/seed_everything", "wrong_type"),
    "an optimizer's unknown argument": (optimizer("SGD", lrr=1), "/optimizer/init_args/lrr", "unknown_argument"),
    "parameters of an optimizer": (optimizer("SGD", params=[]), "/optimizer/init_args/params", "unknown_argument"),
}
"""LightningCLI's parser refuses each of these too."""

REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "a trainer that is a list": ({"model": NET, "trainer": [1]}, "/trainer", "wrong_type"),
    "a trainer that is an empty list": ({"model": NET, "trainer": []}, "/trainer", "wrong_type"),
    "a trainer that is null": ({"model": NET, "trainer": None}, "/trainer", "wrong_type"),
    "an absolute checkpoint": (
        callbacks(callback("ModelCheckpoint", filename="/tmp/x")),
        "/trainer/callbacks/0/init_args/filename",
        "refused",
    ),
    "a checkpoint above": (
        flags(callbacks=callback("pytorch_lightning.callbacks.ModelCheckpoint", filename="{epoch}/../../x")),
        "/trainer/callbacks/init_args/filename",
        "refused",
    ),
    "a checkpoint filled with slashes": (
        callbacks(callback("ModelCheckpoint", filename="{epoch:/>9}", auto_insert_metric_name=False)),
        "/trainer/callbacks/0/init_args/filename",
        "refused",
    ),
    "a checkpoint with a long name": (
        callbacks(callback("ModelCheckpoint", filename="x" * 201)),
        "/trainer/callbacks/0/init_args/filename",
        "refused",
    ),
    "a checkpoint on a failure": (
        callbacks(callback("OnExceptionCheckpoint", dirpath="x")),
        "/trainer/callbacks/0/class_path",
        "refused",
    ),
    "batches to skip, above": (
        callbacks(callback("SpikeDetection", exclude_batches_path="../x.json")),
        "/trainer/callbacks/0/init_args/exclude_batches_path",
        "refused",
    ),
    "several TPU cores": (
        flags(accelerator="tpu", devices=8),
        "/trainer/devices",
        "not_yet_supported",
    ),
    "checkpoints in a bucket": (
        callbacks(callback("ModelCheckpoint", dirpath="s3://bucket/x")),
        "/trainer/callbacks/0/init_args/dirpath",
        "refused",
    ),
    "an absolute log": (
        flags(logger=callback("CSVLogger", save_dir="x", name="/tmp")),
        "/trainer/logger/init_args/name",
        "refused",
    ),
    "a log above": (
        flags(logger=[callback("CSVLogger", save_dir="x", version="../../x")]),
        "/trainer/logger/0/init_args/version",
        "refused",
    ),
    "an absolute profile": (
        flags(profiler=callback("SimpleProfiler", filename="/tmp/x")),
        "/trainer/profiler/init_args/filename",
        "refused",
    ),
    "a duration in a string with a wrong part": (
        flags(max_time="{'minuts': 1}"),
        "/trainer/max_time/minuts",
        "unknown_argument",
    ),
    "callbacks in a string": (flags(callbacks="[ModelCheckpoint]"), "/trainer/callbacks", "unknown_class"),
    "dict_kwargs": ({"model": {"class_path": NET, "dict_kwargs": {"x": 1}}}, "/model/dict_kwargs", "refused"),
    "plugins": (flags(plugins=["x"]), "/trainer/plugins", "refused"),
    "a root folder": (flags(default_root_dir="/etc"), "/trainer/default_root_dir", "refused"),
    "a model registry": (flags(model_registry="x"), "/trainer/model_registry", "refused"),
    "another logger": (
        flags(logger=callback("pytorch_lightning.loggers.WandbLogger")),
        "/trainer/logger/class_path",
        "refused",
    ),
    "another logger in a list": (flags(logger=["WandbLogger"]), "/trainer/logger/0", "refused"),
    "gpus": (flags(gpus=1), "/trainer/gpus", "refused"),
    "resume_from_checkpoint": (flags(resume_from_checkpoint="x"), "/trainer/resume_from_checkpoint", "refused"),
    "ddp_spawn": (flags(strategy="ddp_spawn"), "/trainer/strategy", "refused"),
    "ddp_notebook": (flags(strategy="ddp_notebook_find_unused_parameters_true"), "/trainer/strategy", "refused"),
    "fsdp": (flags(strategy="fsdp"), "/trainer/strategy", "refused"),
    "deepspeed": (flags(strategy="deepspeed_stage_2"), "/trainer/strategy", "refused"),
    "a strategy as a class": (
        flags(strategy=callback("pytorch_lightning.strategies.DDPStrategy")),
        "/trainer/strategy",
        "not_yet_supported",
    ),
    "an unknown strategy": (flags(strategy="dpp"), "/trainer/strategy", "not_allowed"),
    "an unknown accelerator": (flags(accelerator="gpus"), "/trainer/accelerator", "not_allowed"),
    "more machines than a job may have": (flags(num_nodes=5000), "/trainer/num_nodes", "out_of_range"),
    "several machines with one that cannot": (
        flags(num_nodes=2, accelerator="mps"),
        "/trainer/num_nodes",
        "excludes",
    ),
    "no devices": (flags(devices=0), "/trainer/devices", "out_of_range"),
    "a strategy on a TPU": (flags(accelerator="tpu", strategy="ddp"), "/trainer/strategy", "excludes"),
    "a precision that TPUs lack": (flags(accelerator="tpu", precision=64), "/trainer/precision", "excludes"),
    "a precision that CPUs lack": (
        flags(accelerator="cpu", precision="transformer-engine"),
        "/trainer/precision",
        "excludes",
    ),
    "statistics of batches over CPUs": (
        flags(accelerator="cpu", sync_batchnorm=True),
        "/trainer/sync_batchnorm",
        "excludes",
    ),
    "a batch size looked for on two devices": (
        callbacks(callback("BatchSizeFinder"), devices=2, strategy="ddp"),
        "/trainer/callbacks/0",
        "excludes",
    ),
    "a list of devices on a CPU": (flags(accelerator="cpu", devices=[0]), "/trainer/devices", "excludes"),
    "a checkpoint by its path": ({"model": NET, "ckpt_path": "runs/last.ckpt"}, "/ckpt_path", "refused"),
    "pickled code": ({"model": NET, "weights_only": False}, "/weights_only", "refused"),
    "epochs below none": (flags(max_epochs=-2), "/trainer/max_epochs", "out_of_range"),
    "half a batch too many": (flags(limit_train_batches=1.5), "/trainer/limit_train_batches", "out_of_range"),
    "a duration without days": (flags(max_time="1:00:00"), "/trainer/max_time", "not_allowed"),
    "a negative seed": ({"model": NET, "seed_everything": -5}, "/seed_everything", "out_of_range"),
    "more epochs at least than at most": (flags(min_epochs=5, max_epochs=3), "/trainer/min_epochs", "excludes"),
    "more steps at least than at most": (flags(min_steps=5, max_steps=3), "/trainer/min_steps", "excludes"),
    "a logger in barebones mode": (flags(barebones=True, logger=True), "/trainer/logger", "excludes"),
    "a profiler in barebones mode": (flags(barebones=True, profiler="simple"), "/trainer/profiler", "excludes"),
    "a checkpoint callback without checkpoints": (
        callbacks("ModelCheckpoint", enable_checkpointing=False),
        "/trainer/callbacks/0",
        "excludes",
    ),
    "a progress bar without progress bars": (
        callbacks("TQDMProgressBar", enable_progress_bar=False),
        "/trainer/callbacks/0",
        "excludes",
    ),
    "two progress bars": (callbacks("TQDMProgressBar", "RichProgressBar"), "/trainer/callbacks/1", "excludes"),
    "the same callback twice": (callbacks("ModelCheckpoint", "ModelCheckpoint"), "/trainer/callbacks/1", "excludes"),
    "two triggers": (
        callbacks(callback("ModelCheckpoint", every_n_train_steps=5, every_n_epochs=1)),
        "/trainer/callbacks/0/init_args/every_n_epochs",
        "excludes",
    ),
    "the best of nothing": (
        callbacks(callback("ModelCheckpoint", save_top_k=3)),
        "/trainer/callbacks/0/init_args/save_top_k",
        "requires",
    ),
    "accumulation set twice": (
        callbacks(callback("GradientAccumulationScheduler", scheduling={"0": 2}), accumulate_grad_batches=2),
        "/trainer/callbacks/0",
        "excludes",
    ),
    "a rate to monitor without a logger": (
        callbacks("LearningRateMonitor", logger=False),
        "/trainer/callbacks/0",
        "excludes",
    ),
    "an interval without epochs": (
        flags(val_check_interval=0.5, check_val_every_n_epoch=None),
        "/trainer/val_check_interval",
        "excludes",
    ),
    "a negative rate": (optimizer("AdamW", lr=-1), "/optimizer/init_args/lr", "out_of_range"),
    "a beta of one": (optimizer("Adam", betas=[0.9, 1.0]), "/optimizer/init_args/betas/1", "out_of_range"),
    "fused and foreach": (optimizer("Adam", fused=True, foreach=True), "/optimizer/init_args/foreach", "excludes"),
    "nesterov without momentum": (optimizer("SGD", nesterov=True), "/optimizer/init_args/nesterov", "requires"),
    "a scheduler without an optimizer": (
        {"model": NET, "lr_scheduler": callback("StepLR", step_size=1)},
        "/lr_scheduler",
        "requires",
    ),
    "torch's plateau": (
        optimizer("Adam", callback("torch.optim.lr_scheduler.ReduceLROnPlateau")),
        "/lr_scheduler/class_path",
        "refused",
    ),
    "no patience": (
        callbacks(callback("EarlyStopping", monitor="x", patience=-1)),
        "/trainer/callbacks/0/init_args/patience",
        "out_of_range",
    ),
    "no such mode": (
        callbacks(callback("EarlyStopping", monitor="x", mode="least")),
        "/trainer/callbacks/0/init_args/mode",
        "not_allowed",
    ),
    "a class for anything": (net(anything={"class_path": "torch.nn.ReLU"}), "/model/init_args/anything", "refused"),
    "a tensor": (net(tensor=[1.0]), "/model/init_args/tensor", "refused"),
    "the Trainer": (net(trainer_object={"max_epochs": 1}), "/model/init_args/trainer_object", "refused"),
    "a class that is not announced": (
        net(encoder="subprocess.Popen"),
        "/model/init_args/encoder",
        "unknown_class",
    ),
    "a function that is not announced": (net(activation="os.system"), "/model/init_args/activation", "unknown_class"),
    "a number that is none": (net(lr=".nan"), "/model/init_args/lr", "wrong_type"),
}
"""LightningCLI's parser may take these: Lightning raises later, they cannot be meant, or the service refuses them."""
