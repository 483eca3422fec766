"""A crew of Ray actors that evaluates blocks of a kernel; they may come, go, die and be slow.

A block is a pure function of what is sent, so it may be computed again, or twice, at any time: the first answer counts.
"""

import atexit
import collections
import os
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import numpy as np

from kipx import checks

AHEAD = 2  # blocks at a worker: one in work, one on its way
LOOK_S = 1.0  # between looks for nodes that came or went
ALONE_S = 60.0  # without any worker, before the run stops
STRIKES = 3  # workers of a node that died without an answer, before it is left alone
SLOW = 3.0  # times the usual time of a block, before an idle worker computes it too
_crews = weakref.WeakValueDictionary()  # of this process, by cluster and cores


class Worker:
    """One process, on some cores or on one GPU."""

    def __init__(self, x64, cores):
        if cores and hasattr(os, "sched_setaffinity"):
            mine = sorted(os.sched_getaffinity(0))
            os.sched_setaffinity(0, {mine[core % len(mine)] for core in cores})
        jax.config.update("jax_enable_x64", x64)
        self.kits = {}

    def hello(self):
        """The process's number, as soon as it is up."""
        return os.getpid()

    def evaluate(self, kit, name, blocks1, blocks2, i, j, *cotangent):
        """The kit's function of that name of blocks1[i], blocks2[j] and the cotangent, in numpy arrays."""
        number, reference = kit
        if number not in self.kits:
            import ray

            self.kits[number] = {key: jax.jit(function) for key, function in ray.get(reference).items()}
        return jax.tree.map(np.asarray, self.kits[number][name](blocks1[i], blocks2[j], *cotangent))


def crew(address, cpus):
    """The Crew of a cluster: it takes all the room there is, so the engines of a process share one.

    Args, Raises: as for `Crew`.
    """
    ray = _connect(address)
    key = ray.get_runtime_context().gcs_address, cpus
    if key not in _crews:
        _crews[key] = found = Crew(address, cpus)
        return found
    return _crews[key]


class Place(NamedTuple):
    """Where the blocks of one kernel are computed: what `kipx.engine.blockwise.over` needs, on a crew."""

    put: Callable
    evaluate: Callable
    devices: Callable


