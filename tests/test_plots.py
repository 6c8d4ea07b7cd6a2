"""The pictures show the figures that they were given; without matplotlib one line says what to install."""

import sys

import pytest

from hf_bert4rec import plots
from hf_bert4rec.plots import group_name, plot_popularity, plot_validation

HISTORY = [
    {"loss": 5.0, "epoch": 1.0, "step": 10},
    {"eval_loss": 4.0, "eval_ndcg@10": 0.1, "epoch": 1.0, "step": 10},
    {"eval_loss": 3.0, "eval_ndcg@10": 0.3, "epoch": 2.0, "step": 20},
    {"train_runtime": 3.0, "epoch": 2.0, "step": 20},
]


def scorer(recall, low, high):
    return {"recall@10": recall, "ndcg@10": 0.0, "intervals": {"recall@10": [low, high]}}


GROUPS = [
    {"training_events": [0, 0], "num_users": 1200, "model": scorer(0.0, 0.0, 0.0), "markov": scorer(0.1, 0.0, 0.3)},
    {"training_events": [3, 9], "num_users": 7, "model": scorer(0.5, 0.4, 0.55), "markov": scorer(0.25, 0.2, 0.3)},
]


@pytest.fixture
def figures(monkeypatch):
    """The figures that were drawn; they are still saved."""
    pytest.importorskip("matplotlib")
    drawn, make = [], plots._figure
    monkeypatch.setattr(plots, "_figure", lambda: drawn.append(make()) or drawn[-1])
    return drawn


def test_the_curve_shows_both_losses_and_marks_the_weights_that_were_kept(figures, tmp_path):
    plot_validation(HISTORY, 20, tmp_path / "curve.png")
    loss, quality = figures[0].axes
    assert {line.get_label(): line.get_xydata().tolist() for line in loss.lines} == {
        "training": [[1.0, 5.0]],
        "validation": [[1.0, 4.0], [2.0, 3.0]],
    }
    assert [line.get_xydata().tolist() for line in quality.lines] == [[[1.0, 0.1], [2.0, 0.3]], [[2.0, 0.3]]]
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_a_curve_without_kept_weights_marks_none(figures, tmp_path):
    plot_validation(HISTORY, None, tmp_path / "curve.png")
    assert len(figures[0].axes[1].lines) == 1


def test_the_bars_are_the_recall_of_each_scorer_in_each_group(figures, tmp_path):
    plot_popularity(GROUPS, tmp_path / "bars.png")
    axes = figures[0].axes[0]
    heights = [[bar.get_height() for bar in bars] for bars in axes.containers if hasattr(bars, "patches")]
    assert heights == [[0.0, 0.5], [0.1, 0.25]]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0\n1,200 users", "3–9\n7 users"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["model", "markov"]


def test_a_group_is_named_by_its_training_events():
    assert [group_name(group) for group in GROUPS] == ["0", "3–9"]
    assert group_name({"training_events": [1000, 2999]}) == "1,000–2,999"


def test_without_matplotlib_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"Plots need matplotlib: pip install 'hf_bert4rec\[plots\]'"):
        plot_validation(HISTORY, 20, tmp_path / "curve.png")
    assert list(tmp_path.iterdir()) == []
