"""The search for the best one and two exponentials of many curves at once.

Variable projection: with the decays given, the amplitudes are a small bounded linear problem with an exact
solution. So only one or two numbers a curve are searched: first on a grid of all (pairs of) decays, and along
the directions in which a second part would first help the best single one; then by damped Newton steps from the
best of these, for all curves in one pass.
"""

from functools import cache

import numpy as np

Array = np.ndarray
_FROM_GRID, _BESIDE = 4, 2  # starts of a search: from the grid, and (of a pair) beside the single fit
_BLOCK = 64  # curves whose grid of pairs stays in the cache


def best_fits(y: Array, top: float) -> tuple[Array, Array, Array]:
    """The best bounded fits of one and of two exponentials to curves `y` at lags 0, 1, ...

    **Arguments:** `y`: (curves, lags). `top`: the largest decay `z = exp(-1/tau)`; the smallest is 0.
    **Returns:** decays and amplitudes, (curves, 3): of the single fit, and of the pair; residual sums of squares,
    (curves, 2).
    """
    z1, a1, rss1 = _fit_single(y, top)
    z2, a2, rss2 = _fit_double(y, top, z1, a1)
    # The single fit is a point of the double model: the larger model is never the worse one.
    worse = rss2 > rss1
    z2[worse] = z1[worse, None]
    a2[worse] = np.stack([a1[worse], np.zeros(worse.sum())], 1)
    rss2 = np.minimum(rss1, rss2)
    return (
        np.concatenate([z1[:, None], z2], 1),
        np.concatenate([a1[:, None], a2], 1),
        np.stack([rss1, rss2], 1),
    )


@cache
def _grid(points: int, top: float) -> Array:
    return np.concatenate([[0.0], np.exp(-1 / np.geomspace(0.15, -1 / np.log(top), points - 1))])


def _powers(z: Array, n: int) -> Array:
    """`z**k` for k = 0 ... n-1 along a new last axis."""
    out = np.empty((*z.shape, n))
    out[..., 0] = 1
    np.cumprod(np.broadcast_to(z[..., None], (*z.shape, n - 1)), axis=-1, out=out[..., 1:])
    return out


def _fit_single(y: Array, top: float) -> tuple[Array, Array, Array]:
    grid = _grid(160, top)
    phi = _powers(grid, y.shape[1])
    b, g = y @ phi.T, (phi**2).sum(1)
    a = np.clip(b / g, 0, 1)
    rss = (y**2).sum(1)[:, None] - 2 * a * b + a**2 * g
    z, amplitudes, rss = _best(y, grid[_minima(rss, _FROM_GRID)][..., None], top)
    return z[:, 0], amplitudes[:, 0], rss


def _fit_double(y: Array, top: float, single: Array, amplitude: Array) -> tuple[Array, Array, Array]:
    blocks = range(0, max(len(y), 1), _BLOCK)
    pairs = np.concatenate([_from_pairs(y[i : i + _BLOCK], top) for i in blocks])
    return _best(y, np.concatenate([pairs, _beside(y, top, single, amplitude)], 1), top)


def _best(y: Array, starts: Array, top: float) -> tuple[Array, Array, Array]:
    """The best of what each curve's starts lead to."""
    curves, count, parts = starts.shape
    found = _refine(np.repeat(y, count, 0), starts.reshape(-1, parts), top)
    best = found[2].reshape(curves, count).argmin(1) + count * np.arange(curves)
    return found[0][best], found[1][best], found[2][best]


def _minima(values: Array, count: int) -> Array:
    """Indices of the lowest local minima along the grid, `count` a curve (and then any, if there are fewer)."""
    padded = np.pad(values, ((0, 0), (1, 1)), constant_values=np.inf)
    local = (values <= padded[:, :-2]) & (values <= padded[:, 2:])
    return np.argsort(np.where(local, values, np.inf), axis=1, kind="stable")[:, :count]


@cache
def _pairs(points: int, n: int, top: float) -> tuple[Array, ...]:
    grid = _grid(points, top)
    phi = _powers(grid, n)
    gram = phi @ phi.T
    i, j = np.triu_indices(points, 1)
    return grid, phi, i, j, gram[i, i], gram[j, j], gram[i, j]


def _from_pairs(y: Array, top: float) -> Array:
    """The lowest local minima over all pairs of the grid."""
    points = 48
    grid, phi, i, j, gii, gjj, gij = _pairs(points, y.shape[1], top)
    b = y @ phi.T
    p, q, drop = _bounded(b[:, i], b[:, j], gii, gjj, gij)
    surface = np.full((len(y), points, points), np.inf)
    surface[:, i, j] = surface[:, j, i] = drop
    # Where one part is empty the other decay says nothing: such plateaus would fill the list with single fits.
    local = (p > 0) & (q > 0)
    padded = np.pad(surface, ((0, 0), (1, 1), (1, 1)), constant_values=np.inf)
    for di, dj in ((0, 1), (0, -1), (1, 0), (-1, 0)):
        local &= drop <= padded[:, 1 + i + di, 1 + j + dj]
    order = np.argsort(np.where(local, drop, np.inf), axis=1, kind="stable")[:, :_FROM_GRID]
    return np.stack([grid[i[order]], grid[j[order]]], -1)


