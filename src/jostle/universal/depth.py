"""What a perturbation does to a depth network: KITTI's metrics, on the truth and on the clean prediction."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from jostle.core.errors import require
from jostle.core.taps import first_tensor, frozen
from jostle.universal.perturbation import perturb
from jostle.universal.segmentation import check_delta, gfr

NEAREST, FARTHEST = 1e-3, 80.0
"""Metres between which KITTI's depths are judged."""

METRICS = ("abs_rel", "sq_rel", "rmse", "rmse_log", "a1", "a2", "a3")

Maps = Float[Tensor, "batch height width"]


def depth_errors(truth: Maps, prediction: Maps, *, garg: bool = False) -> Float[Tensor, "batch 7"]:
    """The seven depth metrics of Eigen et al. (2014), one row an image; average the rows over images.

    The prediction `p` is clipped to [1e-3, 80] m and compared with the truth `g` where `1e-3 < g < 80`.
    Columns: abs-rel `mean |g - p| / g`, sq-rel `mean (g - p)^2 / g`, RMSE, RMSE of natural logarithms, and
    `a_k`, the share with `max(g/p, p/g) < 1.25^k`, `k` = 1, 2, 3.

    **Arguments:** `truth`: metres; 0 where nothing was measured. `prediction`: metres. `garg`: judge Garg et
    al.'s central crop only, rows 0.40810811-0.99189189 and columns 0.03594771-0.96405229.
    **Raises:** `JostleError` for depths below 0 or NaN, shapes that differ, or an image without a valid
    pixel.

    >>> g, p = torch.tensor([[[1.0, 2.0, 4.0]]]), torch.tensor([[[1.0, 2.5, 2.0]]])
    >>> [round(v, 3) for v in depth_errors(g, p)[0].tolist()]
    [0.25, 0.375, 1.19, 0.42, 0.333, 0.667, 0.667]
    """
    _check_depth("truth", truth)
    _check_depth("prediction", prediction)
    require(
        truth.shape == prediction.shape,
        f"truth and prediction must have one shape, but {tuple(truth.shape)} and "
        f"{tuple(prediction.shape)} came",
    )
    valid = (truth > NEAREST) & (truth < FARTHEST)
    if garg:
        valid = valid & garg_crop(truth.shape[-2], truth.shape[-1]).to(valid.device)
    count = valid.flatten(1).sum(1)
    require(
        bool((count > 0).all()),
        f"truth must hold a depth between {NEAREST} and {FARTHEST:g} m in every image, but "
        f"{int((count == 0).sum())} of {len(count)} images hold none",
    )
    g = torch.where(valid, truth, 1.0).double()
    p = torch.where(valid, prediction.clamp(NEAREST, FARTHEST), 1.0).double()
    # Pixels that do not count hold 1 and 1: no error, and no share of the thresholds by the mask below.
    gap = g - p
    ratio = torch.maximum(g / p, p / g)
    terms = torch.stack(
        [gap.abs() / g, gap.square() / g, gap.square(), (g.log() - p.log()).square()]
        + [((ratio < 1.25**k) & valid).double() for k in (1, 2, 3)],
        dim=1,
    )
    means = terms.flatten(2).sum(2) / count.double()[:, None]
    return torch.cat([means[:, :2], means[:, 2:4].sqrt(), means[:, 4:]], dim=1)


def garg_crop(height: int, width: int) -> Bool[Tensor, "height width"]:
    """The pixels that Garg et al. (2016) judge.

    >>> int(garg_crop(375, 1242).sum()) == (371 - 153) * (1197 - 44)
    True
    """
    inside = torch.zeros(height, width, dtype=torch.bool)
    rows = slice(int(0.40810811 * height), int(0.99189189 * height))
    inside[rows, int(0.03594771 * width) : int(0.96405229 * width)] = True
    return inside


def disparity_to_depth(disparity: Tensor, focal: float | Tensor, baseline: float) -> Tensor:
    """`focal * baseline / disparity`: metres from a stereo network's answer.

    **Arguments:** `disparity`: pixels, at least 0 (0 is infinitely far); networks that answer in shares of
    the width need it times the width. `focal`: focal length in pixels, above 0, a number or one an image that
    broadcasts. `baseline`: metres between the cameras, above 0.
    **Raises:** `JostleError` for values out of range.

    >>> disparity_to_depth(torch.tensor([10.0, 0.0]), focal=720.0, baseline=0.54)
    tensor([38.8800,     inf])
    """
    require(bool((disparity >= 0).all()), "disparity must be at least 0 everywhere, but it is not")
    require(
        bool((torch.as_tensor(focal) > 0).all()) and baseline > 0,
        f"focal and baseline must be above 0, but {focal} and {baseline} came",
    )
    return focal * baseline / disparity


