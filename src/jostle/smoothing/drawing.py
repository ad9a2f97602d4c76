"""Draws of many inputs, packed into full batches: early stopping makes batches fewer, never smaller."""

import math
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from threading import Lock

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from jostle.core.errors import JostleError, require
from jostle.core.taps import first_tensor
from jostle.smoothing.crew import Crew, Hand
from jostle.smoothing.noise import Filler, piece_of, seed_of

# With fewer draws than this in sight a batch is not shared out among the workers.
_WORTH = 32

# A worker is handed so many seconds of work at a time, in at most so many batches: what lays batches out and counts
# them takes a tenth of a millisecond, in which the workers wait for the interpreter.
_SECONDS, _MOST = 2e-2, 16


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
        running: deque[_Load] = deque()
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


Parts = list[tuple[_Piece, int, int]]
"""Draws that stand one after another: a piece, the first of its draws, and how many."""


@dataclass(eq=False)
class _Load:
    """Batches that one worker runs after another, in `size` rows of its own."""

    batches: list[Parts]
    size: int
    dtype: torch.dtype
    result: Callable[[], tuple[Tensor, Tensor, float]] | None = None

    def run(
        self, hand: Hand, fill: Filler, classes: int
    ) -> tuple[Int[Tensor, " rows"], Float[Tensor, ""], float]:
        """The answer of each row, a number that is finite if all logits are, and seconds a batch."""
        began = time.perf_counter()
        image = self.batches[0][0][0].job.image
        if hand.rows is None:
            hand.rows = torch.empty((self.size, *image.shape), dtype=self.dtype, device=image.device)
        answers, largest = [], []
        for parts in self.batches:
            at = 0
            for piece, start, number in parts:
                piece.write(hand.rows[at : at + number], start, fill, hand.generator)
                at += number
            found, logits = _answer(hand.model, hand.rows[:at], classes)
            answers.append(found)
            largest.append(logits)
        seconds = (time.perf_counter() - began) / len(self.batches)
        return torch.cat(answers), torch.cat(largest).sum(dtype=torch.float64), seconds


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
        self.dtype, self.workers = dtype, workers
        self.ready: deque[Job] = deque(islice(jobs, 1))
        self.shape = self.ready[0].image.shape if self.ready else torch.Size()
        self.most = piece_of(math.prod(self.shape), noise_on)  # draws a piece
        self.rest: tuple[_Piece, int] | None = None  # a piece of which only the beginning found room
        self.begun: Parts = []  # a batch that nothing was left to fill
        self.together = 1  # batches a load
        self.ended = False
        self.done = 0

    def pack(self) -> _Load | None:
        """The next batches, or None if all that is wanted has been laid out."""
        batches: list[Parts] = []
        room = self._room()
        while room > 0 and (parts := self._batch(min(room, self.size))):
            rows = sum(number for _, _, number in parts)
            if batches and rows < min(room, self.size):
                self.begun = parts  # the next looks may fill it
                break
            batches.append(parts)
            room -= rows
        return _Load(batches, self.size, self.dtype) if batches else None

    def count(self, load: _Load) -> list[Job]:
        """Add a load's answers to its jobs; the jobs that are done."""
        assert load.result is not None
        answers, largest, seconds = load.result()
        if answers.device.type == "cpu":
            self.together = max(1, min(_MOST, round(_SECONDS / seconds)))
        require(
            math.isfinite(float(largest)),
            f"the model answers NaN or infinity (after {self.done} inputs were done): look at its weights, or at an "
            "overflow in half precision",
        )
        slots: dict[Job, int] = {}
        parts = [part for batch in load.batches for part in batch]
        where = [slots.setdefault(piece.job, len(slots)) for piece, _, _ in parts]
        numbers = [number for _, _, number in parts]
        for (piece, _, _), number in zip(parts, numbers, strict=True):
            piece.job.seen += number
        flat = answers.cpu().numpy()
        if len(slots) > 1:
            flat = flat + np.repeat(np.array(where) * self.classes, numbers)
        table = np.bincount(flat, minlength=len(slots) * self.classes)
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
        """Rows of the next load: at the end, when no new inputs come, what is left is shared out."""
        if not self.ended or self.workers == 1:
            return self.size * self.together
        share = math.ceil(sum(job.want - job.drawn for job in self.ready) / self.workers)
        if share > self.size:
            share = math.ceil(share / self.size) * self.size
        return min(self.size * self.together, max(_WORTH, share))

    def _batch(self, room: int) -> Parts:
        parts, self.begun = self.begun, []
        room -= sum(number for _, _, number in parts)
        while room > 0 and (left := self.rest or self._piece()) is not None:
            piece, start = left
            taken = min(room, piece.size - start)
            parts.append((piece, start, taken))
            room -= taken
            self.rest = (piece, start + taken) if start + taken < piece.size else None
        return parts

    def _piece(self) -> tuple[_Piece, int] | None:
        if not self.ready:
            job = next(self.jobs, None)
            if job is None:
                self.ended = True
                return None
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


def _answer(
    model: nn.Module, rows: Tensor, classes: int
) -> tuple[Int[Tensor, " rows"], Float[Tensor, " rows"]]:
    """The class of the largest logit, and that logit."""
    try:
        logits = first_tensor(model(rows), "the model")
    except torch.OutOfMemoryError:
        if len(rows) == 1:
            raise
        halves = [_answer(model, half, classes) for half in rows.chunk(2)]
        return torch.cat([answers for answers, _ in halves]), torch.cat([largest for _, largest in halves])
    if logits.ndim != 2 or logits.shape[0] != len(rows) or logits.shape[1] != classes:
        raise JostleError(
            f"the model must give one row of {classes} logits an image, but {tuple(logits.shape)} came for "
            f"{len(rows)} images"
        )
    largest, answers = logits.max(1)  # the lowest index where several are largest
    return answers, largest