def _beside(y: Array, top: float, single: Array, amplitude: Array) -> Array:
    """The best single fit with a second decay that helps it most, to second order, when let in.

    The valley of a light second part is too narrow in the first decay for any grid; from the single fit it is
    entered along its floor. What the single fit's own decay and amplitude would take up is no help.
    """
    n = y.shape[1]
    grid = _grid(48, top)
    phi = _powers(grid, n)
    one = _powers(single, n)
    residual = y - amplitude[:, None] * one
    full = (amplitude >= 1)[:, None]  # then a second part can only come in the place of the first
    gain = residual @ phi.T - full * (residual * one).sum(1, keepdims=True)
    size = (phi**2).sum(1) + full * ((one**2).sum(1, keepdims=True) - 2 * one @ phi.T)
    free = ((amplitude > 0) & (amplitude < 1))[:, None] * one
    slope = np.arange(n) * np.pad(one[:, :-1], ((0, 0), (1, 0)))
    left = size.copy()
    for own in (free, slope - _along(slope, free)):
        length = (own**2).sum(1, keepdims=True)
        overlap = own @ phi.T - full * (own * one).sum(1, keepdims=True)
        left -= overlap**2 / np.where(length > 0, length, np.inf)
    worth = np.maximum(gain, 0) ** 2 / np.where(left > 1e-9 * size, left, np.inf)
    second = grid[_minima(-worth, _BESIDE)]
    return np.stack([np.broadcast_to(single[:, None], second.shape), second], -1)


def _along(vectors: Array, direction: Array) -> Array:
    size = (direction**2).sum(-1, keepdims=True)
    return (vectors * direction).sum(-1, keepdims=True) / np.where(size > 0, size, np.inf) * direction


def _bounded(b1: Array, b2: Array, g11: Array, g22: Array, g12: Array) -> tuple[Array, Array, Array]:
    """Amplitudes `p, q >= 0, p + q <= 1` that minimise `-2 (p b1 + q b2) + p^2 g11 + 2 p q g12 + q^2 g22`,
    and it."""

    def value(p: Array, q: Array) -> Array:
        return p * (p * g11 - 2 * b1) + q * (q * g22 - 2 * b2) + 2 * p * q * g12

    with np.errstate(divide="ignore", invalid="ignore"):
        det = g11 * g22 - g12**2
        p, q = (g22 * b1 - g12 * b2) / det, (g11 * b2 - g12 * b1) / det
        inside = (p >= 0) & (q >= 0) & (p + q <= 1) & (det > 1e-14 * g11 * g22)
        edge = np.clip(np.nan_to_num((b1 - b2 + g22 - g12) / (g11 + g22 - 2 * g12), nan=0.5), 0, 1)
    p1, q2 = np.clip(b1 / g11, 0, 1), np.clip(b2 / g22, 0, 1)
    zero = np.zeros_like(b1)
    # If the free optimum is not inside, the optimum lies on one of the three edges.
    options = [(p1, zero), (zero, q2), (edge, 1 - edge), (np.where(inside, p, 0), np.where(inside, q, 0))]
    best_p, best_q, best = p1, zero, value(p1, zero)
    for index, (one, other) in enumerate(options[1:]):
        this = value(one, other)
        better = this < best if index < 2 else inside & (this <= best)
        best_p, best_q = np.where(better, one, best_p), np.where(better, other, best_q)
        best = np.where(better, this, best)
    return best_p, best_q, best


def _project(y: Array, z: Array) -> list[Array]:
    """Decays `z`, their best amplitudes, RSS, residual, powers and Gram matrix."""
    phi = _powers(z, y.shape[1])
    b = np.einsum("cqn,cn->cq", phi, y)
    g = np.einsum("cqn,crn->cqr", phi, phi)
    if z.shape[1] == 1:
        amplitudes = np.clip(b / g[..., 0], 0, 1)
    else:
        p, q, _ = _bounded(b[:, 0], b[:, 1], g[:, 0, 0], g[:, 1, 1], g[:, 0, 1])
        amplitudes = np.stack([p, q], -1)
    residual = y - np.einsum("cqn,cq->cn", phi, amplitudes)
    return [z, amplitudes, np.einsum("cn,cn->c", residual, residual), residual, phi, g]


