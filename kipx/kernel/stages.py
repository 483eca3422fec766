"""An architecture over an image as the GPU's kernels take it: stage by stage, and pairs of images tile by tile."""

from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from kipx.architecture import Conv, Relu
from kipx.kernel import gpu
from kipx.kernel.layers import place
from kipx.kernel.plan import runs

THREADS = 128  # of a block, where one unit needs no more
MOST_THREADS = 512
MOST_LAYERS = 3  # whose rows fit the registers
MOST_CHANNELS = 4
MOST_LANES = 32  # a warp's, within which rows exchange columns
SCRATCH_BYTES = 2**30
PARTS = 32  # at least, into which the sum of a gradient over the first images is cut
BLOCKS = 2048  # of threads, about, where there are few second images: more than run at once, so that all end together


class Stage(NamedTuple):
    """The layers between two pools, the pool included.

    Attributes:
      sides: (h, w) of its planes.
      radii: offsets that it needs, (vertical, horizontal).
      convolutions: its Conv layers; each has a ReLU behind it.
      maps: where each ReLU's standard deviations begin in an image's.
      channels: of the pixels that it begins with; 0 for a stage above a pool.
      margins: zeros (before, behind) each row of an image's maps, for offsets that lead outside.
    """

    sides: tuple
    radii: tuple
    convolutions: tuple
    maps: tuple
    channels: int
    margins: tuple

    @property
    def lanes(self):
        """Threads that hold one row of a pair of planes, a power of two."""
        return lanes(self.sides[1])

    @property
    def stride(self):
        """Entries a row of an image's maps."""
        return sum(self.margins) + self.sides[1]

    @property
    def groups(self):
        """Pairs of planes of one vertical offset: those at horizontal offsets 2k and 2k + 1."""
        return (self.radii[1] + 1) // 2 + self.radii[1] // 2 + 1

    @property
    def units(self):
        """Pairs of images in one block."""
        return max(1, THREADS // (self.groups * self.lanes))

    @property
    def threads(self):
        """Of a block: whole warps."""
        return -(-self.units * self.groups * self.lanes // 32) * 32

    @property
    def planes(self):
        """(vertical, horizontal) offsets."""
        return tuple(2 * radius + 1 for radius in self.radii)

    @property
    def entries(self):
        """Covariances of a pair at every needed offset."""
        return self.planes[0] * self.planes[1] * self.sides[0] * self.sides[1]

    @property
    def quantities(self):
        """Maps that its gradient has: a ReLU's standard deviations each, a channel's pixels each."""
        return len(self.convolutions) + self.channels

    def shared_bytes(self, name):
        """Shared memory of a block; 'backward' it holds the gradient of its image and what threads add to it."""
        if name == "forward":
            return 8 * 4 * self.threads
        sums = self.quantities * self.sides[0] * self.sides[1]
        return 8 * (sums + sums % 2 + 4 * self.quantities * self.threads)

    def columns(self, above):
        """Numbers of a pair that its forward pass leaves to the stage above: columns pooled, rows not yet."""
        return self.planes[0] * above.planes[1] * self.sides[0] * (self.sides[1] // 2)


def lanes(width):
    """Threads for a row, two columns each: a power of two."""
    return max(2, 1 << (-(-width // 2) - 1).bit_length())


def supports(architecture, shape):
    """Whether the GPU's kernels serve: 3x3 convolutions with ReLUs, 2x2 pools, images (h, w, c) that fit a block."""
    for _, layers, pool in runs(place(architecture, shape[:2], radius=0)):
        kinds = [type(layer) for layer in layers]
        if pool not in (0, 2) or kinds != [Conv, Relu] * (len(kinds) // 2) or len(kinds) > 2 * MOST_LAYERS:
            return False
        if any(layer.size != 3 for layer in layers[::2]):
            return False
    stages = *make_stages(architecture, shape), *own_stages(architecture, shape)
    return shape[2] <= MOST_CHANNELS and all(_fits(stage) for stage in stages)


def _fits(stage):
    threads = stage.groups * stage.lanes
    shared = stage.shared_bytes("backward")
    return stage.lanes <= MOST_LANES and threads <= MOST_THREADS and shared <= gpu.shared_bytes()


@lru_cache
def make_stages(architecture, shape):
    """Tuple of Stage for pairs of images (h, w, c)."""
    stages, maps = [], 0
    for bands, layers, _ in runs(place(architecture, shape[:2], radius=0)):
        sides, radii = zip(*((band.side, band.radius) for band in bands), strict=True)
        margins = (radii[1] + 1) // 2 * 2, 2 * lanes(sides[1]) - sides[1] + radii[1] // 2 * 2 + 2
        stage = Stage(sides, radii, tuple(layers[::2]), (), 0 if stages else shape[2], margins)
        starts = [maps + i * sides[0] * stage.stride for i in range(len(stage.convolutions))]
        stages.append(stage._replace(maps=tuple(starts)))
        maps += len(starts) * sides[0] * stage.stride
    return tuple(stages)


@lru_cache
def own_stages(architecture, shape):
    """The same for images with themselves, with the fewer offsets that variances before ReLUs ask for."""
    found = runs(place(architecture, shape[:2], radius=-1))
    stages = make_stages(architecture, shape)[: len(found)]
    return tuple(
        stage._replace(radii=tuple(band.radius for band in bands))
        for stage, (bands, _, _) in zip(stages, found, strict=True)
    )


class Tiles(NamedTuple):
    """How the matrix of two sets is cut, so that what passes between stages fits SCRATCH_BYTES.

    Attributes:
      sides: (n1, n2) of the matrix.
      rows, columns: of a tile; it has all columns, or one row.
      scratch: entries of what each stage but the first begins with and, for gradients, of their cotangents.
    """

    sides: tuple
    rows: int
    columns: int
    scratch: tuple

    def each(self):
        """(first row, rows, first column, columns) of every tile."""
        for row in range(0, self.sides[0], self.rows):
            for column in range(0, self.sides[1], self.columns):
                yield row, min(self.rows, self.sides[0] - row), column, min(self.columns, self.sides[1] - column)

    def rows_a_block(self, stage):
        """First images that one block of threads takes, going back."""
        return max(stage.units, -(-self.rows // max(PARTS, BLOCKS // self.columns)))

    def parts_a_tile(self, stage):
        """Parts of a gradient from one tile, to be added."""
        return -(-self.rows // self.rows_a_block(stage))

    def parts(self, stage):
        """Parts of a gradient from all rows of tiles."""
        return -(-self.sides[0] // self.rows) * self.parts_a_tile(stage)


def make_tiles(stages, n1, n2, pulled):
    """Tiles for n1 and n2 images; `pulled` for gradients."""
    entries = [stage.columns(above) for stage, above in pairwise(stages)]
    entries += [stage.entries for stage in stages[1:]] * pulled
    pairs = max(1, SCRATCH_BYTES // (12 * max(1, sum(entries))))
    columns = min(n2, pairs)
    rows = min(n1, max(1, pairs // columns))
    return Tiles((n1, n2), rows, columns, tuple(rows * columns * n for n in entries))
