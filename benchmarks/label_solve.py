"""Where to cut the spectrum of Label Solve: digits, FC1 in float32, well-posed and ill-posed support sets.

python benchmarks/label_solve.py > docs/label_solve.md
"""

import jax
import jax.numpy as jnp
import numpy as np

from kipx import evaluate, label_solve, preprocess, support
from kipx.architecture import fc
from kipx.data import digits
from kipx.engine import blockwise
from kipx.kernel import build

RIDGE = 1e-6
CUTOFFS = (0, 1e-20, 1e-16, 1e-12, 1e-10, 1e-8, 1e-6, 1e-4, 1e-2)
CASES = {
    "500 images, 1,297 targets": (50, 1297, None),
    "500 images, 300 targets": (50, 300, None),
    "200 images, half of them twice": (20, 1297, 0.0),
    "200 images, half of them all but twice": (20, 1297, 1e-3),
}
HEAD = """# Where Label Solve cuts the spectrum

`python benchmarks/label_solve.py > docs/label_solve.md`: digits, `kernel=fc`, float32, ridge 1e-6, seed 0. Test
accuracy in percent where directions are kept whose eigenvalue of A'A is above that part of the largest; in brackets how
many those are. "All but twice" is noise of 0.001 on standardized pixels."""
FOOT = """
With fewer images than targets, drawn at random, the spectrum ends far above any cutoff, and the cut does nothing. Where
A'A is singular its zeros come out as 1e-16 and less, and directions down to 1e-7 still help: the default of
`form.cutoff`, 1e-10, lies between. The notebook's form solves under another ridge than the evaluation's, which costs
accuracy where support images are nearly equal."""


def pose(per_class, targets, noise):
    """(the problem, evaluate, x_support); with noise the second half is the first half and noise."""
    data = digits.load()
    fitted = preprocess.standardize()(data.x_train)
    x, x_test = fitted.apply(data.x_train), jnp.asarray(fitted.apply(data.x_test))
    y, y_test = support.one_hot(data.y_train, 10)[:targets], support.one_hot(data.y_test, 10)
    x_s, _ = support.natural(per_class=per_class)(jax.random.key(0), x, data.y_train, 10)
    if noise is not None:
        first = x_s[: len(x_s) // 2]
        more = noise * np.random.default_rng(0).normal(size=first.shape).astype(np.float32)
        x_s = jnp.concatenate([first, first + more])
    engine = blockwise.build(build(fc(depth=1), "ntk", "float32"))
    *_, sums = label_solve.stream([engine], x_s, x[:targets], y)
    problem = label_solve.pose([engine.gram(x_s)], sums, [1.0], ridge=RIDGE)
    return problem, evaluate.build(engine, x_test, y_test, ridge=RIDGE, keep=True), x_s


def main():
    """Prints the page."""
    jax.config.update("jax_enable_x64", True)
    print(HEAD + "\n\n| cutoff | " + " | ".join(CASES) + " |\n|--:|" + "--:|" * len(CASES))
    posed = [pose(*case) for case in CASES.values()]
    forms = {f"{cutoff:.0e}": label_solve.least_norm(cutoff=cutoff) for cutoff in CUTOFFS}
    for name, form in {**forms, "notebook's form": label_solve.notebook()}.items():
        cells = []
        for problem, measure, x_s in posed:
            labels, kept = form(problem)
            cells.append(f"{100 * measure(x_s, labels)['test_accuracy']:.1f} ({kept})")
        print(f"| {name} | " + " | ".join(cells) + " |")
    print(FOOT)


if __name__ == "__main__":
    main()
