"""A ServerApp that runs a strategy to its end and keeps the network."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from jostle.core.errors import optional, require
from jostle.federated.flower.strategy import FederatedStrategy
from jostle.files import plain, whole

if TYPE_CHECKING:
    from flwr.app import Context
    from flwr.serverapp import Grid, ServerApp
else:
    Context = Grid = ServerApp = Any


def make_server_app(
    strategy_fn: Callable[[Context], FederatedStrategy],
    *,
    rounds: int,
    timeout: float = 600.0,
    out: str | Path | None = None,
) -> ServerApp:
    """A Flower ServerApp that runs a strategy and keeps the network that it ends with.

    **Arguments:** `strategy_fn`: makes the strategy, from Flower's context. `rounds`: in all, those of its checkpoint
    included. `timeout`: seconds to wait for the replies of a round. `out`: where the weights go (.safetensors), with
    the history in the header.

    >>> type(make_server_app(lambda context: None, rounds=1)).__name__
    'ServerApp'
    """
    require(rounds >= 1, f"rounds must be at least 1, but {rounds} came")
    app = cast(Any, optional("flwr.serverapp", "federated")).ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        from safetensors.torch import save

        strategy = strategy_fn(context)
        left = rounds - strategy.server.t
        if left > 0:
            strategy.start(grid, strategy.initial_arrays, num_rounds=left, timeout=timeout)
        if out is not None:
            state = {k: v.detach().cpu().contiguous().clone() for k, v in strategy.model().state_dict().items()}
            with whole(Path(out)) as draft:
                draft.write_bytes(save(state, metadata={"history": json.dumps(plain(strategy.history))}))

    return app
