"""Writes a published data set as tensorflow-datasets would, without TensorFlow: its name, version, features, order."""

import contextlib
import io
import os
import shutil

import numpy as np
import PIL.Image
import tensorflow_datasets as tfds

from kipx import checks, files
from kipx.data import published


def write(name, splits, class_names, data_dir=None, *, watch=lambda examples, total: examples):
    """Writes a data set beside its place and moves it there when it is whole.

    Args:
      name: as tensorflow-datasets has it.
      splits: {"train" | "test": {feature: values}}, `image` (n, h, w, c) uint8, the others as long.
      class_names: {feature: names}, where the code of tensorflow-datasets does not have them.
      data_dir: folder of prepared data sets; None: see `published.folder`. Nobody else may write there: see `alone`.
      watch: (examples, total) -> the same examples, for a progress bar.
    Returns:
      The folder of the prepared data set.
    """
    scratch, target = published.folder(data_dir) / f"incomplete.{name}", published.place(name, data_dir)
    shutil.rmtree(scratch, ignore_errors=True)  # of one that was killed
    try:
        builder = _builder_class(name, splits, class_names, watch)(data_dir=scratch, file_format="array_record")
        with _silence():
            builder.download_and_prepare()
        shutil.rmtree(target, ignore_errors=True)  # not whole, or the caller would not have come here
        target.parent.mkdir(parents=True, exist_ok=True)
        os.rename(builder.data_path, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def alone(name, data_dir=None, *, waiting=lambda holder: None):
    """A context that keeps every other one for this data set and folder waiting; see `kipx.files.held`.

    Args:
      name: of the data set.
      data_dir: as for `write`; made if it is not there.
      waiting: called once, with what it says of itself, if another one is at work.
    """
    return files.held(published.folder(data_dir) / f".{name}.lock", busy=waiting)


def _builder_class(name, splits, class_names, watch):
    stock = tfds.builder_cls(name)

    class Builder(stock, skip_registration=True):
        def _split_generators(self, dl_manager):
            for feature, names in class_names.items():
                expected = self.info.features[feature].num_classes
                if sorted(set(names)) != names or len(names) != expected:  # as all that are published
                    raise checks.UserError(
                        f"{name}: expected the {expected} names of {feature} in alphabetical order, got "
                        f"{checks.said(names)}; take their text from the published archive again"
                    )
                self.info.features[feature].names = names
            return {split: self._generate_examples(features) for split, features in splits.items()}

        def _generate_examples(self, features):
            rows = zip(*features.values(), strict=True)
            for i, row in enumerate(watch(rows, len(features["label"]))):
                example = dict(zip(features, row, strict=True))
                labels = {key: int(example[key]) for key in example if key.endswith("label")}
                yield i, {**example, **labels, "image": _picture(example["image"])}

    Builder.name = stock.name
    return Builder


def _picture(pixels):
    return PIL.Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels))


@contextlib.contextmanager
def _silence():
    """Keeps tensorflow-datasets from drawing bars of its own."""
    tfds.disable_progress_bar()
    with contextlib.redirect_stdout(io.StringIO()):
        yield
