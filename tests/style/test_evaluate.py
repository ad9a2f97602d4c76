"""Intervals, pairs, retrieval and the distance between domains, against other people's code."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from jostle import JostleError
from jostle.style import Trial, paired, proxy_a_distance, rank, summarise


def make(method, seed, correct, sources=("photo",)):
    return Trial(
        method, seed, sources, correct, {name: 10 * (i + 1) for i, name in enumerate(correct)}, 0.0, 0.0
    )


def test_macro_and_pooled_differ():
    trial = make("erm", 0, {"art": 5, "sketch": 20})
    assert trial.macro == 75 and trial.pooled == pytest.approx(100 * 25 / 30)


def test_pairs_are_seed_by_seed():
    rows = [make("erm", s, {"a": 2 + s}) for s in range(4)] + [make("dsu", s, {"a": 3 + s}) for s in range(4)]
    table = summarise(rows)
    assert table["dsu"].difference.mean == pytest.approx(10) and table["dsu"].difference.sd == pytest.approx(
        0
    )
    assert table["dsu"].wins == 4 and table["erm"].wins == 0
    assert paired(rows, "dsu", "erm").mean == pytest.approx(10)


def test_pooled_accuracies_are_paired_too():
    rows = [make("erm", s, {"a": 2, "b": 4}) for s in range(3)] + [
        make("dsu", s, {"a": 2, "b": 7 + s}) for s in range(3)
    ]  # of ten and of twenty images
    found = paired(rows, "dsu", "erm", "pooled")
    assert found.mean == pytest.approx(100 * 4 / 30) and paired(rows, "dsu", "erm").mean == pytest.approx(10)
    assert summarise(rows)["dsu"].pooled_difference == found


def test_leave_one_out_averages_over_the_choices_of_a_seed():
    rows = [make("erm", 0, {"a": 2}, ("b",)), make("erm", 0, {"b": 6}, ("a",))]
    table = summarise(rows)
    assert table["erm"].macro.mean == 40 and table["erm"].targets["b"].mean == 60


def test_what_cannot_be_paired_is_refused():
    with pytest.raises(JostleError, match="cannot be paired"):
        summarise([make("erm", 0, {"a": 1}), make("dsu", 1, {"a": 1})])
    with pytest.raises(JostleError, match="baseline"):
        summarise([make("dsu", 1, {"a": 1})])
    with pytest.raises(JostleError, match="no seed"):
        paired([make("erm", 0, {"a": 1}), make("dsu", 1, {"a": 1})], "erm", "dsu")


def test_average_precision_is_scikit_learns():
    generator = torch.Generator().manual_seed(0)
    query, gallery = torch.randn(15, 8, generator=generator), torch.randn(60, 8, generator=generator)
    ids, others = torch.arange(15) % 5, torch.arange(60) % 5
    views, cameras = torch.arange(15) % 3, torch.arange(60) // 5 % 3
    found = rank(query, gallery, ids, others, views, cameras)
    wanted = []
    for i in range(15):
        keep = ~((others == ids[i]) & (cameras == views[i]))
        score = torch.cosine_similarity(query[i : i + 1], gallery[keep])
        wanted.append(average_precision_score((others[keep] == ids[i]).numpy(), score.numpy()))
    assert found.mean_ap == pytest.approx(100 * np.mean(wanted)) and found.queries == 15
    assert found.rank1 <= found.rank5 <= found.rank10 <= 100


def test_junk_and_queries_without_a_match_do_not_count():
    gallery = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
    query = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    found = rank(
        query,
        gallery,
        torch.tensor([7, 9]),
        torch.tensor([7, 7, 8]),
        torch.tensor([0, 0]),
        torch.tensor([0, 1, 1]),
    )
    assert (found.queries, found.mean_ap, found.rank1) == (1, 100.0, 100.0)
    found = rank(query[:1], gallery, torch.tensor([7]), torch.tensor([-1, 7, 8]))
    assert found.mean_ap == 100.0
    with pytest.raises(JostleError, match="match"):
        rank(query, gallery, torch.tensor([1, 2]), torch.tensor([7, 7, 8]))


def test_like_domains_are_near():
    rows = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    assert proxy_a_distance(rows[:100], rows[100:]) < 0.6
    assert proxy_a_distance(rows[:100], rows[100:] + 5) == 2.0
