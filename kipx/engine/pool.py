"""The paper's workflow: a server cuts both Gram matrices into blocks, workers compute them and pull cotangents back.

Results are added in the order of the blocks, so they do not depend on who finished first, or on who died.
"""

from kipx import checks
from kipx.engine.blockwise import functions, over
from kipx.engine.workers import crew


def build(kernel_fn, block_size=None, address: str | None = None, cpus_per_worker: int = 1):
    """Builds an Engine whose blocks are computed by workers on Ray, as many as the cluster has room for.

    Args:
      kernel_fn: (x1, x2=None) -> (n1, n2), from `kipx.kernel.build`.
      block_size: as for `kipx.engine.blockwise.build`; with the same blocks the results are the same, bit for bit,
        where workers and this process have the same kind of processor.
      address: of a Ray cluster; None starts one on this machine, which ends with the process.
      cpus_per_worker: cores of a worker on nodes without GPUs; each GPU is a worker.
    Returns:
      Engine; its functions cannot be traced.
    Raises:
      UserError: a block_size or cpus_per_worker that is none, Ray missing, no cluster at the address.
    Source: paper section 2.1.
    """
    checks.integer("engine.cpus_per_worker", cpus_per_worker, at_least=1)
    return over(crew(address, cpus_per_worker).place(functions(kernel_fn)), kernel_fn, block_size)
