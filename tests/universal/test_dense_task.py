import pytest
import torch

from jostle import Linf
from jostle.universal.dense_task import SIDE, judge_segmentation, segmentation_task
from jostle.universal.noise import sign_noise
from jostle.zoo import load_data, load_model


@pytest.mark.study
def test_a_small_task_is_trained_and_judged_on_what_it_never_saw(generator, monkeypatch):
    from jostle.universal import dense_task

    seen = []
    real = dense_task.make_scenes

    def spy(photographs, digits, labels, **settings):
        seen.append(photographs)
        return real(photographs, digits, labels, **settings)

    monkeypatch.setattr(dense_task, "make_scenes", spy)
    photographs = load_data("photographs", size=128)
    task = segmentation_task(load_model("efficientnet-lite0"), photographs, generator, scenes=32, unseen=16)
    known, new = (
        {
            int(photographs.groups[i])
            for i in range(len(photographs))
            if any(torch.equal(photographs[i][0], p) for p in part)
        }
        for part in seen
    )
    assert len(known) + len(new) == 10 and not known & new
    deltas = {
        "zero": torch.zeros(1, 3, SIDE, SIDE),
        "noise": sign_noise((3, SIDE, SIDE), Linf(0.1), generator),
    }
    found = judge_segmentation(task, deltas, generator)
    assert found["zero"]["miou"] == found["clean"]["miou"] and found["zero"]["agreement"] == 1
    assert found["noise"]["agreement"] < 1
    low, high = found["clean"]["interval"]
    assert low <= found["clean"]["miou"] <= high
