"""Pictures show the figures that they were given, on a page of their own; without matplotlib one line says what to install."""

import json
import math
import sys

import pytest
import torch

from hf_bert4rec import Bert4RecConfig, Bert4RecForMaskedLM, Bert4RecTokenizer, prepare, train
from hf_bert4rec.cli import main
from hf_bert4rec.plots import LOOKS, PAGE, TEXT, group_name, plot_metrics, plot_run

HISTORY = [
    {"loss": 5.0, "epoch": 1.0, "step": 10},
    {"eval_loss": 4.0, "eval_ndcg@10": 0.1, "epoch": 1.0, "step": 10},
    {"eval_loss": 3.0, "eval_ndcg@10": 0.3, "epoch": 2.0, "step": 20},
    {"train_runtime": 3.0, "epoch": 2.0, "step": 20},
]


def scorer(recall, low, high):
    return {"recall@10": recall, "ndcg@10": 0.0, "intervals": {"recall@10": [low, high]}}


def figures_of(factor):
    """Metrics of a scorer at 1 and 5, between 0.9 and 1.2 times their value."""
    values = {"ndcg@1": 0.1, "ndcg@5": 0.2, "recall@1": 0.1, "recall@5": 0.4}
    values = {name: factor * value for name, value in values.items()}
    intervals = {name: [0.9 * value, 1.2 * value] for name, value in values.items()}
    return {**values, "intervals": intervals, "coverage@1": 0.25 * factor, "coverage@5": 0.5 * factor}


GROUPS = [
    {"training_events": [0, 0], "num_users": 1200, "model": scorer(0.0, 0.0, 0.0), "markov": scorer(0.1, 0.0, 0.3)},
    {"training_events": [3, 9], "num_users": 7, "model": scorer(0.5, 0.55, 0.6), "markov": scorer(0.25, 0.2, 0.3)},
]
METRICS = {
    "protocol": "full-catalogue",
    "split": "test",
    "num_users": 1207,
    "model": figures_of(1.0),
    "markov": figures_of(0.5),
    "by_popularity": GROUPS,
    "by_history_length": [{"history_events": [10, 29], **GROUPS[1]}],
}
del METRICS["by_history_length"][0]["training_events"]


@pytest.fixture
def figures(monkeypatch):
    """The figures that were drawn, by the name of their file; they are still saved."""
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    from matplotlib.figure import Figure

    drawn, save = {}, Figure.savefig

    def saved(figure, path, **options):
        drawn[path.stem] = figure
        save(figure, path, **options)

    monkeypatch.setattr(Figure, "savefig", saved)
    return drawn


def heights(axes):
    """Of each scorer the values that are drawn with an interval."""
    return {bars.get_label(): bars.lines[0].get_ydata().tolist() for bars in axes.containers}


def bounds(axes):
    """Of each scorer the ends of its intervals."""
    ends = {bars.get_label(): bars.lines[2][0].get_segments() for bars in axes.containers}
    return {name: [[low[1], high[1]] for low, high in segments] for name, segments in ends.items()}


def test_the_curve_shows_both_losses_and_marks_the_weights_that_were_kept(figures, tmp_path):
    assert plot_run(HISTORY, 20, tmp_path, "films-") == {"validation": "films-validation.png"}
    loss, quality = figures["films-validation"].axes
    assert {line.get_label(): line.get_xydata().tolist() for line in loss.lines} == {
        "training": [[1.0, 5.0]],
        "validation": [[1.0, 4.0], [2.0, 3.0]],
    }
    assert [line.get_xydata().tolist() for line in quality.lines] == [[[1.0, 0.1], [2.0, 0.3]], [[2.0, 0.3]]]
    assert (tmp_path / "films-validation.png").read_bytes().startswith(b"\x89PNG")


def test_a_curve_without_kept_weights_marks_none(figures, tmp_path):
    plot_run(HISTORY, None, tmp_path)
    assert len(figures["validation"].axes[1].lines) == 1


def test_a_run_without_validation_shows_its_loss_and_one_without_logs_nothing(figures, tmp_path):
    plot_run([{"loss": math.nan, "epoch": 1.0}, {"loss": 2.0, "epoch": 2.0}], None, tmp_path)
    (loss,) = figures["validation"].axes
    assert [line.get_label() for line in loss.lines] == ["training"]
    assert plot_run(HISTORY[3:], None, tmp_path / "none") == {}