def _refine(y: Array, starts: Array, top: float, steps: int = 60) -> tuple[Array, Array, Array]:
    """Damped Newton steps on the projected problem, with `0 <= z <= top`, for all starts in one pass."""
    now = _project(y, starts)
    z, amplitudes, rss = (part.copy() for part in now[:3])
    damping, todo = np.full(len(y), 1e-3), np.arange(len(y))
    for _ in range(steps):
        here, before = now[0], now[2]
        gradient, hessian, size = _curvature(now[1], *now[3:])
        held = ((here <= 0) & (gradient < 0)) | ((here >= top) & (gradient > 0))
        trial = np.clip(here + _solve(hessian, damping[:, None] * size, gradient, held), 0, top)
        new = _project(y[todo], trial)
        gained = before - new[2]
        better = gained > 0
        moved = np.abs(trial - here).max(1)
        for old, came in zip(now, new, strict=True):
            old[better] = came[better]
        for kept, came in zip((z, amplitudes, rss), now[:3], strict=True):
            kept[todo] = came
        damping = np.where(better, np.maximum(damping / 10, 1e-12), damping * 8)
        small = better & (gained <= 1e-13 * before) & (damping < 1)
        go = ~(small | (moved < 1e-15) | (damping > 1e8) | (before < 1e-28))
        now, damping, todo = [part[go] for part in now], damping[go], todo[go]
        if not len(todo):
            break
    return z, amplitudes, rss


def _curvature(amplitudes: Array, residual: Array, phi: Array, gram: Array) -> tuple[Array, Array, Array]:
    """Downhill gradient and Hessian of half the projected RSS in the decays, and the scale of the damping.

    With the curvature `F` of half the RSS in decays and amplitudes, it is `F_zz - F_za F_aa^-1 F_az`, over the
    amplitudes that are free to follow. Where that is not convex, the residual's own share is left out
    (Gauss-Newton), which always is.
    """
    q, n = phi.shape[1:]
    k = np.arange(n)
    first, second = np.zeros_like(phi), np.zeros_like(phi)
    first[..., 1:] = k[1:] * phi[..., :-1]
    second[..., 2:] = (k[2:] * k[1:-1]) * phi[..., :-2]
    jacobian = amplitudes[..., None] * first
    push = np.einsum("cqn,cn->cq", first, residual)
    normal = np.einsum("cqn,crn->cqr", jacobian, jacobian)
    overlap = np.einsum("cqn,crn->cqr", jacobian, phi)
    eye = np.eye(q)
    full = normal - eye * (amplitudes * np.einsum("cqn,cn->cq", second, residual))[..., None]
    mixed = overlap - eye * push[..., None]
    for way in _free(amplitudes, gram):
        size = np.einsum("cq,cqr,cr->c", way, gram, way)[:, None, None]
        size = np.where(size > 1e-20, size, np.inf)
        for matrix, cross in ((normal, overlap), (full, mixed)):
            taken = np.einsum("cqr,cr->cq", cross, way)
            matrix -= taken[:, :, None] * taken[:, None] / size
    diagonal = np.einsum("cqq->cq", normal)
    scale = np.maximum(diagonal, 1e-14 * np.einsum("cqn,cqn->cq", jacobian, jacobian))
    convex = (np.einsum("cqq->cq", full) > 0).all(1)
    if q == 2:
        convex &= full[:, 0, 0] * full[:, 1, 1] > full[:, 0, 1] ** 2
    return amplitudes * push, np.where(convex[:, None, None], full, normal), scale


def _free(amplitudes: Array, gram: Array) -> list[Array]:
    """Directions, at right angles in `gram`, in which the amplitudes are free to follow; 0 for one that is not."""
    capped = amplitudes.sum(1, keepdims=True) > 1 - 1e-12  # p + (1 - p) may be a rounding below 1
    inner = (amplitudes > 0) & ~capped
    if amplitudes.shape[1] == 1:
        return [inner.astype(float)]
    on_edge = capped & (amplitudes > 0).all(1, keepdims=True)
    first = np.where(on_edge, [1.0, -1.0], inner * [1.0, 0.0])
    second = np.where(on_edge, 0.0, inner * [0.0, 1.0])
    along = np.einsum("cq,cqr,cr->c", first, gram, second), np.einsum("cq,cqr,cr->c", first, gram, first)
    second = second - (along[0] / np.where(along[1] > 0, along[1], np.inf))[:, None] * first
    return [first, second]


def _solve(hessian: Array, ridge: Array, gradient: Array, held: Array) -> Array:
    """The damped step; decays that are held at an end stay."""
    gradient = np.where(held, 0.0, gradient)
    ridge = ridge + 1e-300
    if gradient.shape[1] == 1:
        return gradient / (hessian[:, 0] + ridge)
    a, d = hessian[:, 0, 0] + ridge[:, 0], hessian[:, 1, 1] + ridge[:, 1]
    b = np.where(held.any(1), 0.0, hessian[:, 0, 1])
    det = a * d - b * b
    step = np.stack([d * gradient[:, 0] - b * gradient[:, 1], a * gradient[:, 1] - b * gradient[:, 0]], 1)
    return np.where(np.abs(det[:, None]) > 0, step / np.where(det == 0, 1, det)[:, None], 0.0)
