"""A network as one flat vector: its loss and gradient for one client, or for many at once."""

from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from jostle.core.errors import JostleError, require
from jostle.federated.buffers import RunningStatistics
from jostle.federated.dropout import Noise, Playing, has_dropout

Loss = Callable[[Any, Tensor], Tensor]
"""From the model's output and the targets of a batch to the mean loss."""

# A graph is recorded when its shapes have come this often: recording costs as much as some fifty calls.
RECORD_AFTER = 32


class FlatModel:
    """The trainable parameters of a network as a vector of `D` numbers, and gradients with respect to it.

    The user's model is copied and never touched. Parameters that are frozen stay as they are and outside of `D`;
    tied ones count once. `batched` calls the network once for all clients (`torch.func.vmap`); for shapes that
    come again and again it records the plain tensor operations and replays them, with the same numbers.

    **Arguments:** `model`: maps a batch to an output. `loss`: mean loss of an output and targets.
    **Raises:** `JostleError` if nothing is trainable, or precisions or devices are mixed.

    >>> flat = FlatModel(nn.Linear(2, 1), nn.functional.mse_loss)
    >>> flat.start.shape
    torch.Size([3])
    """

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        require(
            isinstance(model, nn.Module), f"model must be a torch.nn.Module, but {type(model).__name__} came"
        )
        require(callable(loss), f"loss must be callable, but {type(loss).__name__} came")
        self.module, self.loss = deepcopy(model).train(), loss
        named = [(n, p) for n, p in self.module.named_parameters() if p.requires_grad]
        require(len(named) > 0, "model must have a trainable parameter, but all are frozen or none is there")
        self.names = [name for name, _ in named]
        self.parameters = [parameter for _, parameter in named]
        self.shapes = [parameter.shape for parameter in self.parameters]
        self.sizes = [parameter.numel() for parameter in self.parameters]
        kinds = Counter(str(p.dtype) for p in self.parameters)
        places = Counter(str(p.device) for p in self.parameters)
        require(len(kinds) == 1, f"model must have one precision, but {', '.join(kinds)} came")
        require(len(places) == 1, f"model must lie on one device, but {', '.join(places)} came")
        self.device, self.kind = self.parameters[0].device, self.parameters[0].dtype
        require(self.kind.is_floating_point, f"model must be of real floating point, but {self.kind} came")
        # Models and corrections are summed over many rounds: in float32 even where the network is shorter.
        self.dtype = torch.float32 if self.kind in (torch.float16, torch.bfloat16) else self.kind
        self.start = torch.cat([p.detach().reshape(-1) for p in self.parameters]).to(self.dtype)
        # The copy's parameters become views of one vector, so that a whole model is loaded by one copy.
        self._vector = self.start.to(self.kind, copy=True)
        for parameter, part in zip(self.parameters, self._vector.split(self.sizes), strict=True):
            parameter.data = part.view(parameter.shape)
        self.statistics = RunningStatistics(self.module)
        # Layers tell; dropout as a function is found out by listening to the first batch.
        self.dropout: bool | None = has_dropout(self.module) or None
        self._seen: Counter[Any] = Counter()
        self._recorded: dict[Any, Callable[..., Any]] = {}
        self._many = vmap(grad_and_value(self._loss))

    @property
    def D(self) -> int:
        """How many parameters are trained."""
        return len(self.start)

    def _loss(self, parts: tuple[Tensor, ...], x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        with Playing(noise):
            output = functional_call(self.module, dict(zip(self.names, parts, strict=True)), (x,))
        value = self.loss(output, y)
        require(
            isinstance(value, Tensor) and value.ndim == 0,
            f"loss must give one number a batch, but {getattr(value, 'shape', type(value).__name__)} came",
        )
        return value

    def one(
        self, v: Float[Tensor, "1 D"], x: Tensor, y: Tensor, noise: Noise = ()
    ) -> tuple[Float[Tensor, "1 D"], Float[Tensor, "1"]]:
        """Gradient and loss of one client, as the network runs it."""
        with torch.no_grad():
            self._vector.copy_(v[0])
        with torch.enable_grad(), Playing(tuple(mask[0] for mask in noise)):
            value = self.loss(self.module(x[0]), y[0])
            require(
                isinstance(value, Tensor) and value.ndim == 0,
                f"loss must give one number a batch, but {getattr(value, 'shape', type(value).__name__)} came",
            )
            # A parameter that the loss does not use has the gradient 0.
            grads = torch.autograd.grad(value, self.parameters, materialize_grads=True)
        return torch.cat([g.reshape(-1) for g in grads])[None].to(self.dtype), value.detach()[None].to(
            self.dtype
        )

    def still(
        self, v: Float[Tensor, "1 D"], x: Tensor, y: Tensor, noise: Noise = ()
    ) -> tuple[Float[Tensor, "1 D"], Float[Tensor, "1"]]:
        """As `one`, at a point where the model will not be: running statistics stay as they are."""
        kept = self.statistics.read()
        try:
            return self.one(v, x, y, noise)
        finally:
            self.statistics.write(kept)

    def batched(
        self, v: Float[Tensor, "s D"], x: Tensor, y: Tensor, noise: Noise = ()
    ) -> tuple[Float[Tensor, "s D"], Float[Tensor, " s"]]:
        """Gradients and losses of `s` clients in one pass.

        **Arguments:** `v`: a model a client. `x`, `y`: a batch a client, `(s, b, ...)`. `noise`: dropout masks.
        **Raises:** `JostleError` if the network cannot be batched; the sentence says why.
        """
        key = (x.shape, x.dtype, y.shape, y.dtype, len(noise))
        with torch.no_grad():
            if key in self._recorded:
                return self._recorded[key](v, x, y, noise)
            self._seen[key] += 1
            if self._seen[key] == RECORD_AFTER:
                self.record(v, x, y, noise)
            return self._plain(v, x, y, noise)

    def _plain(self, v: Tensor, x: Tensor, y: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        parts = v.to(self.kind).split(self.sizes, 1)
        shaped = tuple(p.reshape(-1, *shape) for p, shape in zip(parts, self.shapes, strict=True))
        try:
            grads, values = self._many(shaped, x, y, noise)
        except JostleError:
            raise
        except RuntimeError as error:
            raise JostleError(
                f"the batched engine cannot run this model ({str(error).splitlines()[0]}); use "
                "engine='sequential'"
            ) from error
        return torch.cat([g.reshape(len(v), -1) for g in grads], 1).to(self.dtype), values.to(self.dtype)

    def record(self, v: Float[Tensor, "s D"], x: Tensor, y: Tensor, noise: Noise = ()) -> None:
        """Record the operations of `batched` for inputs of these shapes, to be replayed from now on."""
        from torch.fx.experimental.proxy_tensor import make_fx

        key = (x.shape, x.dtype, y.shape, y.dtype, len(noise))
        try:
            with torch.no_grad():
                # A plain function: a bound method would be traced with its `self`.
                self._recorded[key] = make_fx(lambda *given: self._plain(*given))(v, x, y, noise)
        except Exception:  # recording is an economy: whatever it cannot do, the plain call does
            self._recorded[key] = self._plain

    def output(self, v: Float[Tensor, " D"], x: Tensor) -> Any:
        """What the network says in evaluation mode."""
        with torch.no_grad():
            self._vector.copy_(v)
            self.module.eval()
            try:
                return self.module(x)
            finally:
                self.module.train()

    def built(self, v: Float[Tensor, " D"], statistics: Float[Tensor, " B"] | None = None) -> nn.Module:
        """A copy of the user's network with these parameters and running statistics, in evaluation mode."""
        with torch.no_grad():
            self._vector.copy_(v)
        self.statistics.write(self.statistics.start if statistics is None else statistics)
        made = deepcopy(self.module).eval()
        for parameter in made.parameters():
            parameter.data = parameter.data.clone()
        return made


def replace_batchnorm(model: nn.Module, groups: int = 2) -> nn.Module:
    """A copy of a network with group normalisation in place of every batch normalisation.

    Running statistics have no place in federated averages; the paper's ResNet uses 2 groups (Sun et al. 2023).

    **Arguments:** `model`: left as it is. `groups`: of each layer, at least 1; must divide its channels.
    **Raises:** `JostleError` if it does not.

    >>> replace_batchnorm(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)))[1].num_groups
    2
    """
    require(groups >= 1, f"groups must be at least 1, but {groups} came")
    made = deepcopy(model)
    for name, layer in list(made.named_modules()):
        if not isinstance(layer, nn.modules.batchnorm._BatchNorm):
            continue
        channels = layer.num_features
        require(
            channels % groups == 0,
            f"groups must divide the {channels} channels of {name!r}, but {groups} came",
        )
        new = nn.GroupNorm(groups, channels, eps=layer.eps, affine=layer.affine)
        if layer.affine:
            with torch.no_grad():
                new.weight.copy_(layer.weight)
                new.bias.copy_(layer.bias)
            new = new.to(layer.weight)
        if not name:
            return new.train(layer.training)
        parent, _, last = name.rpartition(".")
        setattr(made.get_submodule(parent), last, new.train(layer.training))
    return made