def test_metrics_stand_against_k_with_their_intervals(figures, tmp_path):
    made = plot_metrics(METRICS, tmp_path)
    assert made == {name: f"{name}.png" for name in ("cutoffs", "popularity", "history", "coverage")}
    assert {path.name for path in tmp_path.iterdir()} == set(made.values())
    ndcg, recall = figures["cutoffs"].axes
    for axes, name in ((ndcg, "ndcg"), (recall, "recall")):
        for found, values in heights(axes).items():
            assert values == [METRICS[found][f"{name}@{k}"] for k in (1, 5)]
            intervals = [METRICS[found]["intervals"][f"{name}@{k}"] for k in (1, 5)]
            assert bounds(axes)[found] == [pytest.approx(interval) for interval in intervals]
        places = [bars.lines[0].get_xdata() for bars in axes.containers]
        assert all(abs(place - k) < 0.5 for of_one in places for place, k in zip(of_one, (1, 5), strict=True))
        assert (places[0] < places[1]).all()  # side by side
        assert axes.get_xticks().tolist() == [1, 5]
        assert axes.get_ylim()[0] == 0
    assert [text.get_text() for text in figures["cutoffs"].legends[0].get_texts()] == ["model", "markov"]
    assert figures["cutoffs"].get_suptitle() == "full-catalogue, test, 1,207 users; 95 % intervals"


def test_breakdowns_show_the_recall_of_each_scorer_in_each_group(figures, tmp_path):
    plot_metrics(METRICS, tmp_path)
    (axes,) = figures["popularity"].axes
    assert heights(axes) == {"model": [0.0, 0.5], "markov": [0.1, 0.25]}
    # An interval that leaves out its value begins at it.
    expected = {"model": [[0.0, 0.0], [0.5, 0.6]], "markov": [[0.0, 0.3], [0.2, 0.3]]}
    assert {name: [pytest.approx(ends) for ends in of_one] for name, of_one in expected.items()} == bounds(axes)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0\n1,200 users", "3–9\n7 users"]
    assert axes.get_xlabel() == "training events of the target"
    (axes,) = figures["history"].axes
    assert heights(axes) == {"model": [0.5], "markov": [0.25]}
    assert [label.get_text() for label in axes.get_xticklabels()] == ["10–29\n7 users"]
    assert axes.get_xlabel() == "events in the history"


def test_coverage_is_drawn_in_percent(figures, tmp_path):
    plot_metrics(METRICS, tmp_path)
    (axes,) = figures["coverage"].axes
    assert {line.get_label(): line.get_xydata().tolist() for line in axes.lines} == {
        "model": [[1, 25], [5, 50]],
        "markov": [[1, 12.5], [5, 25]],
    }


def test_what_a_metrics_file_of_an_older_version_lacks_has_no_picture(figures, tmp_path):
    old = {name: value for name, value in METRICS.items() if not name.startswith("by_")}
    old |= {
        name: {key: found for key, found in METRICS[name].items() if "cover" not in key}
        for name in ("model", "markov")
    }
    assert plot_metrics(old, tmp_path) == {"cutoffs": "cutoffs.png"}


def test_a_group_is_named_by_its_edges():
    assert [group_name(group) for group in GROUPS] == ["0", "3–9"]
    assert group_name({"history_events": [1000, 2999]}) == "1,000–2,999"


def luminance(colour):
    """Relative luminance as WCAG 2 defines it."""
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_text_and_lines_are_clear_on_the_page_and_scorers_are_told_apart_without_colour():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast(TEXT, PAGE) >= 7  # WCAG 2, level AAA for text
    assert min(contrast(colour, PAGE) for colour, _, _ in LOOKS) >= 3  # level AA for graphics
    model, popularity, markov = (colour for colour, _, _ in LOOKS[:3])
    assert min(contrast(model, popularity), contrast(model, markov), contrast(popularity, markov)) >= 1.5
    assert len({line for _, line, _ in LOOKS}) == len({marker for _, _, marker in LOOKS}) == len(LOOKS)


