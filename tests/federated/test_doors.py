"""Wrong settings and data: one sentence each, at the door."""

import pytest
import torch
from federated.problems import clients, federation, net
from torch import nn
from torch.utils.data import TensorDataset

from jostle import JostleError
from jostle.federated import (
    FedAdam,
    FedAvg,
    FedCM,
    FedDyn,
    Federation,
    FedProx,
    FedSAM,
    FedSMOO,
    FedSpeed,
    Local,
    replace_batchnorm,
)

CE = nn.functional.cross_entropy


def misnamed() -> None:
    """Past the type checks of the tests, to see the sentence that users get."""
    made = FedSAM()
    object.__setattr__(made, "ascent", "up")
    made.__post_init__()


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: FedSpeed(prox_mu=0.0), "prox_mu must be above 0, but 0.0 came: the correction is undefined"),
        (lambda: FedSpeed(prox_mu=0.1, prox_lambda=10.0), "reciprocals"),
        (lambda: FedSpeed(prox_lambda=-1.0), "prox_lambda must be above 0"),
        (lambda: FedSpeed(alpha=1.5), r"alpha must lie in \[0, 1\]"),
        (lambda: FedSpeed(rho=-0.1), "rho must be a finite number of at least 0"),
        (lambda: misnamed(), "ascent must be"),
        (lambda: FedDyn(alpha=0.5), "alpha of FedDyn is 0"),
        (lambda: FedSMOO(alpha=0.5), "alpha of FedSMOO is 1"),
        (lambda: FedProx(prox_mu=-1.0), "prox_mu must be at least 0"),
        (lambda: FedSAM(rho=float("inf")), "rho must be"),
        (lambda: FedAvg(server_lr=0.0), "server_lr must be above 0"),
        (lambda: FedAdam(beta1=1.0), r"beta1 must lie in \[0, 1\)"),
        (lambda: FedCM(mix=0.0), r"mix must lie in \(0, 1\]"),
        (lambda: Local(lr=0.0), "lr must be above 0"),
        (lambda: Local(epochs=0), "epochs must be at least 1"),
        (lambda: Local(max_norm=0.0), "max_norm must be above 0"),
        (lambda: federation(fraction=0.0), r"fraction must lie in \(0, 1\]"),
        (lambda: federation(seed=-1), "seed must be at least 0"),
        (lambda: federation(client_chunk=0), "client_chunk must be at least 1"),
        (lambda: Federation(net(), CE, []), "at least one data set"),
        (lambda: Federation(net(), CE, {-1: clients()[0]}), "whole numbers of at least 0"),
        (lambda: Federation(net(), CE, lambda i: clients()[i]), "count must be given"),
        (lambda: Federation(net().requires_grad_(False), CE, clients()), "all are frozen"),
    ],
)
def test_settings(make, sentence) -> None:
    with pytest.raises(JostleError, match=sentence):
        make()


def test_equal_settings_are_equal() -> None:
    assert FedSpeed(prox_lambda=4.0) == FedSpeed(prox_mu=0.25) and FedSpeed().pull == 0.1


def test_a_step_that_cannot_be_stable() -> None:
    with pytest.raises(JostleError, match="lr \\* prox_mu must be below 2"):
        federation().run(FedSpeed(prox_mu=20.0), rounds=1, lr=0.1)
    with pytest.warns(UserWarning, match="above 1: local steps overshoot"):
        federation().run(FedSpeed(prox_mu=12.0), rounds=1, lr=0.1)


def test_labels_without_an_output() -> None:
    held = clients()
    held[2] = (held[2][0], held[2][1] + 2)
    with pytest.raises(JostleError, match="labels of client 2 must lie in 0 to 2, but 4 came"):
        Federation(net(), CE, held, fraction=1.0).run(FedAvg(), rounds=1)


def test_mixed_precisions() -> None:
    mixed = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3, dtype=torch.float64))
    with pytest.raises(JostleError, match="model must have one precision"):
        Federation(mixed, CE, clients())
    with pytest.raises(JostleError, match="inputs of torch.float64, but the model is of torch.float32"):
        Federation(net(torch.float32), CE, clients(), fraction=1.0).run(FedAvg(), rounds=1)


