"""Wrong bytes in what a run reads again: checkpoints, sums, sets, prepared records."""

import shutil

from faults.cases import IDENTICAL, REFUSED, WRONG, Case, Outcome, in_a_line, last_line
from faults.cases import compare as compared
from kipx import artifacts, checkpoints, checks
from kipx.data import published

ORBAX, SUMS, SET, RECORDS = "checkpoint", "sums", "support.npz", "prepared records"
CUTS = ("cut to nothing", "cut to a half", "without its last byte")
FLIPS = 5  # of a bit, in each file


def spoil(path, how, rng):
    """Cuts a file, or flips one of its bits."""
    content = bytearray(path.read_bytes())
    if how in CUTS:
        content = content[: {CUTS[0]: 0, CUTS[1]: len(content) // 2, CUTS[2]: -1}[how]]
    else:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def cases(commands, finished):
    """Each file in turn, several places.

    Args:
      finished: {command: the folder of a run that nobody disturbed}.
    """
    by_name = {command.name: command for command in commands}
    found = []
    for name in ("distill", "transfer"):
        for i, _ in enumerate(_checkpoint(finished[name])):
            how = "a bit flipped" if i % 2 else CUTS[1]
            found.append(Case(by_name[name], "damaged checkpoint", f"file {i} {how}, gone on", _gone_on(_checkpoint)))
    for how in _hows(3):
        found.append(Case(by_name["label-solve"], "damaged checkpoint", f"file 0 {how}, gone on", _gone_on(_sums)))
    for i, _ in enumerate(_checkpoint(finished["distill"])):
        found += [
            Case(by_name["distill"], "damaged checkpoint", f"file {i} {how}, read", _read_step) for how in _hows(FLIPS)
        ]
    found += [
        Case(by_name["distill"], "damaged support.npz", f"file 0 {how}, read", _read_set) for how in _hows(20 * FLIPS)
    ]
    for i, _ in enumerate(_records(finished["prepare"])):
        found += [
            Case(by_name["prepare"], "damaged records", f"file {i} {how}, read", _read_data) for how in _hows(FLIPS)
        ]
        found.append(
            Case(by_name["prepare"], "damaged records", f"file {i} {CUTS[1]}, prepared again", _prepared_again)
        )
    return found


def _hows(flips):
    return [*CUTS, *(f"a bit flipped {i}" for i in range(flips))]


def _files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)


def _checkpoint(folder):
    return _files(folder / "checkpoints" / str(checkpoints.steps(folder)[-1]))


def _sums(folder):
    return [folder / "label_solve.npz"]


def _records(folder):
    return _files(folder / "mnist" / "3.0.1")


def _spoiled(case, bench, files):
    """A copy of the finished run with one file spoiled, and that file."""
    folder = bench.folder / "run"
    shutil.copytree(bench.whole[f"{case.command.name} folder"], folder)
    _, at, how = case.how.split(",")[0].split(maxsplit=2)
    path = files(folder)[int(at)]
    spoil(path, how, bench.rng)
    return folder, path


def _gone_on(files):
    def run(case, bench):
        folder, path = _spoiled(case, bench, files)
        ended = case.command.go_on(folder, bench.folder / "again.log").wait()
        if ended.code == 0:
            return compared(case.command, folder, bench)
        named = str(path if files is _sums else folder / "checkpoints")
        return Outcome(REFUSED if in_a_line(ended, named, "remove") else WRONG, _said(ended))

    return run


def _said(ended):
    return last_line(ended) if "Traceback" not in ended.said else ended.said[-1500:]


def _reread(read, named, same):
    """IDENTICAL, REFUSED with a line that names the file, or WRONG."""
    try:
        found = read()
    except checks.UserError as error:
        return Outcome(REFUSED if str(named) in str(error) else WRONG, str(error))
    return Outcome(IDENTICAL, "") if same(found) else Outcome(WRONG, "other numbers, and not a word")


def _read_step(case, bench):
    folder, _ = _spoiled(case, bench, _checkpoint)
    step, whole = checkpoints.steps(folder)[-1], bench.whole["distill folder"]
    truth = artifacts.load(whole)
    return _reread(
        lambda: checkpoints.support_at(folder, step),
        folder,
        lambda found: _equal(found, (truth.images, truth.labels)),
    )


def _read_set(case, bench):
    folder, path = _spoiled(case, bench, lambda folder: [folder / artifacts.SUPPORT])
    truth = artifacts.load(bench.whole["distill folder"])
    return _reread(lambda: artifacts.load(folder), path, lambda found: _same_set(found, truth))


def _same_set(found, truth):
    arrays = [(one.images, one.labels, one.pixels, *one.preprocessing) for one in (found, truth)]
    return _equal(*arrays) and found.class_names == truth.class_names and found.config == truth.config


def _read_data(case, bench):
    folder, path = _spoiled(case, bench, _records)
    truth = published.load(name="mnist", data_dir=str(bench.whole["prepare folder"]))
    return _reread(
        lambda: published.load(name="mnist", data_dir=str(folder)),
        path.parent,
        lambda found: _equal(found[:4], truth[:4]) and found.class_names == truth.class_names,
    )


def _equal(some, others):
    return all(
        a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
        for a, b in zip(some, others, strict=True)
    )


def _prepared_again(case, bench):
    folder, _ = _spoiled(case, bench, _records)
    ended = case.command.begin(folder, bench.folder / "again.log").wait()
    return compared(case.command, folder, bench) if ended.code == 0 else Outcome(WRONG, _said(ended))
