"""What server and clients agree on: the algorithm, the local steps, the network, and who holds which data."""

import torch
from torch import nn

from jostle import zoo
from jostle.federated import FedSpeed, Local, partition

CLIENTS = 2
ALGORITHM = FedSpeed(prox_mu=0.1, rho=0.1)
LOCAL = Local(lr=0.1, lr_decay=0.998, epochs=2, batch_size=20, weight_decay=1e-3)
SEED = 20


def model():
    """A network for 8x8 digits; its start is the same wherever it is made."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10)).double()


def data(client):
    """A client's own digits. In a real federation this reads what lies on the client's machine."""
    images, labels = zoo.load_data("digits").subset(range(400)).tensors()
    held = partition(labels, CLIENTS, concentration=0.3)[client]
    return images[held].double(), labels[held]