def test_running_statistics_are_refused_by_name_and_replaced() -> None:
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)).double()
    with pytest.raises(JostleError, match="running statistics in '1'.*replace_batchnorm"):
        federation(model=model)
    grouped = replace_batchnorm(model)
    assert isinstance(grouped[1], nn.GroupNorm) and isinstance(model[1], nn.BatchNorm1d)
    found = federation(model=grouped).run(FedSpeed(), rounds=2)
    assert found.history[-1]["accepted"] == 3
    with pytest.raises(JostleError, match="groups must divide the 4 channels of '1', but 3 came"):
        replace_batchnorm(model, groups=3)


@pytest.mark.study
def test_all_kinds_of_data_sets_are_one() -> None:
    held = clients((6, 6))

    class Map(torch.utils.data.Dataset):
        def __init__(self, x, y) -> None:
            self.x, self.y = x, y

        def __len__(self) -> int:
            return len(self.x)

        def __getitem__(self, i):
            return self.x[i], self.y[i]

    found = [
        Federation(net(), CE, given, fraction=1.0, engine="batched", **more)
        .run(FedSpeed(), rounds=2)
        .course.server.x
        for given, more in (
            (held, {}),
            ([TensorDataset(*pair) for pair in held], {}),
            ([Map(*pair) for pair in held], {}),
            (lambda i: held[i], {"count": 2}),
            ({0: held[0], 1: held[1]}, {}),
        )
    ]
    assert all(torch.equal(found[0], other) for other in found[1:])


def test_what_is_no_data_set() -> None:
    with pytest.raises(JostleError, match="client 0 must hold a pair of tensors"):
        Federation(net(), CE, [3], fraction=1.0).run(FedAvg(), rounds=1)
    x, y = clients()[0]
    with pytest.raises(JostleError, match="a target for each input, but 12 and 3 came"):
        Federation(net(), CE, [(x, y[:3])], fraction=1.0).run(FedAvg(), rounds=1)


def test_a_loss_must_be_one_number() -> None:
    def each(output, y):
        return CE(output, y, reduction="none")

    for engine in ("batched", "sequential"):
        with pytest.raises(JostleError, match="loss must give one number a batch"):
            Federation(net(), each, clients(), engine=engine).run(FedAvg(), rounds=1)


def test_resuming_another_federation_is_refused(tmp_path) -> None:
    path = tmp_path / "c.safetensors"
    federation().run(FedSpeed(), rounds=2, checkpoint=path)
    federation().run(FedSpeed(), rounds=3, resume=path)
    for given, sentence in (
        (lambda: federation((12,) * 7), "6 clients and this federation 7"),
        (lambda: federation(seed=9), "made with seed = 3, but 9 came"),
    ):
        with pytest.raises(JostleError, match=sentence):
            given().run(FedSpeed(), rounds=3, resume=path)
    with pytest.raises(JostleError, match="the checkpoint is of FedSpeed"):
        federation().run(FedAvg(), rounds=3, resume=path)
    with pytest.raises(JostleError, match="made with local"):
        federation().run(FedSpeed(), rounds=3, resume=path, lr=0.3)
    with pytest.raises(JostleError, match="rounds must be at least the checkpoint's 2, but 1 came"):
        federation().run(FedSpeed(), rounds=1, resume=path)
    assert len(federation().run(FedSpeed(), rounds=2, resume=path).history) == 2  # nothing left to do
    path.write_bytes(b"junk")
    with pytest.raises(JostleError, match="cannot be read"):
        federation().run(FedSpeed(), rounds=3, resume=path)
    with pytest.raises(JostleError, match="does not exist"):
        federation().run(FedSpeed(), rounds=3, resume=tmp_path / "none.safetensors")


def test_weights_by_samples_and_the_saved_network(tmp_path) -> None:
    fed = federation((4, 12, 8), client_weights="samples", test=clients((20,))[0])
    found = fed.run(FedSpeed(), rounds=3)
    assert fed.weights == pytest.approx({0: 1 / 6, 1: 0.5, 2: 1 / 3})
    path = found.save(tmp_path / "w.safetensors")
    from safetensors.torch import load_file

    again = net()
    again.load_state_dict(load_file(path))
    x = clients((20,))[0][0]
    assert torch.equal(again(x), found.model(x))
    assert {"last_ten", "best", "total_bytes", "total_gradients"} <= set(found.numbers())
