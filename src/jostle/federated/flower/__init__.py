"""The same algorithms on Flower: a strategy for its ServerApp and a ClientApp, for simulation and deployment.

Written for Flower's Message API (`flwr.serverapp`, `flwr.clientapp`). The server's half is
[`Server`][jostle.federated.Server], the client's half takes the same local steps with the same random numbers as
the engines of this machine: a federation gives the same model wherever it runs.
"""

from jostle.federated.flower.app import make_server_app
from jostle.federated.flower.client import make_client_app, memory_path
from jostle.federated.flower.strategy import FederatedStrategy, make_strategy

__all__ = ["FederatedStrategy", "make_client_app", "make_server_app", "make_strategy", "memory_path"]
