"""Identities learnt in one domain, others found again in another, and the published variant in between."""

import pytest
import torch

from jostle import JostleError
from jostle.style import Domain, Protocol, retrieval_trial
from jostle.style.cases import DigitNet, digits_case
from jostle.style.identify import asked, identities, ranked, untrained


def test_queries_and_gallery_share_no_image():
    labels = torch.arange(60) % 3
    domain = Domain(torch.arange(60.0)[:, None, None, None].expand(60, 1, 2, 2), labels)
    query, gallery = asked(identities(domain, (0, 2)), 4)
    assert query.labels.bincount().tolist() == [4, 0, 4] and gallery.labels.bincount().tolist() == [16, 0, 16]
    numbers = torch.cat([query.images, gallery.images])[:, 0, 0, 0].tolist()
    assert sorted(numbers) == [i for i in range(60) if i % 3 != 1]
    with pytest.raises(JostleError, match="identity 0"):
        asked(domain, 20)


@pytest.mark.study
def test_training_helps_to_find_identities_again():
    protocol = Protocol(epochs=2, batch=64, lr=0.05, mirror=False)
    case = digits_case(protocol)
    domains = case.load()
    query, gallery = asked(domains["digits"], 10)
    how = {"layer": "flat"}
    before = ranked(untrained(DigitNet, 0), query, gallery, **how)
    after = retrieval_trial(
        DigitNet, domains["mnist5k"], query, gallery, "direction", 0, protocol, case.at, **how
    )
    assert after.mean_ap > before.mean_ap > 10 and after.queries == 100
    again = untrained(DigitNet, 0)
    assert torch.equal(again[0][0].weight, untrained(DigitNet, 0)[0][0].weight) and not again.training
