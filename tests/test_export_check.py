"""A check lets rounding pass and nothing else."""

import numpy as np
import pytest
import torch

from hf_bert4rec.export_check import check_scores, overlap


class Fixed:
    """A scorer that gives the same scores to everybody."""

    def __init__(self, *scores):
        self.scores, self.vocab_size = torch.tensor([0.0, 0.0, 0.0, *scores]), 3 + len(scores)

    def __call__(self, user_ids, histories):
        return lambda start, stop: self.scores[start:stop].expand(len(histories), -1)


def test_scores_may_differ_by_a_ten_thousandth_and_no_more():
    histories = [np.array([], dtype=np.int64)]
    found = check_scores(Fixed(0.5, 0.10009), Fixed(0.5, 0.1), histories)
    assert found["max_score_difference"] == pytest.approx(9e-5, rel=1e-2)
    for other in (0.1002, 0.0998, float("nan")):
        with pytest.raises(
            ValueError, match=r"gives other scores than the model: by up to (0\.0002|nan) for history 0"
        ):
            check_scores(Fixed(0.5, other), Fixed(0.5, 0.1), histories)


def test_lists_may_swap_items_that_are_a_ten_thousandth_apart_and_no_more():
    histories = [np.array([3]), np.array([], dtype=np.int64)]
    check_scores(Fixed(9.0, 0.50008, 0.50006), Fixed(9.0, 0.5, 0.50008), histories)
    with pytest.raises(ValueError, match=r"place 1 for history 0 is token 4, not 5, 0.00015 apart\. No folder"):
        check_scores(Fixed(9.0, 0.50008, 0.50007), Fixed(9.0, 0.5, 0.50015), histories)


def test_overlap_is_the_share_of_the_best_items_that_stay():
    ten, other = [*range(10, 0, -1), 0.0, 0.0], [*range(8, 0, -1), 0.0, 0.0, 9.0, 10.0]
    histories = [np.array([], dtype=np.int64)]
    assert overlap(Fixed(*map(float, ten)), Fixed(*map(float, ten)), histories) == 1
    assert overlap(Fixed(*map(float, other)), Fixed(*map(float, ten)), histories) == pytest.approx(0.8)
