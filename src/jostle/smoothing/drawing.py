"""Draws of many inputs, packed into full batches: early stopping makes batches fewer, never smaller."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from jostle.core.errors import JostleError, require
from jostle.core.taps import first_tensor
from jostle.smoothing.noise import Filler, entries_of, piece_of, stream


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
    generator: torch.Generator | None = None


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
) -> Iterator[Job]:
    """Run jobs to their end and yield each as it is done.

    A batch is filled with draws of as many inputs as it takes, each up to its next look; the oldest input goes
    first, and new ones start when room is left. Noise is made in the batch, in place; answers are counted by one
    `bincount`. On a device with a queue the next batch is laid out while the last one runs. The draws of an input
    come from its own stream, read in pieces whose size depends on the input's shape and its looks alone, so counts
    do not depend on the batch, the order or the neighbours.

    **Arguments:** `model`: in evaluation mode. `jobs`: taken one by one, as there is room. `fill`: makes noisy copies.
    `batch`: rows a forward pass. `classes`: number of outputs. `seed`: of all streams. `device`, `dtype`: of
    the model's input. `noise_on`: device that draws.
    **Raises:** `JostleError` if the model answers NaN or infinity, or another number of classes.
    """
    packer = _Packer(iter(jobs), fill, batch, classes, seed, dtype, noise_on)
    deep = 1 if device.type == "cpu" else 2
    running: deque[_Batch] = deque()
    while True:
        # Not around the loop: the caller's own work between two images is not ours to put in inference mode.
        with torch.inference_mode():
            packed = packer.pack()
            if packed is not None:
                packed.answers, packed.largest = _answer(model, packed.buffer[: packed.length], classes)
                running.append(packed)
            if not running:
                return
            finished = packer.count(running.popleft()) if packed is None or len(running) >= deep else []
        yield from finished


@dataclass(eq=False)
class _Batch:
    buffer: Tensor
    length: int
    parts: list[tuple[Job, int]]
    answers: Tensor | None = None
    largest: Tensor | None = None  # finite if all answers are; read late, not to wait for the device


class _Packer:
    def __init__(
        self,
        jobs: Iterator[Job],
        fill: Filler,
        batch: int,
        classes: int,
        seed: int,
        dtype: torch.dtype,
        noise_on: torch.device,
    ) -> None:
        self.jobs, self.fill, self.size, self.classes, self.seed = jobs, fill, batch, classes, seed
        self.noise_on, self.dtype = noise_on, dtype
        self.ready: deque[Job] = deque()
        self.rest: tuple[Job, Tensor] | None = None  # the end of a piece that did not fit
        self.buffers: deque[Tensor] = deque()
        self.done = 0

    def pack(self) -> _Batch | None:
        """The next batch, or None if all that is wanted has been laid out."""
        parts: list[tuple[Job, int]] = []
        rows: Tensor | None = None
        room = self.size
        if self.rest is not None:
            job, left = self.rest
            rows = self._buffer(left[0])
            taken = min(room, len(left))
            rows[:taken] = left[:taken]
            room -= taken
            parts.append((job, taken))
            self.rest = (job, left[taken:]) if taken < len(left) else None
        while room and (job := self._next(rows)) is not None:
            if rows is None:
                rows = self._buffer(job.image)
            while room and job.drawn < job.want:
                piece = min(job.want - job.drawn, piece_of(entries_of(job.image), self.noise_on))
                if job.generator is None:
                    job.generator = stream(self.seed, job.name, self.noise_on)
                start = self.size - room
                taken = min(room, piece)
                if piece <= room:
                    self.fill(rows[start : start + piece], job.image, job.generator)
                else:
                    whole = rows.new_empty((piece, *rows.shape[1:]))
                    self.fill(whole, job.image, job.generator)
                    rows[start:] = whole[:taken]
                    self.rest = (job, whole[taken:])
                job.drawn += piece
                room -= taken
                parts.append((job, taken))
            if job.drawn < job.want:
                self.ready.appendleft(job)
        if rows is None:
            return None
        return _Batch(rows, self.size - room, parts)

    def count(self, batch: _Batch) -> list[Job]:
        """Add a batch's answers to its jobs; the jobs that are done."""
        assert batch.answers is not None and batch.largest is not None
        require(
            math.isfinite(float(batch.largest)),
            f"the model answers NaN or infinity (after {self.done} inputs were done): look at its weights, or at an "
            "overflow in half precision",
        )
        slots: dict[int, Job] = {}
        for job, _ in batch.parts:
            slots.setdefault(id(job), job)
        order = {key: i for i, key in enumerate(slots)}
        where = np.repeat(
            np.array([order[id(job)] for job, _ in batch.parts]), [taken for _, taken in batch.parts]
        )
        flat = batch.answers + torch.from_numpy(where * self.classes).to(batch.answers.device)
        table = torch.bincount(flat, minlength=len(order) * self.classes).cpu().numpy()
        self.buffers.append(batch.buffer)
        finished = []
        for job, row in zip(slots.values(), table.reshape(-1, self.classes), strict=True):
            job.counts = row if not len(job.counts) else job.counts + row
            job.seen += int(row.sum())
            if job.seen == job.want:
                if job.decide(job):
                    finished.append(job)
                    self.done += 1
                else:
                    require(job.want > job.seen, "decide must ask for more draws or end the job")
                    self.ready.append(job)
        return finished

    def _next(self, rows: Tensor | None) -> Job | None:
        if self.ready:
            return self.ready.popleft()
        job = next(self.jobs, None)
        if job is not None and rows is not None and job.image.shape != rows.shape[1:]:
            raise JostleError(
                f"images must share one shape, but {tuple(rows.shape[1:])} and {tuple(job.image.shape)} came; "
                "give size=... to load_data"
            )
        return job

    def _buffer(self, image: Tensor) -> Tensor:
        if self.buffers and self.buffers[0].shape == (self.size, *image.shape):
            return self.buffers.popleft()
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
