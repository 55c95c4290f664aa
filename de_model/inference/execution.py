"""How tiles are run on a device: compiled networks, batches that fit the memory, threads of a CPU, a lost GPU."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from copy import deepcopy
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from de_model.enhancer import Enhancer
from de_model.errors import DeviceLost, OutOfMemory
from de_model.inference.acceleration import DEFAULT, Acceleration, Precision
from de_model.inference.sampling import Sampling
from de_model.inference.tiles import Tile
from de_model.unet import UNet

T = TypeVar("T")
_log = logging.getLogger(__name__)

#: On a GPU calls are recorded as CUDA graphs: at these sizes launching kernels takes longer than running them.
_MODE_ON_GPU = "reduce-overhead"
#: Pixels of a batch beyond which more are taken to gain nothing: 64 tiles of 128 px. An estimate, not measured.
_ENOUGH = 2**20
#: Share of the free memory that a batch may take; the rest is for what libraries and other models want.
_SHARE = 0.5
#: What torch says when memory runs out without an error type of its own.
_IN_WORDS = ("can't allocate memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")

#: Changed models by what they were made of.
_MADE: WeakKeyDictionary[Enhancer, dict[Acceleration, Enhancer]] = WeakKeyDictionary()
#: Batches by model and by what a tile's memory depends on, so that they keep their shape from block to block.
_BATCHES: WeakKeyDictionary[Enhancer, dict[Sampling, int]] = WeakKeyDictionary()


def accelerated(enhancer: Enhancer, acceleration: Acceleration) -> Enhancer:
    """Return the model with layout and compilation as wanted; itself where nothing is changed.

    A changed model is made at the first call and kept as long as `enhancer`, which stays as it is and shares its
    weights where the layout is the same. Precision is a matter of each call, not of the model.
    """
    wanted = replace(acceleration, precision=Precision.FP32)
    if wanted == DEFAULT:
        return enhancer
    made = _MADE.setdefault(enhancer, {})
    if wanted not in made:
        shared: dict[int, Any] = {id(p): p for p in enhancer.parameters()} if wanted.channels_last else {}
        made[wanted] = changed = deepcopy(enhancer, shared)
        if not wanted.channels_last:
            for parameter in changed.parameters():
                parameter.data = parameter.data.contiguous()
        if wanted.compiled:
            for network in (changed.predictor, changed.allocation):
                network.add_module("net", CompiledUNet(network.net))
    return made[wanted]


class CompiledUNet(nn.Module):
    """A U-Net compiled for every shape that it is asked about; eager from the first failure to compile on."""

    def __init__(self, net: UNet) -> None:
        super().__init__()
        self.net, self.config = net, net.config
        on_gpu = next(net.parameters()).is_cuda
        self._compiled = torch.compile(net, dynamic=False, mode=_MODE_ON_GPU if on_gpu else None)
        self._eager = False

    def forward(self, x: Tensor, t: Tensor, context: Tensor | None = None) -> Tensor:
        """Return what the U-Net returns."""
        if not self._eager:
            try:
                return self._compiled(x, t, context)
            except _compiler_errors() as error:
                self._eager = True
                _warn_eager(type(error).__name__)
        return self.net(x, t, context)


@lru_cache(maxsize=1)
def _compiler_errors() -> tuple[type[Exception], ...]:
    """Return what torch raises when it cannot compile; loaded late, as the compiler takes seconds to load."""
    from torch._dynamo.exc import TorchDynamoException
    from torch._inductor.exc import CppCompileError, InvalidCxxCompiler

    return TorchDynamoException, CppCompileError, InvalidCxxCompiler


@lru_cache(maxsize=1)
def _warn_eager(reason: str) -> None:
    """Warn once in a process; both networks fail for the same reason."""
    _log.warning(
        "The model cannot be compiled here (%s) and runs as it is; install a C++ compiler, or leave `compiled` out.",
        reason,
    )


def batch_size(enhancer: Enhancer, sampling: Sampling, run_one: Callable[[], object]) -> int:
    """Return the batch that was asked for, or the one that fits the memory of the model's GPU.

    Args:
        enhancer: the model, as it was loaded.
        sampling: how tiles are restored.
        run_one: runs one tile to its end; what it takes is measured at the first call for a model and a sampling.
    """
    if sampling.batch is not None:
        return sampling.batch
    found, what = _BATCHES.setdefault(enhancer, {}), replace(sampling, seed=0)
    if what not in found:
        device = next(enhancer.parameters()).device
        found[what] = fitting(_bytes_of(run_one, device), _free_bytes(device), sampling.tile**2)
    return found[what]


def fitting(tile_bytes: int, free_bytes: int, tile_pixels: int) -> int:
    """Return the largest power of two of tiles that fits, 1 where none does: the batch itself finds out."""
    most = min(int(_SHARE * free_bytes) // max(1, tile_bytes), _ENOUGH // tile_pixels)
    return 1 << max(0, most.bit_length() - 1)


def _bytes_of(run_one: Callable[[], object], device: torch.device) -> int:
    run_one()  # work space that libraries keep for good is not a tile's
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run_one()
    return torch.cuda.max_memory_allocated(device) - before


def _free_bytes(device: torch.device) -> int:
    """Return what is free on the device, with what torch holds and does not use."""
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused


def in_batches(
    tiles: Sequence[Tile], size: int, run: Callable[[list[Tile]], T], *, whole: bool = False
) -> Iterator[tuple[list[Tile], T]]:
    """Yield batches of tiles with what `run` makes of each, in order.

    A batch that does not fit into memory is halved and run again, and so are those after it; a warning is logged.

    Args:
        tiles: what is to be run.
        size: tiles in a batch, at least 1.
        run: returns what it makes of a batch.
        whole: the last batch is filled up with its last tile before it is run, so that all have the one shape networks
            are compiled for. What it is yielded with has no repeats.

    Raises:
        OutOfMemory: not even one tile fits.
    """
    done = 0
    while done < len(tiles):
        batch = list(tiles[done : done + size])
        tried = batch + batch[-1:] * (size - len(batch)) if whole else batch
        try:
            made = run(tried)
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
            if len(tried) == 1:
                raise OutOfMemory(
                    f"One tile of {batch[0].size} px does not fit into memory; choose a smaller tile, or free memory."
                ) from error
            size = len(tried) // 2
            _log.warning("%d tiles at once do not fit into memory; going on with %d", len(tried), size)
        else:
            done += len(batch)
            yield batch, made
            continue
        # Outside the handler: the error holds the tensors that filled the memory.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in _IN_WORDS)


def in_threads(
    tiles: Sequence[Tile], run: Callable[[list[Tile]], T], *, first_alone: bool = False
) -> Iterator[tuple[list[Tile], T]]:
    """Yield every tile with what `run` makes of it, in order; as many run at once as torch may use threads.

    Within a tile operators keep to one thread: they divide their sums among threads, so the last bits of a result would
    depend on the number of cores. That many tiles at once use the cores as well, and wait for each other less.

    Args:
        tiles: what is to be run.
        run: returns what it makes of a batch of one tile; called from several threads.
        first_alone: finish the first tile before others begin, as when networks are compiled on the way.

    Raises:
        OutOfMemory: a tile does not fit into memory.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        yield from in_batches(tiles, 1, run)
        return
    pending: deque[Future[tuple[list[Tile], T]]] = deque()
    with ThreadPoolExecutor(threads, initializer=partial(torch.set_num_threads, 1)) as pool:
        try:
            for index, tile in enumerate(tiles):
                pending.append(pool.submit(lambda one: next(in_batches([one], 1, run)), tile))
                # What is done waits to be blended in order; more of it than this is not held.
                if len(pending) > 2 * threads or (first_alone and index == 0):
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for waiting in pending:
                waiting.cancel()
            # What the workers set for themselves is what threads made later would begin with.
            torch.set_num_threads(threads)


def answers(device: torch.device) -> bool:
    """Return whether the CUDA context is usable: after a fatal error every later call of the process fails, too."""
    try:
        torch.cuda.synchronize(device)
    except RuntimeError:
        return False
    return True


def watched(
    results: Iterator[T], device: torch.device, answers: Callable[[torch.device], bool] = answers
) -> Iterator[T]:
    """Yield results that are made on a device.

    Raises:
        DeviceLost: making them failed, and the CUDA context is unusable.
    """
    try:
        yield from results
    except RuntimeError as error:
        if answers(device):
            raise
        reason = str(error).partition("\n")[0]
        raise DeviceLost(
            f"The GPU {device} does not answer any more ({reason}); see the system's log, and start the process again."
        ) from error
