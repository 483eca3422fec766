"""The names that are relied on from outside, as far as they exist; a name once here stays."""

COMMANDS = (
    "distill",
    "label-solve",
    "evaluate",
    "transfer",
    "analyze",
    "plan",
    "prepare",
    "export",
    "import",
    "report",
)
GROUPS = {
    "dataset": ("digits", "mnist", "fashion_mnist", "svhn_cropped", "cifar10", "cifar100", "npz"),
    "preprocess": ("standardize", "zca", "normalize", "zca_pixels"),
    "kernel": ("convnet", "convnet3", "convvec", "convvec8", "fc", "myrtle", "sampled"),
    "support": ("natural", "noise", "kmeans", "herding"),
    "labels": ("fixed", "learned"),
    "form": ("least_norm", "notebook"),
    "augment": ("none", "grayscale", "rgb", "geometric"),
    "engine": ("dense", "blockwise", "sharded", "pool"),
    "optimizer": ("adam", "sgd", "gauss_newton"),
    "network": ("own", "convnet", "convnet3", "convvec", "convvec8", "fc", "myrtle"),
    "trainer": ("sgd",),
    "logger": ("local", "none", "wandb"),
    "debug": ("tiny",),
    "experiment": (
        "cifar10_fc1",
        "digits_fixed_labels",
        "mnist_kip_10",
        "fashion_mnist_kip_10",
        "cifar10_kip_10",
        "cifar10_kip_fc",
        "mnist_gauss_newton",
        "fashion_mnist_gauss_newton",
        "cifar10_gauss_newton",
        "mnist_networks",
        "fashion_mnist_networks",
        "cifar10_networks",
    ),
}
KEYS = (
    "seed",
    "steps",
    "ridge",
    "rkhs_weight",
    "resume",
    "dataset.data_dir",
    "dataset.raw_dir",
    "kernel.depth",
    "kernel.kind",
    "kernel.dtype",
    "kernel.backend",
    "support.per_class",
    "labels.init",
    "labels.learning_rate",
    "augment.rate",
    "target.batch_size",
    "optimizer.learning_rate",
    "optimizer.schedule",
    "engine.block_size",
    "checkpoint.tested_from",
)
ENGINE_KEYS = {
    "sharded": ("engine.coordinator", "engine.num_processes", "engine.process_id"),
    "pool": ("engine.address",),
}
LOGGER_KEYS = (
    "logger.progress",
    "logger.mode",
    "logger.project",
    "logger.entity",
    "logger.group",
    "logger.finish_s",
)
PLAN_KEYS = ("plan.devices", "plan.calibration_s")  # beside those of distill
ANALYZE_KEYS = (
    "run",
    "question",
    "out",
    "ridge",
    "seed",
    "baseline.draws",
    "test_images",
    "dataset.data_dir",
    "kernels",
)
QUESTIONS = ("images", "labels", "dimension", "spectrum", "robustness", "kernels")
REPORT_KEYS = ("run", "table", "out", "html", "to", "wandb.project", "wandb.entity")
EXPORT_KEYS = ("run", "format", "out")
EXPORT_FORMATS = ("npz", "torch", "safetensors", "hf")
IMPORT_KEYS = ("path", "labels.path", "labels.kind", "entry", "ridge", "dataset.data_dir", "kernel.depth")
CONDITION = {"smallest_eigenvalue", "ridge_share", "condition_number", "rounding_error"}
METRICS = {"step", "train_loss", "train_accuracy", "test_accuracy", "test_mse", "step_time_s"} | CONDITION
FILES = (
    "config.yaml",
    "overrides.yaml",
    "environment.json",
    "metrics.jsonl",
    "checkpoints",
    "support.npz",
    "support.png",
    "manifest.json",
    "summary.json",
)
TRANSFER_FILES = (
    "config.yaml",
    "overrides.yaml",
    "environment.json",
    "metrics.jsonl",
    "checkpoints",
    "manifest.json",
    "summary.json",
)
TRANSFER_KEYS = (
    "run",
    "step",
    "seed",
    "networks",
    "baselines",
    "network.width",
    "network.parameterization",
    "network.normalization",
    "trainer.loss",
    "trainer.label_scale",
    "trainer.factor",
    "trainer.l2",
    "trainer.steps",
    "augment.rate",
    "resume",
)
LABEL_SOLVE_FILES = (*(set(FILES) - {"checkpoints"}), "label_solve.npz")
LABEL_SOLVE_KEYS = (
    "seed",
    "ridge",
    "resume",
    "form.cutoff",
    "support.per_class",
    "target.batch_size",
    "kernel.depth",
    "engine.block_size",
    "checkpoint.every_s",
)
JOB = {"launch", "job", "overrides", "code", "message", "host", "pid"}  # job.json of each job of a sweep