def test_the_page_is_opaque_and_white_whatever_the_reader_has_set(figures, tmp_path):
    import matplotlib

    (tmp_path / "dark").mkdir()
    made = plot_metrics(METRICS, tmp_path)
    dark = {"figure.facecolor": "black", "savefig.transparent": True, "text.color": "white", "lines.linewidth": 9}
    with matplotlib.rc_context(dark):
        assert plot_metrics(METRICS, tmp_path / "dark") == made
        assert matplotlib.rcParams["lines.linewidth"] == 9  # and is left alone
    for name in made.values():
        assert (tmp_path / name).read_bytes() == (tmp_path / "dark" / name).read_bytes()
        pixels = matplotlib.image.imread(tmp_path / name)  # (height, width, 4)
        assert pixels[..., 3].min() == 1
        assert pixels[0, 0].tolist() == [1, 1, 1, 1]


@pytest.fixture
def world(interaction_log, tmp_path):
    """Prepared data and a model of its items."""
    data = prepare(interaction_log, tmp_path / "data")
    torch.manual_seed(0)
    Bert4RecForMaskedLM(Bert4RecConfig(vocab_size=13, hidden_size=16)).save_pretrained(tmp_path / "run")
    Bert4RecTokenizer.from_items(data.item_ids.to_pylist()).save_pretrained(tmp_path / "run")
    return tmp_path


def evaluated(world, *options):
    return main(["evaluate", str(world / "run"), "--data", str(world / "data"), *map(str, options)])


def test_evaluate_leaves_a_whole_folder_of_pictures_or_none(figures, world, capsys):
    plots, file = world / "plots", world / "metrics.json"
    assert evaluated(world, "--plots", plots, "--output_file", file) == 0
    assert {path.name for path in plots.iterdir()} == {"cutoffs.png", "popularity.png", "history.png", "coverage.png"}
    metrics = json.loads(file.read_text())
    assert heights(figures["history"].axes[0])["model"] == [metrics["by_history_length"][0]["model"]["recall@10"]]
    assert figures["coverage"].axes[0].lines[0].get_ydata()[2] == 100 * metrics["model"]["coverage@10"]
    assert f"in anybody's first 10: model {metrics['model']['coverage@10']:.1%}" in capsys.readouterr().out
    (plots / "mine.txt").touch()
    assert evaluated(world, "--plots", plots) == 2
    assert capsys.readouterr().err == (
        f"hf-bert4rec evaluate: {plots} exists; give another folder, or --overwrite_output_dir (overwrite=True) to replace it.\n"
    )
    assert evaluated(world, "--plots", plots, "--overwrite_output_dir", "--protocol", "popularity-100") == 0
    # against drawn rivals nothing is listed
    assert {path.name for path in plots.iterdir()} == {"cutoffs.png", "popularity.png", "history.png"}
    (world / "run" / "model.safetensors").unlink()
    assert evaluated(world, "--plots", world / "other") == 2
    assert not list(world.glob("other*"))


def test_coverage_is_counted_without_pictures_where_it_is_asked_for(world, capsys):
    file = world / "metrics.json"
    assert evaluated(world, "--output_file", file) == 0
    assert "coverage@10" not in json.loads(file.read_text())["model"]
    assert "of the catalogue" not in capsys.readouterr().out
    assert evaluated(world, "--coverage", "--output_file", file) == 0
    assert json.loads(file.read_text())["popularity"]["coverage@10"] == 1
    assert evaluated(world, "--coverage", "--protocol", "uniform-100") == 2
    assert "Protocol uniform-100 lists 100 items drawn uniformly" in capsys.readouterr().err


def test_without_matplotlib_one_line_says_what_to_install_before_the_work_begins(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(["evaluate", "nowhere", "--data", "nowhere", "--plots", str(tmp_path / "plots")]) == 2
    assert capsys.readouterr().err == (
        "hf-bert4rec evaluate: Plots need matplotlib: pip install 'hf_bert4rec[plots]'\n"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("is_installed", [True, False])
def test_a_run_shows_its_curves_where_matplotlib_is_installed(world, monkeypatch, is_installed):
    if is_installed:
        pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    else:
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    tiny = {"hidden_size": 16, "intermediate_size": 32, "use_cpu": True, "disable_tqdm": True, "num_train_epochs": 2}
    run = train(world / "data", world / "trained", **tiny)
    assert [path.name for path in run.glob("*.png")] == (["validation.png"] if is_installed else [])
    assert (run / "run.json").exists()
