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
    strategy_fn: Callable[[Context], FederatedStrategy], *, rounds: int | None = None
) -> ServerApp:
    """A Flower ServerApp that runs a strategy and keeps the network that it ends with.

    It reads from Flower's run configuration (`flwr run --run-config "rounds=60 out='net.safetensors'"`): `rounds`, in
    all, those of the strategy's checkpoint included; `timeout`: seconds to wait for the replies of a round (600);
    `out`: where the weights go (.safetensors), with the history in the header.

    **Arguments:** `strategy_fn`: makes the strategy, from Flower's context. `rounds`: instead of the configuration's.

    >>> type(make_server_app(lambda context: None, rounds=1)).__name__
    'ServerApp'
    """
    app = cast(Any, optional("flwr.serverapp", "federated")).ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        from safetensors.torch import save

        settings = dict(context.run_config)
        total = int(settings.get("rounds", 1)) if rounds is None else rounds
        require(total >= 1, f"rounds must be at least 1, but {total} came")
        strategy = strategy_fn(context)
        left = total - strategy.server.t
        if left > 0:
            timeout = float(settings.get("timeout", 600))
            strategy.start(grid, strategy.initial_arrays, num_rounds=left, timeout=timeout)
        out = str(settings.get("out", ""))
        if out:
            state = {
                k: v.detach().cpu().contiguous().clone() for k, v in strategy.model().state_dict().items()
            }
            with whole(Path(out)) as draft:
                draft.write_bytes(save(state, metadata={"history": json.dumps(plain(strategy.history))}))

    return app