@dataclass(frozen=True)
class DepthReport:
    """Depth metrics an image, `(images, 7)` in the order of `METRICS`.

    `clean`: clean prediction against truth. `perturbed`: perturbed prediction against truth. `agreement`:
    perturbed against clean prediction.
    """

    clean: Float[Tensor, "images 7"]
    perturbed: Float[Tensor, "images 7"]
    agreement: Float[Tensor, "images 7"]

    def metrics(self) -> dict[str, float]:
        """Means over images, and the generalised fooling rate of `a1`; keys such as `clean.abs_rel`."""
        out = {
            f"{name}.{metric}": value
            for name in ("clean", "perturbed", "agreement")
            for metric, value in zip(METRICS, getattr(self, name).mean(0).tolist(), strict=True)
        }
        out["gfr.a1"] = gfr(out["agreement.a1"])
        return out


def evaluate_depth(
    model: nn.Module,
    delta: Float[Tensor, "1 channels height width"],
    batches: Iterable[tuple[Float[Tensor, "batch channels height width"], Maps]],
    *,
    decode: Callable[[Tensor], Tensor] | None = None,
    garg: bool = False,
    clamp: bool = True,
    callback: Callable[[int, int, str], None] | None = None,
) -> DepthReport:
    """Run a depth network on clean and perturbed images and judge both against truth and against each other.

    **Arguments:** `model`: images to maps `(batch, height, width)` or `(batch, 1, height, width)`. `delta`:
    the perturbation, in the images' unit. `batches`: pairs of images in `[0, 1]` and depths in metres, 0
    where nothing was measured. `decode`: from the model's answer to metres, such as `lambda d:
    disparity_to_depth(d * width, focal, baseline)`; `None` where the model answers in metres. `garg`: judge
    Garg's crop only. `clamp`: keep the perturbed images in `[0, 1]`. `callback`: `(done, total, figure)`
    after each batch.
    **Raises:** `JostleError` if the output is not a map of depths, sizes differ, or no batch came.

    >>> class Brightness(nn.Module):
    ...     def forward(self, x):
    ...         return 10 * x
    >>> images = torch.full((2, 1, 2, 2), 0.5)
    >>> report = evaluate_depth(Brightness(), torch.full((1, 1, 2, 2), 0.1), [(images, 10 * images[:, 0])])
    >>> round(report.metrics()["perturbed.abs_rel"], 3), report.metrics()["gfr.a1"]
    (0.2, 0.0)
    """
    total = len(batches) if hasattr(batches, "__len__") else 0  # type: ignore[arg-type]
    rows: list[list[Tensor]] = [[], [], []]
    with frozen(model), torch.inference_mode():
        for done, (images, truth) in enumerate(batches, start=1):
            check_delta(images, delta)
            clean = _depths(model, images, decode)
            perturbed = _depths(model, perturb(images, delta, clamp=clamp), decode)
            require(
                clean.shape == truth.shape,
                f"depths must have the prediction's shape {tuple(clean.shape)}, but "
                f"{tuple(truth.shape)} came",
            )
            # The metrics leave out depths of 80 m and more, so a clean prediction beyond stays just inside.
            reference = clean.clamp(NEAREST * (1 + 1e-4), FARTHEST * (1 - 1e-6))
            for out, pair in zip(
                rows,
                ((truth.to(clean), clean), (truth.to(clean), perturbed), (reference, perturbed)),
                strict=True,
            ):
                out.append(depth_errors(*pair, garg=garg).cpu())
            if callback is not None:
                callback(done, total, f"abs-rel {float(torch.cat(rows[1])[:, 0].mean()):.3f}")
    require(bool(rows[0]), "batches must hold at least one pair of images and depths, but none came")
    return DepthReport(*(torch.cat(out) for out in rows))


def _depths(model: nn.Module, images: Tensor, decode: Callable[[Tensor], Tensor] | None) -> Tensor:
    output = first_tensor(model(images), "output")
    maps = output if decode is None else decode(output)
    if maps.ndim == 4 and maps.shape[1] == 1:
        maps = maps[:, 0]
    require(
        maps.ndim == 3,
        "a depth network's output must have shape (batch, height, width) or (batch, 1, height, width), but "
        f"{tuple(maps.shape)} came",
    )
    return maps


def _check_depth(name: str, depth: Tensor) -> None:
    require(
        bool((depth >= 0).all()),
        f"{name} must be at least 0 m everywhere (0 is no measurement in the truth), but NaN or negative "
        "depths came",
    )
