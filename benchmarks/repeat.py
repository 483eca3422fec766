"""Do the commands of docs/results.md still give its numbers?

Of each run: its command anew, for its first steps (a label solve whole), and its set measured again on all test images.
A run that has its row is left alone unless it is named, so that what was stopped goes on.

python benchmarks/repeat.py docs/results/repeated.jsonl docs/repeated.md [run ...]      (`make repeat`)
"""

import json
import pathlib
import shlex
import signal
import subprocess
import sys
import tempfile
import time

from kernel import processor

from kipx import artifacts, track
from kipx.machine import cores
from kipx.report import folders, listing, runs

REPOSITORY = pathlib.Path(__file__).parents[1]
KIPX = str(pathlib.Path(sys.executable).with_name("kipx"))
STEPS = 5
QUICKER = ["baseline.draws=0", "checkpoint.tested_from=1000000"]  # no number here depends on them


def main(rows, page, *names):
    """Repeats what has no row yet, or the named runs; writes a row for each, and the page of all."""
    rows, page = pathlib.Path(rows), pathlib.Path(page)
    lines = rows.read_text().splitlines() if rows.is_file() else []
    found = {row["run"]: row for row in map(json.loads, lines)}
    for run in runs.find(REPOSITORY / "docs" / "results")[0]:
        if run.name in (names or {run.name} - set(found)):
            found[run.name] = repeated(run)
            print(found[run.name], flush=True)
            rows.write_text("".join(json.dumps(found[name]) + "\n" for name in sorted(found)))
    page.write_text(text([found[name] for name in sorted(found)]))


def repeated(run):
    """What a run's command and its set give now, beside what the run said."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        begin(run, folder := pathlib.Path(folder) / "run")
        again, config = track.read(folder / artifacts.METRICS), artifacts.read_config(folder)
    pairs = zip(run.rows[: STEPS + 1], again, strict=False)
    losses = [(then["train_loss"], now["train_loss"]) for then, now in pairs if then["step"]]
    return {
        "run": run.name,
        "commit": subprocess.check_output(["git", "rev-parse", "HEAD"], text=True, cwd=REPOSITORY).strip(),
        "on": f"{processor()}, {cores()} cores",
        "of": run.device,
        "other_settings": changed(run.config, config),
        "losses": len(losses),
        "losses_apart": max((abs(now / then - 1) for then, now in losses), default=0),
        "start": [rows[0]["test_accuracy"] for rows in (run.rows, again)],
        "end": [run.measured[1], again[-1]["test_accuracy"] if run.labels_solved else measured(run)],
        "time_s": round(time.perf_counter() - start),
    }


def begin(run, folder):
    """Types a run's command, with its folder, and stops it after its first steps; of label-solve, lets it end."""
    typed = shlex.split(run.command)[1:]
    quicker = [] if run.labels_solved else QUICKER
    command = [KIPX, *typed, *quicker, "logger.progress=false", f"hydra.run.dir={folder}"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=REPOSITORY) as process:
        while process.poll() is None and _step(folder / artifacts.METRICS) < STEPS:
            time.sleep(0.2)
        process.terminate()
        said = process.stderr.read().decode()
    if process.returncode not in (0, 128 + signal.SIGTERM):
        sys.exit(f"{run.command}: exit code {process.returncode}: {said}")


def _step(metrics):
    rows = track.read(metrics) if metrics.is_file() else []
    return rows[-1]["step"] if rows else 0


def measured(run):
    """The test accuracy of a run's set, by `kipx evaluate`."""
    with tempfile.TemporaryDirectory() as folder:
        command = [KIPX, "evaluate", f"run={run.path.relative_to(REPOSITORY)}", f"hydra.run.dir={folder}"]
        subprocess.run(command, check=True, capture_output=True, cwd=REPOSITORY)
        return folders.json_object(pathlib.Path(folder) / "evaluation.json")["test_accuracy"]


def changed(then, now):
    """Names of the settings that both configs have and that differ, but for those that QUICKER sets."""
    then, now = map(listing.settings, (then, now))
    return [key for key in sorted(then) if then[key] != now.get(key, then[key]) and key != "baseline.draws"]


def text(rows):
    """The page."""
    same = sum(round(1e4 * row["end"][0]) == round(1e4 * row["end"][1]) for row in rows)
    return "\n".join(
        [
            "# The published runs, repeated",
            "",
            f"Written by `make repeat` on {', '.join(sorted({row['on'] for row in rows}))}. Commands of "
            f"[results](results.md) were typed anew, `kipx label-solve` to its end, the others for at most {STEPS} "
            "steps; and the sets that the runs had left were measured again on all test images by `kipx evaluate`.",
            "",
            "- **losses apart**: the largest relative difference of those steps' training losses, then and now;",
            "- **start**, **end**: test accuracy of the first images and of what was learned or solved, in percent;",
            "- **settings**: those of the run that the command sets to something else today; `steps` where it went on.",
            "",
            "A run that has not ended states the accuracy of its last test, and its set may be of a later step. Early "
            "steps of `mnist_gauss_newton` were taken with older versions of the same sums ([settings](settings.md)), "
            "and the augmented grayscale images were interpolated by another library: rounding, 6e-9 of the first loss "
            "of `fashion_mnist_gauss_newton_aug`, that Gauss-Newton's steps let grow.",
            "",
            f"{same} of {len(rows)} end with the same test accuracy to one image in ten thousand.",
            "",
            "| run | made on | steps | losses apart | start, then | now | end, then | now | settings |",
            "| --- | --- | --: | --: | --: | --: | --: | --: | --- |",
            *map(line, rows),
            "",
        ]
    )


def line(row):
    """A run's row of the table."""
    accuracies = [f"{100 * accuracy:.2f}" for accuracy in (*row["start"], *row["end"])]
    settings = ", ".join(map("`{}`".format, row["other_settings"])) or "same"
    cells = [row["run"], row["of"], str(row["losses"]), f"{row['losses_apart']:.0e}", *accuracies, settings]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main(*sys.argv[1:])
