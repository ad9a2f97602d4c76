"""A smoothed classifier: the answer that a network gives most often under Gaussian noise, with its certificate."""

import hashlib
import math
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from jostle.core.errors import JostleError, require
from jostle.core.taps import Taps, first_tensor, frozen
from jostle.smoothing.bounds import agreement_test, check_level, check_sigma
from jostle.smoothing.certificates import Certificate, Certificates, Ledger
from jostle.smoothing.comparators import METHODS
from jostle.smoothing.drawing import Job, draw
from jostle.smoothing.inputs import Inputs
from jostle.smoothing.noise import Kind, entries_of, filler
from jostle.smoothing.procedures import Procedure, Track
from jostle.zoo import Images

Progress = Callable[[int, int, str], None]
# Fields of a procedure that the settings name one by one.
_NAMED = ("sigma", "alpha", "n_max", "radii")
# If nobody says otherwise, the largest of a network's layers has about so many numbers in a batch: on a CPU they
# stay in the cache of a core. On a GPU the input has so many.
_CPU_ENTRIES, _GPU_ENTRIES = 2**18, 2**25


class SmoothedClassifier:
    """`g(x) = argmax_c P[f(x + e) = c]`, `e ~ N(0, sigma^2 I)`, for a network `f` on images in [0, 1].

    Certificates speak of `g`, never of `f`. The network is put in evaluation mode while it is used and comes back
    as it was. It normalises its input itself, after the noise: wrap it in
    [`zoo.normalised`][jostle.zoo.normalised] if it does not. Images are not clipped.

    **Arguments:** `model`: from (batch, channels, height, width), or any other shape, to logits; a tuple or dict
    whose first tensor is that will do. `sigma`: of the noise, above 0, in units of images in [0, 1]. `classes`:
    number of outputs; asked of the model when left out. `noise`: `"gaussian"`, or `"discrete"`, the rounded Gaussian
    on 8-bit images. `noise_on`: `"cpu"`, the same numbers for every device, or `"model"`, on the model's device:
    faster on a GPU, with other numbers. `batch`: rows a forward pass; chosen by the images' size when left out, and
    of no influence on the numbers.

    >>> import torch
    >>> from torch import nn
    >>> net = nn.Linear(2, 2, bias=False)
    >>> net.weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> smoothed = SmoothedClassifier(net, sigma=0.5)
    >>> found = smoothed.certify(torch.tensor([[1.0, 0.0]]), radii=(0.0, 0.5, 0.65, 0.75))
    >>> found.prediction.tolist(), found.radius.tolist()  # the exact radius is 1/sqrt(2) = 0.707
    ([0], [0.65])
    """

    def __init__(
        self,
        model: nn.Module,
        sigma: float,
        *,
        classes: int | None = None,
        noise: Kind = "gaussian",
        noise_on: Literal["cpu", "model"] = "cpu",
        batch: int | None = None,
    ) -> None:
        check_sigma(sigma)
        require(classes is None or classes >= 2, f"classes must be at least 2, but {classes} came")
        require(batch is None or batch >= 1, f"batch must be at least 1, but {batch} came")
        require(noise_on in ("cpu", "model"), f"noise_on must be 'cpu' or 'model', but {noise_on!r} came")
        self.model, self.sigma, self.classes, self.batch = model, float(sigma), classes, batch
        self.noise: Kind = noise
        self.noise_on = noise_on
        self._fill = filler(noise, self.sigma)
        home = next((p for p in (*model.parameters(), *model.buffers()) if p.is_floating_point()), None)
        self.device = torch.device("cpu") if home is None else home.device
        self.dtype = torch.float32 if home is None else home.dtype

    def certify(
        self,
        images: Tensor | Images | Iterable[Any],
        *,
        labels: Sequence[int] | Int[Tensor, " images"] | None = None,
        method: str | Procedure = "sequential",
        radii: Sequence[float] | None = None,
        alpha: float = 1e-3,
        n0: int = 100,
        n_max: int = 100_000,
        seed: int = 0,
        names: Sequence[int] | None = None,
        target: bool = False,
        keep: str | Path | None = None,
        callback: Progress | None = None,
    ) -> Certificates:
        """A certificate an image: a class and a radius within which `g` does not change, wrong with at most `alpha`.

        `n0` draws choose the class and are thrown away; fresh ones, up to `n_max`, estimate. Draws of all images
        share the batches. An image's draws depend on `seed` and its number alone, not on batches, order or company.

        **Arguments:** `images`: `(images, ...)` in [0, 1], a data set of the zoo, or anything that gives
        `(image, label)` pairs or images. `labels`: true classes, for the record. `method`: `"sequential"` (default),
        `"fixed"` (Cohen), `"anytime"`, `"betting"`, `"union"`, `"stages"`, `"input-specific"`, or a
        [`Procedure`][jostle.smoothing.Procedure]. `radii`: the grid that is asked for. `alpha`: in (0, 1). `n0`: at
        least 1. `n_max`: see [`largest_radius`][jostle.smoothing.largest_radius]. `names`: a number an image, which
        with `seed` fixes its draws; 0, 1, ... when left out. `target`: test the true class instead of the most
        frequent one; only for evaluation, and marked in the record. `keep`: a parquet file that grows as images are
        done, and from which a call that was cut off goes on. `callback`: `(done, images, sentence)`.
        **Returns:** [`Certificates`][jostle.smoothing.Certificates], in the order of the images.
        **Raises:** `JostleError` for what cannot work: settings out of range, NaN, a model whose answers are not
        finite or depend on their neighbours, a `keep` file of other settings.
        """
        require(n0 >= 1, f"n0 must be at least 1, but {n0} came")
        plan = self._plan(method, radii, alpha, n_max)
        inputs = Inputs(images, labels, names)
        require(not target or inputs.labelled, "target needs labels, but none came")
        first = inputs.image(0)
        self._try_out(first)
        settings = {
            **self._settings(first),
            "method": plan.name,
            "plan": {f.name: getattr(plan, f.name) for f in fields(plan) if f.name not in _NAMED},
            "grid": list(plan.grid),
            "alpha": plan.alpha,
            "n0": n0,
            "n_max": plan.n_max,
            "seed": seed,
            "target": target,
        }
        ledger = Ledger(settings, inputs.fingerprint(), Path(keep) if keep is not None else None)
        progress = _Progress(callback, len(inputs), ledger)
        found = self._draw(
            (self._job(i, inputs, plan, n0, target, progress) for i in ledger.missing(inputs.names)),
            first,
            seed,
        )
        with frozen(self.model), closing(found):
            for job in found:
                assert isinstance(job, _Certifying)
                ledger.add(job.certificate())
                progress.tell()
        return ledger.close(inputs.names, inputs.paths)

    def predict(
        self,
        images: Tensor | Images | Iterable[Any],
        *,
        n: int = 1000,
        alpha: float = 1e-3,
        seed: int = 0,
    ) -> Int[Tensor, " images"]:
        """The class of `g`, or -1 where `n` draws cannot tell it from the second (Cohen's PREDICT).

        A two-sided binomial test of the most frequent class against the second at 1/2; a class that is returned is
        that of `g` except with probability `alpha`.

        **Arguments:** `images`, `seed`: as for `certify`. `n`: draws an image. `alpha`: in (0, 1).
        **Returns:** class indices, -1 for an abstention.
        """
        check_level("alpha", alpha)
        out = []
        for row in self.counts(images, n=n, seed=seed):
            top, second = np.sort(row.numpy())[::-1][:2]
            sure = agreement_test(int(top), int(second)) <= alpha
            out.append(int(row.argmax()) if sure else -1)
        return torch.tensor(out)

    def counts(
        self, images: Tensor | Images | Iterable[Any], *, n: int = 1000, seed: int = 0
    ) -> Int[Tensor, "images classes"]:
        """How often each class is the answer in `n` draws an image.

        **Arguments:** `images`, `seed`: as for `certify`. `n`: at least 1.
        """
        require(n >= 1, f"n must be at least 1, but {n} came")
        inputs = Inputs(images, None, None)
        first = inputs.image(0)
        self._try_out(first)
        jobs = (Job(i, self._ready(inputs.image(i), i), n, lambda job: True) for i in range(len(inputs)))
        with frozen(self.model), closing(self._draw(jobs, first, seed)) as found:
            done = {job.name: job.counts for job in found}
        return torch.from_numpy(np.stack([done[i] for i in range(len(inputs))]))

    def _plan(
        self, method: str | Procedure, radii: Sequence[float] | None, alpha: float, n_max: int
    ) -> Procedure:
        if isinstance(method, Procedure):
            require(
                method.sigma == self.sigma,
                f"the procedure is for sigma {method.sigma:g}, but the classifier has {self.sigma:g}",
            )
            return method
        require(method in METHODS, f"method must be one of {', '.join(METHODS)}, but {method!r} came")
        return METHODS[method](self.sigma, alpha, n_max, None if radii is None else tuple(radii))

    def _job(
        self, at: int, inputs: Inputs, plan: Procedure, n0: int, target: bool, progress: "_Progress"
    ) -> Job:
        image, label = inputs.image(at), inputs.label(at)
        return _Certifying(
            inputs.names[at],
            self._ready(image, at),
            n0,
            _Certifying.next,
            plan=plan,
            n0=n0,
            label=label,
            forced=target,
            progress=progress,
        )

    def _ready(self, image: Tensor, at: int) -> Tensor:
        require(bool(torch.isfinite(image).all()), f"image {at} holds NaN or infinity")
        low, high = float(image.min()), float(image.max())
        require(
            high <= 16,
            f"images must lie in [0, 1], but image {at} reaches {high:g}; divide images in 0-255 units by 255",
        )
        if low < -1e-6 or high > 1 + 1e-6:
            warnings.warn(
                f"image {at} lies in [{low:.3g}, {high:.3g}], not in [0, 1]: sigma and radii are in the units of what "
                "comes in, so a model that is fed normalised images needs its normalisation inside (zoo.normalised)",
                stacklevel=4,
            )
        return image.to(self.device, self.dtype)

    def _draw(self, jobs: Iterable[Job], first: Tensor, seed: int) -> Generator[Job, None, None]:
        assert self.classes is not None
        noise_on = self.device if self.noise_on == "model" else torch.device("cpu")
        return draw(
            self.model,
            jobs,
            self._fill,
            batch=self._rows(first),
            classes=self.classes,
            seed=seed,
            device=self.device,
            dtype=self.dtype,
            noise_on=noise_on,
        )

    def _rows(self, first: Tensor) -> int:
        if self.batch is not None:
            return self.batch
        if self.device.type == "cpu":
            # Not so few that a batch's own cost shows, if they fit in memory.
            widest = self._widest(first)
            few = max(16, min(128, 2**23 // widest))
            return max(few, min(8192, _CPU_ENTRIES // widest))
        return max(16, min(8192, _GPU_ENTRIES // entries_of(first)))

    def _widest(self, image: Tensor) -> int:
        """Numbers of one image in the largest layer, or in the image where the layers cannot be watched."""
        try:
            with (
                frozen(self.model),
                torch.inference_mode(),
                Taps(self.model, lambda name, layer: True, reduce=_numbers_a_row) as layers,
            ):
                self.model(image[None].to(self.device, self.dtype))
        except (
            Exception
        ):  # compiled modules take no hooks; what is wrong with the model has been said at the door
            return entries_of(image)
        return max(entries_of(image), *layers.values)

    def _try_out(self, image: Tensor) -> None:
        """One forward pass at the door: the number of classes, and whether an answer depends on its neighbours."""
        with frozen(self.model), torch.inference_mode():
            rows = torch.stack([image, 1 - image, image * 0.5]).to(self.device, self.dtype)
            try:
                together = first_tensor(self.model(rows), "the model")
                alone = first_tensor(self.model(rows[:1]), "the model")
            except JostleError:
                raise
            except Exception as error:
                reason = str(error).strip().splitlines() or [type(error).__name__]
                raise JostleError(
                    f"the model does not take images of shape {tuple(image.shape)}: {reason[0]}"
                ) from error
        require(
            together.ndim == 2 and len(together) == 3,
            f"the model must give a row of logits an image, but {tuple(together.shape)} came for three images",
        )
        require(
            together.shape[1] >= 2,
            f"the model must tell at least 2 classes apart, but it has {together.shape[1]}",
        )
        if self.classes is None:
            self.classes = together.shape[1]
        require(
            together.shape[1] == self.classes,
            f"classes is {self.classes}, but the model gives {together.shape[1]} logits",
        )
        require(
            bool(torch.isfinite(together.amax(1)).all()),
            "the model answers NaN or infinity to the first image",
        )
        scale = float(together.abs().max()) + 1e-12
        if float((together[0] - alone[0]).abs().max()) > 0.02 * scale:  # bfloat16 rounds by 0.004
            warnings.warn(
                "the model answers the same image differently in other company: its draws are not independent, and "
                "certificates do not hold (batch statistics, or randomness inside)",
                stacklevel=4,
            )

    def _settings(self, first: Tensor) -> dict[str, Any]:
        """What a certificate depends upon, and the numerics with which the deployed `g` must run too."""
        digest = hashlib.blake2b(digest_size=8)
        for value in (*self.model.parameters(), *self.model.buffers()):
            digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return {
            "sigma": self.sigma,
            "noise": self.noise,
            "noise_on": self.noise_on if self.device.type != "cpu" else "cpu",
            "classes": self.classes,
            "shape": list(first.shape),
            "dtype": str(self.dtype).removeprefix("torch."),
            "weights": digest.hexdigest(),
        }


class _Certifying(Job):
    """An input on its way: selection first, then a procedure's looks."""

    def __init__(
        self, *job: Any, plan: Procedure, n0: int, label: int, forced: bool, progress: "_Progress"
    ) -> None:
        super().__init__(*job)
        self.progress, self.told = progress, 0
        self.plan, self.n0, self.label, self.forced = plan, n0, label, forced
        self.track: Track | None = None
        self.selected = self.counts
        self.top = -1

    def next(self) -> bool:
        self.progress.drawn(self.seen - self.told)
        self.told = self.seen
        if self.track is None:
            self.selected = self.counts
            self.top = self.label if self.forced else int(self.counts.argmax())
            self.track = self.plan.begin(self.top, self.selected)
        elif self.track.look(self.counts - self.selected, self.seen - self.n0):
            return True
        self.want = self.n0 + self.track.next_look
        return False

    def certificate(self) -> Certificate:
        track = self.track
        assert track is not None
        fresh = self.counts - self.selected
        return Certificate(
            name=self.name,
            label=self.label,
            prediction=self.top if track.certain else -1,
            radius=track.radius if track.certain else 0.0,
            p_lower=track.p_lower,
            candidate=self.top,
            hits=int(fresh[self.top]),
            draws=int(fresh.sum()),
            used=self.seen,
        )


def _numbers_a_row(activation: Tensor) -> int:
    return activation[:1].numel() if activation.ndim else 1


class _Progress:
    """Tells how far it is: at every image that is done, and twice a second in between."""

    every = 0.5

    def __init__(self, callback: Progress | None, total: int, ledger: Ledger) -> None:
        self.callback, self.total, self.ledger = callback, total, ledger
        self.spent = ledger.draws
        self._told = time.monotonic()

    def drawn(self, number: int) -> None:
        """So many draws more have been looked at."""
        self.spent += number
        if time.monotonic() - self._told > self.every:
            self.tell()

    def tell(self) -> None:
        """Call back, with the draws that are left if the images to come are like those that are done."""
        self._told = time.monotonic()
        if self.callback is not None:
            done, sentence = len(self.ledger), f"{self.spent:,} draws"
            if 0 < done < self.total:
                left = max(0, math.ceil(self.ledger.draws / done * self.total) - self.spent)
                sentence += f", about {left:,} left"
            self.callback(done, self.total, sentence)
