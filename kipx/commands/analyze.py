"""kipx analyze: why a distilled set works, one question after another."""

import pathlib
import shlex
from functools import partial

from kipx import artifacts, checkpoints, checks, manifest
from kipx.analysis import dimension, images, kernels, labels, robustness, spectrum, subject
from kipx.data import check_set
from kipx.engine import hosts
from kipx.report.tables import Table, markdown

QUESTIONS = {
    "images": images.answer,
    "labels": labels.answer,
    "dimension": dimension.answer,
    "spectrum": spectrum.answer,
    "robustness": robustness.answer,
    "kernels": kernels.answer,
}
ALL, FOLDER = "all", "analysis"


def run(run, distilled, *, question, out, load, **posed):
    """Answers one question about a distilled set, or all; writes each as Markdown with a picture.

    Args:
      run: the run folder or npz that the set is of.
      distilled: kipx.artifacts.Distilled of it.
      question: one of QUESTIONS, or 'all'.
      out: folder to write to; None: `analysis` in the run folder, whose manifest then has the files.
      load: () -> Dataset.
      **posed: as for `kipx.analysis.subject.build`.
    Yields:
      (kipx.report.tables.Table, the Markdown file) of each question; of all, a question that this set does not allow
      comes as a table of the reason, and None.
    Raises:
      UserError: an unknown question, one that this set does not allow, another data set than the set's, or a file that
        cannot be written.
    """
    checks.one_of("question", question, (ALL, *QUESTIONS))
    data = load()
    check_set(data, distilled.images.shape[1:], len(distilled.class_names))
    steps = checkpoints.steps(run) if pathlib.Path(run).is_dir() else ()
    asked = subject.build(distilled, data, steps=steps, at=partial(checkpoints.support_at, run), **posed)
    for name in QUESTIONS if question == ALL else (question,):
        try:
            table, picture = QUESTIONS[name](asked)
        except checks.UserError as error:
            if question != ALL:
                raise
            yield Table(name, ("left out because",), [(str(error),)]), None
            continue
        yield table, _write(run, out, name, table, picture)


def _write(run, out, name, table, picture):
    """Writes the page and its picture, in a run folder into its manifest too; of several processes one does."""
    if not hosts.leads():
        return None
    home = pathlib.Path(run) if pathlib.Path(run).is_dir() else pathlib.Path(run).parent
    folder = pathlib.Path(out) if out else home / FOLDER
    typed = shlex.join(["kipx", "analyze", f"run={run}", f"question={name}"])
    page = f"# {table.title}\n\nWritten by `{typed}`.\n\n![{table.title}]({name}.png)\n\n"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        artifacts.write(folder / f"{name}.png", picture)
        artifacts.write(folder / f"{name}.md", page + markdown(table._replace(title="Numbers")))
        if not out:
            manifest.enter(home, [f"{FOLDER}/{name}.{ending}" for ending in ("md", "png")])
    except OSError as error:
        raise checks.UserError(f"out: cannot write to {folder} ({error.strerror}); choose another with out=") from error
    return folder / f"{name}.md"
