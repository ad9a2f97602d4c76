"""Re-identification as an experiment: learn some identities in one domain, find others again in another."""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor, nn

from jostle.core.errors import require
from jostle.style.domains import Domain, floating
from jostle.style.insertion import At
from jostle.style.protocol import TEST_BATCH, Build, Protocol, stream, trained, training_parts
from jostle.style.retrieval import Retrieval, features, rank


def identities(domain: Domain, chosen: Sequence[int]) -> Domain:
    """The images of some identities (labels); their labels stay.

    >>> identities(Domain(torch.rand(4, 1, 2, 2), torch.tensor([5, 6, 7, 5])), (5, 7)).labels.tolist()
    [5, 7, 5]
    """
    wanted = torch.tensor(list(chosen), device=domain.labels.device)
    return domain.subset(torch.isin(domain.labels, wanted).nonzero().flatten())


def asked(domain: Domain, count: int) -> tuple[Domain, Domain]:
    """Queries and gallery: `count` images of each identity, spread evenly, and all others.

    **Raises:** `JostleError` if an identity has no more than `count` images.
    """
    chosen = torch.zeros(len(domain), dtype=torch.bool)
    for kind in domain.labels.unique():
        members = (domain.labels == kind).nonzero().flatten().cpu()
        require(
            len(members) > count >= 1,
            f"count must lie in 1 to {len(members) - 1} for identity {int(kind)}, but {count} came",
        )
        chosen[members[torch.linspace(0, len(members) - 1, count).long()]] = True
    return domain.subset(chosen.nonzero().flatten()), domain.subset((~chosen).nonzero().flatten())


def retrieval_trial(
    build: Build,
    source: Domain,
    query: Domain,
    gallery: Domain,
    method: str,
    seed: int,
    protocol: Protocol,
    at: At = "auto",
    *,
    layer: str | None = None,
    query_cameras: Int[Tensor, " q"] | None = None,
    gallery_cameras: Int[Tensor, " g"] | None = None,
) -> Retrieval:
    """Train a network to tell the identities of a source apart, then rank a gallery of others by its features.

    The published re-identification variant of AdvStyle is the method `direction`.

    **Arguments:** `source`: its labels are identities, from 0. `query`, `gallery`: other identities, as a rule of
    another domain. `method`, `seed`, `protocol`, `at`: as for [`trial`][jostle.style.protocol.trial]. `layer`: where
    the features come from, usually what the last linear layer gets; the output by default. `..._cameras`: as for
    [`rank`][jostle.style.retrieval.rank].
    """
    ours, held = training_parts(source, protocol)
    model, _, _ = trained(build, source.subset(ours), source.subset(held), method, seed, protocol, at)
    return ranked(
        model, query, gallery, layer=layer, query_cameras=query_cameras, gallery_cameras=gallery_cameras
    )


def untrained(build: Build, seed: int) -> nn.Module:
    """The model that a trial with this seed begins with, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream(seed, "initialisation").initial_seed())
        return build().eval()


def ranked(
    model: nn.Module,
    query: Domain,
    gallery: Domain,
    *,
    layer: str | None = None,
    query_cameras: Int[Tensor, " q"] | None = None,
    gallery_cameras: Int[Tensor, " g"] | None = None,
) -> Retrieval:
    """Rank a gallery in memory by a model's features; arguments as for
    [`retrieval_trial`][jostle.style.identify.retrieval_trial].
    """

    def described(domain: Domain) -> Tensor:
        return torch.cat(list(features(model, map(floating, domain.images.split(TEST_BATCH)), layer)))

    return rank(
        described(query),
        described(gallery),
        query.labels.cpu(),
        gallery.labels.cpu(),
        query_cameras,
        gallery_cameras,
    )
