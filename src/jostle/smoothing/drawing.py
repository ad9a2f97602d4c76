"""Draws of many inputs, packed into full batches: early stopping makes batches fewer, never smaller."""

import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from threading import Lock

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from jostle.core.errors import JostleError, require
from jostle.core.taps import first_tensor
from jostle.smoothing.crew import Crew
from jostle.smoothing.noise import Filler, entries_of, piece_of, seed_of

# With fewer draws than this in sight a batch is not shared out among the workers.
_WORTH = 32


@dataclass(eq=False)
class Job:
    """One input whose draws are wanted.

    `name`: its number, which with the seed fixes its draws. `image`: on the model's device. `want`: total of draws
    after which `decide(job)` is called, which sets a larger `want` or returns True. `counts`: answers a class so far.
    """

    name: int
    image: Float[Tensor, "..."]
    want: int
    decide: Callable[["Job"], bool]
    counts: Int[np.ndarray, " classes"] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    drawn: int = 0  # laid out in batches
    seen: int = 0  # counted
    pieces: int = 0  # of its noise, so far


def draw(
    model: nn.Module,
    jobs: Iterable[Job],
    fill: Filler,
    *,
    batch: int,
    classes: int,
    seed: int,
    device: torch.device,
    dtype: torch.dtype,
    noise_on: torch.device,
) -> Generator[Job, None, None]:
    """Run jobs to their end and yield each as it is done.

    A batch is filled with draws of as many inputs as it takes, each up to its next look; the oldest input goes
    first, and new ones start when room is left. Noise is made in the batch, in place; answers are counted all at
    once. While batches run on a device's queue or on the other cores, the next is laid out; they are counted
    in the order in which they were laid out, so what is in a batch does not hang on which was done first. The draws
    of an input come in pieces, each from a stream of its own, whose sizes depend on the input's shape and its looks
    alone, so counts do not depend on the batch, the order, the neighbours or the number of cores.

    **Arguments:** `model`: in evaluation mode. `jobs`: taken one by one, as there is room. `fill`: makes noisy copies.
    `batch`: rows a forward pass. `classes`: number of outputs. `seed`: of all streams. `device`, `dtype`: of
    the model's input. `noise_on`: device that draws.
    **Raises:** `JostleError` if the model answers NaN or infinity, or another number of classes.
    """
    with closing(Crew(model, device, noise_on)) as crew:
        packer = _Packer(iter(jobs), batch, classes, seed, dtype, noise_on, len(crew.models))
        running: deque[_Batch] = deque()
        while True:
            packed = packer.pack()
            if packed is not None:
                packed.result = crew.start(packed.run, fill, classes)
                running.append(packed)
            if not running:
                return
            if packed is None or len(running) >= crew.ahead:
                yield from packer.count(running.popleft())


class _Piece:
    """Draws of one input that are made together; two batches may share them."""

    def __init__(self, job: Job, size: int, seed: int) -> None:
        self.job, self.size, self.seed = job, size, seed_of(seed, job.name, job.pieces)
        self.whole: Tensor | None = None
        self.lock = Lock()
        job.pieces += 1
        job.drawn += size

    def write(self, rows: Tensor, start: int, fill: Filler, generator: torch.Generator) -> None:
        """Write as many of the draws as there are rows, from `start` on."""
        if len(rows) == self.size:
            fill(rows, self.job.image, generator.manual_seed(self.seed))
            return
        with self.lock:
            if self.whole is None:
                self.whole = rows.new_empty((self.size, *rows.shape[1:]))
                fill(self.whole, self.job.image, generator.manual_seed(self.seed))
        rows.copy_(self.whole[start : start + len(rows)])


@dataclass(eq=False)
class _Batch:
    buffer: Tensor
    parts: list[tuple[_Piece, int, int]]  # with the first of the piece's draws, and how many
    result: Callable[[], tuple[Tensor, Tensor]] | None = None

    def run(
        self, model: nn.Module, generator: torch.Generator, fill: Filler, classes: int
    ) -> tuple[Int[Tensor, " rows"], Float[Tensor, ""]]:
        """The answer of each row, and a number that is finite if all logits are."""
        at = 0
        for piece, start, number in self.parts:
            piece.write(self.buffer[at : at + number], start, fill, generator)
            at += number
        return _answer(model, self.buffer[:at], classes)


