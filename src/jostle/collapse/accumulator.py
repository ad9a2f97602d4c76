"""Class statistics of features that stream by, and the collapse metrics that they give."""

import math
import warnings
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from jostle.collapse.geometry import null_complement
from jostle.collapse.report import NCReport
from jostle.core.errors import JostleError, require

RANK_TOLERANCE = 1e-6
WELL = 1e-4
"""From this ratio of the smallest to the largest singular value a triangular inverse is as good as an SVD."""
Weighting = Literal["class", "sample"]


class Accumulator:
    """Collapse metrics of features that come in batches, with memory `O(K d)`, or `O(K d + d^2)` in one pass.

    First pass: class means and variances, by Welford's update for batches (Chan, Golub & LeVeque 1983), never
    by `E[hh^T] - mean mean^T`. Second pass (or, with `one_pass`, a `d x d` scatter): `Tr(S_W S_B^+)` from the
    projections of `h - mean` on the span of the class means alone: with the thin factorisation `S_B = Q T T^T
    Q^T` of rank `K - 1`, `Tr(S_W S_B^+) = mean ||T^+ Q^T (h - mean)||^2`. No `d x d` pseudo-inverse, no
    rounding noise of its null space.

    **Arguments:** `K`: classes, at least 2. `d`: feature size. `one_pass`: keep a `d x d` scatter, so that no
    second pass is needed; `nc4` and `ncc` then stay unknown. `weighting`: whether `S_B` and the global mean
    weigh classes (as usual) or samples; the same when classes are balanced. `rank_tol`: directions of the
    class means whose singular value is below this share of the largest are left out of `nc1`, from 0 to below
    1; its square is the `rcond` of a pseudo-inverse of `S_B`. `cdnv_exponent`: of the distance in `cdnv`.
    `device`, `dtype`: of the statistics.

    >>> acc = Accumulator(3, 3, one_pass=True)
    >>> for h in (torch.eye(3), torch.eye(3) + 0.1):
    ...     acc.update(h, torch.arange(3))
    >>> round(acc.compute().nc1_trace, 4)
    0.0113
    """

    def __init__(
        self,
        K: int,
        d: int,
        *,
        one_pass: bool = False,
        weighting: Weighting = "class",
        rank_tol: float = 0.0,
        cdnv_exponent: float = 2.0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float64,
    ) -> None:
        require(K >= 2, f"K must be at least 2 classes, but {K} came")
        require(d >= 1, f"d must be at least 1, but {d} came")
        require(
            weighting in ("class", "sample"), f"weighting must be class or sample, but {weighting!r} came"
        )
        require(0 <= rank_tol < 1, f"rank_tol must lie in 0 to below 1, but {rank_tol} came")
        require(
            0 < cdnv_exponent < math.inf,
            f"cdnv_exponent must be above 0 and finite, but {cdnv_exponent} came",
        )
        self.K, self.d, self.dtype = K, d, dtype
        self.rank_tol, self.cdnv_exponent = rank_tol, cdnv_exponent
        self.weighting: Weighting = weighting
        zeros = {"device": device, "dtype": dtype}
        self.counts = torch.zeros(K, device=device, dtype=torch.long)
        self.means = torch.zeros(K, d, **zeros)
        self.traces = torch.zeros(K, **zeros)
        self.scatter = torch.zeros(d, d, **zeros) if one_pass else None
        self._basis: Basis | None = None
        self._seen = self._agree = self._nearest = self._predicted = 0
        self._whitened = torch.zeros((), **zeros)
        self._inside = torch.zeros((), **zeros)

    def update(self, h: Float[Tensor, "batch d"], y: Int[Tensor, " batch"]) -> None:
        """Take a batch into the first pass.

        **Raises:** `JostleError` for a wrong shape, a label out of range, or features that are not finite.
        """
        require(self._basis is None, "update must not be called after second_pass has begun")
        h, y = self._checked(h, y)
        present, index, counts = y.unique(return_inverse=True, return_counts=True)
        sizes = counts.to(self.dtype)
        means = torch.zeros(len(present), self.d, device=h.device, dtype=self.dtype).index_add_(0, index, h)
        means /= sizes[:, None]
        deviations = h - means[index]
        squares = deviations.square().sum(1)
        if not bool(torch.isfinite(squares).all()):
            bad = ~torch.isfinite(h).all(1)
            require(
                not bool(bad.any()),
                f"features must be finite, but {int(bad.sum())} samples hold NaN or infinity (classes "
                f"{sorted(set(y[bad].tolist()))[:10]})",
            )
        before = self.counts[present].to(self.dtype)
        delta = means - self.means[present]
        weight = before * sizes / (before + sizes)
        self.means[present] += delta * (sizes / (before + sizes))[:, None]
        self.traces[present] += weight * delta.square().sum(1)
        self.traces.index_add_(0, y, squares)
        self.counts[present] += counts
        if self.scatter is not None:
            self.scatter.addmm_(deviations.T, deviations)
            self.scatter.addmm_((delta * weight[:, None]).T, delta)

    def second_pass(
        self,
        h: Float[Tensor, "batch d"],
        y: Int[Tensor, " batch"],
        predicted: Int[Tensor, " batch"] | None = None,
    ) -> None:
        """Take the same batch again (in any order), after all batches went through `update`.

        **Arguments:** `predicted`: the class that the classifier gives each sample; without it `nc4` is
        unknown.
        """
        if self._basis is None:
            self._basis = self._factorise()
        h, y = self._checked(h, y)
        basis = self._basis
        inside = (h - basis.centre) @ basis.span
        deviations = inside - basis.coordinates[y]
        self._inside += deviations.square().sum()
        self._whitened += (deviations @ basis.whiten).square().sum()
        # Distances to the means differ between classes only inside the span of the means.
        nearest = (inside @ basis.coordinates.T - basis.coordinates.square().sum(1) / 2).argmax(1)
        self._nearest += int((nearest == y).sum())
        self._seen += len(h)
        if predicted is not None:
            self._agree += int((nearest == predicted).sum())
            self._predicted += len(h)

    def compute(self, weight: Float[Tensor, "K d"] | None = None, *, pooling: str = "none") -> NCReport:
        """The metrics of all that came.

        **Arguments:** `weight`: of the classifier head, for `nc3`. `pooling`: noted in the report.
        **Raises:** `JostleError` if nothing came, a class has no sample, or the second pass is not complete.
        """
        basis = self._basis or self._factorise()
        total = int(self.counts.sum())
        if self.scatter is not None:
            projected = basis.span.T @ self.scatter @ basis.span
            inside = float(projected.trace())
            whitened = float((basis.whiten.T @ projected @ basis.whiten).trace())
        else:
            require(
                self._seen == total,
                f"second_pass must see the same samples as update, but it saw {self._seen} of {total}; "
                "give one_pass=True if there can be no second pass",
            )
            inside, whitened = float(self._inside), float(self._whitened)
        notes = list(basis.notes)
        within, between = float(self.traces.sum()) / total, basis.between
        collapsed = between == 0
        if collapsed:
            notes.append("all class means are equal: S_B is zero, and NC1 is infinite")
        if int(self.counts.max()) == 1:
            notes.append("every class has one sample: NC1 is zero by definition")
        if self.K == 2:
            notes.append(
                "two centred means are always antipodal: nc2 is zero for K = 2 whatever the features"
            )
        gram = basis.centred @ basis.centred.T
        head = None if weight is None else self._head(weight)
        report = NCReport(
            nc1=float("inf") if collapsed else whitened / total / self.K,
            nc1_trace=float("inf") if collapsed else within / between,
            nc2=structure(gram, simplex=True),
            nc2_of=structure(self.means @ self.means.T, simplex=False),
            nc3=None if head is None else structure(head @ basis.centred.T, simplex=True),
            nc3_of=None if head is None else structure(head @ self.means.T, simplex=False),
            nc4=self._agree / total if self._predicted == total else None,
            ncc=self._nearest / total if self._seen == total else None,
            cdnv=self._cdnv(basis),
            within=within,
            within_in=inside / total,
            between=between,
            effective_rank=effective_rank(basis.singular_values),
            counts=self.counts.cpu(),
            mean_norms=self.means.norm(dim=1).cpu(),
            gram=gram.cpu(),
            singular_values=basis.singular_values.cpu(),
            samples=total,
            dim=self.d,
            passes=1 if self.scatter is not None and self._seen == 0 else 2,
            weighting=self.weighting,
            pooling=pooling,
            rank_tol=self.rank_tol,
            cdnv_exponent=self.cdnv_exponent,
            notes=tuple(notes),
        )
        for note in notes:
            warnings.warn(note, stacklevel=2)
        return report

    def _checked(self, h: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        require(
            h.ndim == 2 and h.shape[1] == self.d and y.shape == h.shape[:1],
            f"features and labels must be (batch, {self.d}) and (batch,), but {tuple(h.shape)} and "
            f"{tuple(y.shape)} came",
        )
        y = y.to(self.counts.device).long()
        if len(y):
            low, high = int(y.min()), int(y.max())
            require(
                low >= 0 and high < self.K,
                f"labels must lie in 0 to {self.K - 1}, but {low if low < 0 else high} came",
            )
        return h.detach().to(self.means), y

    def _head(self, weight: Tensor) -> Tensor:
        require(
            tuple(weight.shape) == (self.K, self.d),
            f"weight must be ({self.K}, {self.d}), a row a class, but {tuple(weight.shape)} came",
        )
        return weight.detach().to(self.means)

    def _factorise(self) -> "Basis":
        require(int(self.counts.sum()) > 0, "there must be at least one sample, but none came")
        empty = (self.counts == 0).nonzero().flatten().tolist()
        if empty:
            more = f" and {len(empty) - 5} more" if len(empty) > 5 else ""
            raise JostleError(
                f"every class must have a sample, but class {', '.join(map(str, empty[:5]))}{more} has none"
            )
        return Basis(self.means, self.counts, self.weighting, self.rank_tol)

    def _cdnv(self, basis: "Basis") -> float:
        variances = self.traces / self.counts
        # In the span of the means, where all of the distance is: K numbers a mean, not d.
        at = basis.coordinates
        distances = torch.cdist(at, at, compute_mode="donot_use_mm_for_euclid_dist").pow(self.cdnv_exponent)
        off = ~torch.eye(self.K, dtype=torch.bool, device=distances.device)
        return float(((variances[:, None] + variances) / (2 * distances))[off].mean())


class Basis:
    """The span of the class means, and what whitens it: `S_B = (Q T)(Q T)^T`, of rank `K - 1` at most."""

    def __init__(self, means: Tensor, counts: Tensor, weighting: Weighting, rank_tol: float = 0.0) -> None:
        K, d = means.shape
        share = (
            torch.full_like(means[:, 0], 1 / K)
            if weighting == "class"
            else counts / counts.sum().to(means.dtype)
        )
        self.centre = share @ means
        self.centred = means - self.centre
        root = share.sqrt()
        # S_B = A A^T with A of d x (K-1): the null vector of the centred means is taken out exactly.
        factor = self.centred.T @ (root[:, None] * null_complement(root / root.norm()))
        self.span, upper = torch.linalg.qr(torch.cat([factor, self.centre[:, None]], 1))
        upper = upper[:, : K - 1]
        sizes = torch.linalg.svdvals(upper)
        self.between = float(sizes.square().sum())
        rank = min(d, K - 1)
        noise = torch.finfo(means.dtype).eps * max(d, K) * float(means.abs().max())
        keep = sizes[:rank] > max(noise, rank_tol * float(sizes[0]))
        self.notes: list[str] = []
        if self.between <= (noise**2) * K:
            self.between = 0.0
        elif rank_tol < RANK_TOLERANCE and float(sizes[rank - 1]) < RANK_TOLERANCE * float(sizes[0]):
            self.notes.append(
                f"the class means are nearly dependent (smallest singular value "
                f"{float(sizes[rank - 1]):.1e} of {float(sizes[0]):.1e}): nc1 hangs on directions "
                "that hold next to nothing; rank_tol leaves them out"
            )
        if len(upper) >= K - 1 and bool(sizes[-1] > max(WELL, rank_tol) * sizes[0]):
            # Well conditioned: the triangle's inverse, without singular vectors, which cost most of all.
            eye = torch.eye(K - 1, dtype=means.dtype, device=means.device)
            inverse = torch.linalg.solve_triangular(upper[: K - 1], eye, upper=True)
            self.whiten = torch.nn.functional.pad(inverse.T, (0, 0, 0, len(upper) - (K - 1)))
        else:
            left = torch.linalg.svd(upper, full_matrices=False)[0]
            self.whiten = left[:, :rank][:, keep] / sizes[:rank][keep]
        self.coordinates = self.centred @ self.span
        # Of the centred means themselves: with class weights the factor's are smaller by sqrt(K).
        self.singular_values = (
            sizes[:rank] * K**0.5 if weighting == "class" else torch.linalg.svdvals(self.centred)[:rank]
        )


def structure(product: Tensor, simplex: bool) -> float:
    """`|| A/||A|| - ideal ||`, with the ideal `(I - 11^T/K)/sqrt(K-1)` or `I/sqrt(K)`."""
    K = len(product)
    ideal = torch.eye(K, dtype=product.dtype, device=product.device)
    if simplex:
        ideal = ideal - 1 / K
    size = product.norm()
    return float((product / size - ideal / ideal.norm()).norm()) if size > 0 else float("inf")


def effective_rank(sizes: Tensor) -> float:
    """The exponential of the entropy of singular values (Roy & Vetterli 2007); 0 if there is nothing."""
    shares = sizes / sizes.sum()
    shares = shares[shares > 0]
    return float((-(shares * shares.log()).sum()).exp()) if len(shares) else 0.0
