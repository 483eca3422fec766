"""2,000 steps of the demo, stopped and resumed every 100: what grows, what is left behind?

    python benchmarks/soak.py docs/results/soak.json docs/reliability.md      (`make soak`)

Every sitting is a process of its own in a session of its own; it is watched from outside, through /proc.
"""

import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time

import section

STEPS, EACH, WARM = 2000, 100, 20  # steps in all, in a sitting, and of it before it is looked at
PAGE, TICK = os.sysconf("SC_PAGESIZE"), os.sysconf("SC_CLK_TCK")


def main(results, page):
    """Soaks, writes what was seen to `results`, and its section of `page`."""
    with tempfile.TemporaryDirectory() as folder:
        sittings = [sitting(pathlib.Path(folder), last) for last in range(EACH, STEPS + 1, EACH)]
    machine = f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"
    found = {"machine": machine, "steps": STEPS, "each": EACH, "sittings": sittings}
    results.write_text(json.dumps(found, indent=1) + "\n")
    page.write_text(section.replaced(page.read_text(), "soak", text(found)))


def sitting(folder, last):
    """Goes on to step `last` in a new process; returns what was seen of it."""
    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)
    new = ["hydra.run.dir=run", "baseline.draws=1"] if last == EACH else ["resume=run"]
    command = [pathlib.Path(sys.executable).with_name("kipx"), "distill", *new, f"steps={last}"]
    environment = {**os.environ, "TMPDIR": str(scratch)}
    process = subprocess.Popen(
        command, cwd=folder, env=environment, start_new_session=True, stderr=subprocess.PIPE, text=True
    )
    samples = watch(process.pid, folder / "run" / "metrics.jsonl", last - EACH + WARM)
    _, err = process.communicate()
    assert process.returncode == 0, err
    rows = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(last + 1)), "a row is missing or twice there"
    seen = {"last": last, **growth(samples), "step_time_s": median(r["step_time_s"] for r in rows[-EACH + WARM :])}
    left = [str(path.relative_to(scratch)) for path in scratch.rglob("*")]
    names = [p.relative_to(folder / "run").as_posix() for p in (folder / "run").rglob("*") if p.is_file()]
    kept = [name for name in names if not name.startswith("checkpoints/")]
    print(json.dumps(seen), left, flush=True)
    return {**seen, "processes_left": session(process.pid), "temporary_files_left": left, "files": sorted(kept)}


def watch(pid, metrics, begin):
    """[(step, resident bytes, open files, threads, processor seconds)] of a process that lives, after a step."""
    samples = []
    while (state := look(pid)) is not None:
        step = metrics.read_text().count("\n") - 1 if metrics.exists() else -1
        if step >= begin:
            samples.append((step, *state))
        time.sleep(0.1)
    return samples


def look(pid):
    """(resident bytes, open files, threads, processor seconds); None when it has ended."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        files = len(os.listdir(f"/proc/{pid}/fd"))
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    if fields[0] == "Z":
        return None
    return int(fields[21]) * PAGE, files, int(fields[17]), (int(fields[11]) + int(fields[12])) / TICK


def growth(samples):
    """Medians of the first and the last third of a sitting's steps, and the processor's seconds a step."""
    samples = [s for s in samples if s[0] < samples[-1][0]]  # the last step's are those of the run's end
    third = max(len(samples) // 3, 1)
    parts = {"first": samples[:third], "last": samples[-third:]}
    seen = {f"{name}_{end}": median(s[i] for s in part) for end, part in parts.items() for i, name in NAMES.items()}
    steps, seconds = (samples[-1][i] - samples[0][i] for i in (0, 4))
    return {**seen, "processor_s_a_step": seconds / steps}


NAMES = {1: "resident_bytes", 2: "open_files", 3: "threads"}


def session(pid):
    """Processes that live on in the session of a process that has ended."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[3]) == pid and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


def median(values):
    return statistics.median(values)


def text(found):
    """The section: the largest growth of each kind."""
    sittings = found["sittings"]
    within = [s["resident_bytes_last"] / s["resident_bytes_first"] - 1 for s in sittings]
    between = [s["resident_bytes_last"] for s in sittings]
    first, last = median(between[:5]), median(between[-5:])
    files = max(s["open_files_last"] - s["open_files_first"] for s in sittings)
    threads = max(s["threads_last"] - s["threads_first"] for s in sittings)
    processor = [s["processor_s_a_step"] for s in sittings]
    left = sum(len(s["processes_left"]) for s in sittings), sum(len(s["temporary_files_left"]) for s in sittings)
    same = all(s["files"] == sittings[0]["files"] for s in sittings)
    return "\n".join(
        [
            f"Command: `make soak`: {found['steps']} steps of the demo, stopped and resumed every {found['each']}, on "
            f"{found['machine']}; each sitting is in [results/soak.json](results/soak.json).",
            "",
            "| | |",
            "|---|--:|",
            f"| memory within a sitting grows by, median and at most | {median(within):.1%}, {max(within):.1%} |",
            f"| sittings within which it grows by more than 5% | {sum(w > 0.05 for w in within)} of {len(within)} |",
            f"| memory of the last five sittings beside the first five | {last / first - 1:+.1%} |",
            f"| more open files, more threads at the end of a sitting | {files:.0f}, {threads:.0f} |",
            f"| processes, temporary files left behind | {left[0]}, {left[1]} |",
            f"| files of the run folder beside checkpoints | {'the same in all' if same else 'not the same'} |",
            f"| processor's time a step, first five and last five sittings | "
            f"{1000 * median(processor[:5]):.0f}, {1000 * median(processor[-5:]):.0f} ms |",
            f"| rows of metrics.jsonl | one a step, {found['steps'] + 1} |",
        ]
    )


if __name__ == "__main__":
    main(*map(pathlib.Path, sys.argv[1:]))