class Crew:
    """Every worker that the cluster has room for, and the blocks that are at them."""

    def __init__(self, address, cpus):
        """Joins the Ray cluster at `address`, or starts one on this machine that ends with the process.

        Args:
          address: of a Ray cluster, or None.
          cpus: cores of a worker on nodes without GPUs; a GPU is one worker.
        Raises:
          UserError: Ray is not there, or no cluster is.
        """
        self.ray, self.cpus = _connect(address), cpus
        self.kits = 0  # numbers of functions that workers have been given
        self.workers, self.pids = {}, {}  # slot (node, number) -> actor that has said hello, its process
        self.joining = {}  # reference of hello -> (slot, actor)
        self.flying = collections.OrderedDict()  # reference of an answer -> (slot, call, index, since)
        self.strikes, self.trouble = collections.Counter(), "none came up"
        self.looked, self.seen, self.calls = 0.0, time.monotonic(), 0

    def place(self, functions):
        """The Place of functions.

        Args:
          functions: {name: function of two blocks, and of a cotangent}, each one block's worth of work.
        """
        self.kits += 1
        kit = self.kits, self.ray.put(functions)  # once for all workers
        return Place(self.put, partial(self.evaluate, kit), self.devices)

    def devices(self):
        """Workers that have come up, at least the one that must."""
        return max(1, len(self.workers))

    def put(self, cut):
        """A reference to blocks, which travel to each node once, and their shape."""
        return self.ray.put(np.asarray(cut)), cut.shape

    def evaluate(self, kit, name, put1, put2, tasks):
        """Evaluates a function at every task, wherever there is room, and yields the results in the tasks' order.

        Args:
          kit: number of the functions, and the reference to them.
          name: of a function.
          put1, put2: from `put`.
          tasks: tuples (i, j) or (i, j, cotangent).
        Raises:
          EngineError: a worker raised, or there has been none for a minute.
        """
        (blocks1, shape1), (blocks2, shape2) = put1, put2
        self.calls += 1
        results, given, left, twice, usual = {}, 0, collections.deque(range(len(tasks))), set(), []
        while given < len(tasks):
            self._look()
            while (slot := self._free()) is not None:
                wanted = () if left else set(range(given, len(tasks))) - results.keys()
                index = left.popleft() if left else self._late(slot, wanted, usual)
                if index is None:
                    break
                answer = self.workers[slot].evaluate.remote(kit, name, blocks1, blocks2, *tasks[index])
                self.flying[answer] = slot, self.calls, index, time.monotonic()
            for (_, call, index, since), value in self._answers(f"images {shape1[1:]} and {shape2[1:]}"):
                if call != self.calls or index < given or index in results:
                    continue
                if value is None or (index not in twice and not _finite(value)):
                    twice.update(() if value is None else (index,))
                    left.appendleft(index)
                else:
                    results[index] = value
                    usual.append(time.monotonic() - since)
            while given in results:
                yield results.pop(given)
                given += 1

    def _free(self):
        """The slot with the fewest blocks, None if all have enough."""
        load = collections.Counter(slot for slot, *_ in self.flying.values())
        slot = min(self.workers, key=lambda slot: load[slot], default=None)
        return slot if slot is not None and load[slot] < AHEAD else None

    def _late(self, slot, wanted, usual):
        """A block of this call that takes long at one other worker, for an idle one to compute as well."""
        own = [(index, since) for _, call, index, since in self.flying.values() if call == self.calls]
        copies = collections.Counter(index for index, _ in own)
        limit = max(SLOW * float(np.median(usual)), LOOK_S) if usual else np.inf
        if any(at == slot for at, *_ in self.flying.values()):
            return None
        late = (i for i, since in own if i in wanted and copies[i] == 1 and time.monotonic() - since > limit)
        return next(late, None)

    def _answers(self, shapes):
        """Yields (what flew, its value), None for the value of a block whose worker is gone."""
        ray = self.ray
        references = [*self.flying, *self.joining]
        done = ray.wait(references, num_returns=1, timeout=LOOK_S)[0] if references else time.sleep(LOOK_S) or []
        for reference in done:
            slot, *_ = self.joining.get(reference) or self.flying[reference]
            try:
                value = ray.get(reference)
            except ray.exceptions.RayTaskError as error:
                _, call, index, _ = self.flying.pop(reference)
                if call == self.calls:
                    raise checks.EngineError(
                        f"engine: worker {self.pids.get(slot)} failed at block {index} of {shapes}: {_last_line(error)}"
                    ) from error
            except ray.exceptions.RayError as error:
                yield from ((flown, None) for flown in self._lose(slot, error))
            else:
                if reference in self.joining:
                    _, self.workers[slot] = self.joining.pop(reference)
                    self.pids[slot] = value
                else:
                    self.strikes[slot[0]] = 0
                    yield self.flying.pop(reference), value

    def _lose(self, slot, error):
        """Forgets a worker; returns what flew to it."""
        gone = [reference for reference, flown in self.flying.items() if flown[0] == slot]
        for reference in [r for r, (at, _) in self.joining.items() if at == slot]:
            del self.joining[reference]
        self.workers.pop(slot, None)
        self.pids.pop(slot, None)
        self.strikes[slot[0]] += 1
        self.trouble = _last_line(error)
        return [self.flying.pop(reference) for reference in gone]

    def _look(self):
        """Hires where a node has room, at most once in LOOK_S."""
        now = time.monotonic()
        if now - self.looked < LOOK_S and (self.workers or self.joining):
            return
        self.looked = now
        for node in self.ray.nodes():
            name, resources = node["NodeID"], node["Resources"]
            gpus, cores = int(resources.get("GPU", 0)), int(resources.get("CPU", 0))
            for number in range(gpus or max(cores // self.cpus, min(cores, 1))):
                if node["Alive"] and self.strikes[name] < STRIKES:
                    self._hire((name, number), gpu=gpus > 0)
        if self.workers:
            self.seen = now
        elif now - self.seen > ALONE_S or not (self.joining or self.flying):
            raise checks.EngineError(f"engine: no worker of the pool answers ({self.trouble})")

    def _hire(self, slot, gpu):
        if slot in self.workers or any(slot == at for at, _ in self.joining.values()):
            return
        node, number = slot
        where = self.ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node, soft=False)
        needs = {"num_gpus": 1, "num_cpus": 0} if gpu else {"num_cpus": self.cpus}
        cores = None if gpu else range(number * self.cpus, (number + 1) * self.cpus)
        platform = {} if gpu else {"env_vars": {"JAX_PLATFORMS": "cpu"}}
        actor = self.ray.remote(Worker).options(scheduling_strategy=where, runtime_env=platform, **needs)
        actor = actor.remote(jax.config.jax_enable_x64, cores)
        self.joining[actor.hello.remote()] = slot, actor


def _last_line(error):
    """Of an error from elsewhere: its cause, behind the traceback."""
    return str(error).strip().splitlines()[-1].strip()


def _finite(value):
    return all(np.isfinite(array).all() for array in jax.tree.leaves(value))


def _connect(address):
    """Ray, joined to a cluster."""
    try:
        import ray
        import ray.util.scheduling_strategies
    except ImportError as error:
        raise checks.UserError("engine: pool needs Ray, which is not there; pip install 'kipx[pool]'") from error
    if ray.is_initialized():
        return ray
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    quiet = {"log_to_driver": False, "logging_level": "error"}
    if address is None:
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # else a token is written to the user's home
        folder = tempfile.mkdtemp(prefix="kipx-ray-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        ray.init(include_dashboard=False, _temp_dir=folder, **quiet)
        atexit.register(ray.shutdown)
        return ray
    try:
        ray.init(address=address, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise checks.UserError(
            f"engine.address: no Ray cluster answers at {address!r} ({checks.reason(error)})"
        ) from error
    return ray
