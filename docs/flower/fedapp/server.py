"""The ServerApp: every client in every round; the settings come from `flwr run --run-config`."""

from fedapp.task import ALGORITHM, CLIENTS, LOCAL, SEED, model
from jostle.federated.flower import make_server_app, make_strategy


def strategy(context):
    """The algorithm's strategy, waiting up to a minute for a node that is away."""
    return make_strategy(ALGORITHM, model(), CLIENTS, local=LOCAL, fraction=1.0, seed=SEED, patience=120.0)


app = make_server_app(strategy)
