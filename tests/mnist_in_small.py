"""Makes kipx take a small MNIST, with checksums of its own, for the published one; MNIST_IN_SMALL says where it lies.

To be imported in a process of the tests before kipx prepares.
"""

import os

import official

from kipx.data import sources

SMALL = official.make("mnist", train=1000, test=200, url=os.environ.get("MNIST_IN_SMALL", "http://127.0.0.1:9/"))
sources.SOURCES["mnist"] = SMALL.source