class _Packer:
    def __init__(
        self,
        jobs: Iterator[Job],
        batch: int,
        classes: int,
        seed: int,
        dtype: torch.dtype,
        noise_on: torch.device,
        workers: int,
    ) -> None:
        self.jobs, self.size, self.classes, self.seed = jobs, batch, classes, seed
        self.noise_on, self.dtype, self.workers = noise_on, dtype, workers
        self.ready: deque[Job] = deque()
        self.rest: tuple[_Piece, int] | None = None  # a piece of which only the beginning found room
        self.buffers: list[Tensor] = []
        self.shape: torch.Size | None = None
        self.most = 0  # draws a piece
        self.ended = False
        self.done = 0

    def pack(self) -> _Batch | None:
        """The next batch, or None if all that is wanted has been laid out."""
        parts, room, image = [], self._room(), None
        while room and (left := self.rest or self._piece()) is not None:
            piece, start = left
            taken = min(room, piece.size - start)
            parts.append((piece, start, taken))
            room -= taken
            self.rest = (piece, start + taken) if start + taken < piece.size else None
            image = piece.job.image
        return None if image is None else _Batch(self._buffer(image), parts)

    def count(self, batch: _Batch) -> list[Job]:
        """Add a batch's answers to its jobs; the jobs that are done."""
        assert batch.result is not None
        answers, largest = batch.result()
        require(
            math.isfinite(float(largest)),
            f"the model answers NaN or infinity (after {self.done} inputs were done): look at its weights, or at an "
            "overflow in half precision",
        )
        slots: dict[Job, int] = {}
        where = [slots.setdefault(piece.job, len(slots)) for piece, _, _ in batch.parts]
        numbers = [number for _, _, number in batch.parts]
        for (piece, _, _), number in zip(batch.parts, numbers, strict=True):
            piece.job.seen += number
        flat = answers.cpu().numpy()
        if len(slots) > 1:
            flat = flat + np.repeat(np.array(where) * self.classes, numbers)
        table = np.bincount(flat, minlength=len(slots) * self.classes)
        self.buffers.append(batch.buffer)
        finished = []
        for job, row in zip(slots, table.reshape(-1, self.classes), strict=True):
            job.counts = row if not len(job.counts) else job.counts + row
            if job.seen == job.want:
                if job.decide(job):
                    finished.append(job)
                    self.done += 1
                else:
                    require(job.want > job.seen, "decide must ask for more draws or end the job")
                    self.ready.append(job)
        return finished

    def _room(self) -> int:
        """Rows of the next batch: at the end, when no new inputs come, what is left is shared out."""
        if not self.ended or self.workers == 1:
            return self.size
        left = sum(job.want - job.drawn for job in self.ready)
        return min(self.size, max(_WORTH, math.ceil(left / self.workers)))

    def _piece(self) -> tuple[_Piece, int] | None:
        if not self.ready:
            job = next(self.jobs, None)
            if job is None:
                self.ended = True
                return None
            if self.shape is None:
                self.shape = job.image.shape
                self.most = piece_of(entries_of(job.image), self.noise_on)
            if job.image.shape != self.shape:
                raise JostleError(
                    f"images must share one shape, but {tuple(self.shape)} and {tuple(job.image.shape)} came; "
                    "give size=... to load_data"
                )
            self.ready.append(job)
        job = self.ready[0]
        piece = _Piece(job, min(job.want - job.drawn, self.most), self.seed)
        if job.drawn == job.want:
            self.ready.popleft()
        return piece, 0

    def _buffer(self, image: Tensor) -> Tensor:
        if self.buffers:
            return self.buffers.pop()
        return torch.empty((self.size, *image.shape), dtype=self.dtype, device=image.device)


def _answer(model: nn.Module, rows: Tensor, classes: int) -> tuple[Int[Tensor, " rows"], Float[Tensor, ""]]:
    try:
        logits = first_tensor(model(rows), "the model")
    except torch.OutOfMemoryError:
        if len(rows) == 1:
            raise
        halves = [_answer(model, half, classes) for half in rows.chunk(2)]
        return torch.cat([answers for answers, _ in halves]), halves[0][1] + halves[1][1]
    if logits.ndim != 2 or logits.shape[0] != len(rows) or logits.shape[1] != classes:
        raise JostleError(
            f"the model must give one row of {classes} logits an image, but {tuple(logits.shape)} came for "
            f"{len(rows)} images"
        )
    values, answers = logits.max(1)  # the lowest index where several are largest
    return answers, values.sum(dtype=torch.float64)
