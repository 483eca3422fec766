"""kipx distils data sets with the kernels of infinitely wide networks.

The numerics are importable by themselves: `kipx.architecture`, `kipx.kernel`, `kipx.krr`, `kipx.engine` and
`kipx.distill`. A finished run is read with `kipx.artifacts.load`. Nothing is imported here, so
that the command line starts at once.
"""
