"""The ClientApp: the node's `--node-config` says which client it is and where it keeps what it remembers."""

from fedapp.task import ALGORITHM, data, model
from jostle.federated.flower import make_client_app

app = make_client_app(ALGORITHM, model, data)
