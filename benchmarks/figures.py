"""Makes docs/figures/: the paper's Figures 1 to 4 on digits, from distillation to pictures.

    python benchmarks/figures.py      (`make figures`)

Runs each command below in the repository's root unless it has ended before; its runs lie in outputs/figures/. A command
that was stopped begins again; to make all of it anew, remove that folder.
"""

import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parents[1]
RUNS = pathlib.Path("outputs/figures")
SETS = RUNS / "sets"
QUIET = "logger=none"
DISTILL = ["distill", "steps=54", "baseline.draws=0"]
SAMPLED = ("sampled", "convnet", "convvec", "convvec8")
# 1/16 of the paper's width and 1/25 of its steps: two cores, ten images. With the default factor of 0.5 a network of
# Conv-Vec8 diverged under cross entropy.
SMALL = ["network.width=64", "trainer.steps=200", "trainer.factor=0.25", "trainer.evaluations=4", "networks=3"]
CHECKPOINTS = "step=0,2,8,18,54"
WIDTHS = "network.width=16,32,64,128,256"


def sets(*names):
    """The run folders of distilled sets, as one sweep takes them."""
    return "run=" + ",".join(str(SETS / name) for name in names)


COMMANDS = {  # folder of the runs -> command
    SETS: ["distill", "-m", "+sampled=digits"],
    SETS / "augmented": [*DISTILL, "labels=fixed", "augment=grayscale", "augment.rate=1"],
    SETS / "augmented_learned": [*DISTILL, "labels=learned", "augment=grayscale", "augment.rate=1"],
    SETS / "label_solve": ["label-solve"],
    RUNS / "figure1/kernels": ["evaluate", "-m", sets(*SAMPLED), "kernel=convnet,convvec,convvec8"],
    RUNS / "figure1/networks": ["transfer", "-m", "+figure=1", sets(*SAMPLED), *SMALL],
    RUNS / "figure2/convnet": ["transfer", "-m", "+figure=2", sets("convnet"), CHECKPOINTS, *SMALL],
    RUNS / "figure2/myrtle": [
        *("transfer", "-m", "+figure=2", sets("convnet"), CHECKPOINTS, *SMALL),
        *("network=myrtle", "network.normalization=none"),
    ],
    RUNS / "figure3/widths": ["transfer", "-m", "+figure=3", sets("convnet"), CHECKPOINTS, *SMALL, WIDTHS],
    RUNS / "figure3/settings": [
        *("transfer", "-m", "+figure=3", sets("convnet", "augmented", "augmented_learned"), CHECKPOINTS, *SMALL),
        "trainer.loss=mse,cross_entropy",
    ],
    RUNS / "figure3/label_solve": ["transfer", "-m", "+figure=3", sets("label_solve"), "step=null", *SMALL, WIDTHS],
    RUNS / "figure4": [
        *("transfer", "-m", "+figure=4", sets("convnet"), CHECKPOINTS, *SMALL),
        "trainer.factor=0.1,0.25,0.5",
    ],
}
FIGURES = ("figure1", "figure2", "figure3", "figure4")


def words(folder, command):
    """What to type for the runs of a folder."""
    where = "hydra.sweep.dir" if "-m" in command else "hydra.run.dir"
    command = {word.partition("=")[0]: word for word in command}.values()  # what stands later wins
    quiet = [] if "evaluate" in command else [QUIET]
    return ["kipx", *command, *quiet, f"{where}={folder}"]


def run(folder, command):
    """Runs one command if its folder does not say that it has ended."""
    ended = ROOT / folder / "ended"
    if ended.exists():
        return
    for job in (ROOT / folder).glob("*"):  # of a command that was stopped
        if job.is_dir() and ((job / "job.json").exists() or (ROOT / folder / "config.yaml").exists()):
            shutil.rmtree(job)
    (ROOT / folder / "config.yaml").unlink(missing_ok=True)
    started = time.monotonic()
    call(words(folder, command))
    ended.write_text(f"{time.monotonic() - started:.0f} s\n")


def call(typed):
    """Shows a command and runs it in the repository's root."""
    print(shlex.join(typed), flush=True)
    program = pathlib.Path(sys.executable).with_name("kipx")
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / RUNS / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    code = subprocess.run([program, *typed[1:]], cwd=ROOT, env={**os.environ, **cache}, check=False).returncode
    if code not in (0, 3):  # 3: a network of a sweep diverged; the page names it
        sys.exit(code)


def main():
    for folder, command in COMMANDS.items():
        run(folder, command)
    for name in FIGURES:
        call(["kipx", "report", f"run={RUNS / name}", f"table={name}", f"out=docs/figures/{name}.md"])


if __name__ == "__main__":
    main()
