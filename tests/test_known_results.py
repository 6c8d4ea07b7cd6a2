"""Published figures beside one's own: which may stand there, why the others may not, and what a wrong baseline gives away."""

import json

import pytest
import torch

from hf_bert4rec import compare, prepare
from hf_bert4rec.known_results import known_beside
from hf_bert4rec.protocols import PROTOCOLS
from hf_bert4rec.published_results import BASELINES, DATASETS, KNOWN_RESULTS, METRICS
from hf_bert4rec.synthetic import SyntheticWorld


def evaluation(dataset="ml-1m", version=0, protocol="full-catalogue", split="test", **facts):
    """What an evaluation on a known data set states, in short."""
    known = DATASETS[dataset]
    data = dict(zip(("num_users", "num_items", "num_events"), known.sizes[version], strict=True))
    data["split"] = "leave-one-out"
    conditions = {
        "seen_items": "forbidden",
        "tie_order": "as in the log",
        "trained_on": "training events",
        "targets": known.targets,
        "data": data,
    }
    if protocol.endswith("-100"):
        conditions |= {"negatives_counted": "training events", "seed": 0}
    return {"protocol": protocol, "split": split, "num_users": data["num_users"], "conditions": conditions | facts}


def models(beside):
    return [row.model for row in beside.comparable]


def warning_of(beside, model):
    found = [warning for warning in beside.warnings if model in warning]
    assert len(found) == 1, beside.warnings
    return found[0]


def test_every_row_names_a_known_data_set_and_protocol_and_has_figures_between_0_and_1():
    keys = set()
    for row in KNOWN_RESULTS:
        assert row.dataset in DATASETS
        assert row.protocol in PROTOCOLS
        assert {"recall@10", "ndcg@10"} <= set(row.metrics) <= set(METRICS)
        assert 0 < row.metrics["ndcg@10"] <= row.metrics["recall@10"] < 1
        assert set(row.tolerance or {}) <= set(row.metrics)
        keys.add((row.dataset, row.protocol, row.model, row.source))
    assert len(keys) == len(KNOWN_RESULTS) > 90
    sizes = [sizes for known in DATASETS.values() for sizes in known.sizes]
    assert len(set(sizes)) == len(sizes)


def test_figures_are_those_of_the_tables():
    def metrics(dataset, protocol, model, source):
        wanted = (dataset, protocol, model, source)
        rows = [row for row in KNOWN_RESULTS if (row.dataset, row.protocol, row.model, row.source) == wanted]
        assert len(rows) == 1
        return list(rows[0].metrics.values())

    assert metrics("ml-1m", "full-catalogue", "BERT4Rec", "RecTools") == [0.2921, 0.1618]
    assert metrics("ml-1m", "full-catalogue", "HSTU-large", "Zhai et al. 2024") == [0.3294, 0.1893]
    paper = "Sun et al. 2019"
    assert metrics("beauty", "popularity-100", "BERT4Rec", paper) == [0.3025, 0.1862, 0.1701]
    assert metrics("steam", "popularity-100", "SASRec", paper) == [0.3783, 0.2147, 0.1874]
    assert metrics("ml-1m", "popularity-100", "Caser", paper) == [0.6692, 0.4268, 0.3648]
    assert metrics("ml-20m", "popularity-100", "POP", paper) == [0.1378, 0.0695, 0.0709]


def test_the_full_catalogue_of_movielens_stands_beside_its_like():
    beside = known_beside(evaluation())
    assert beside.dataset is DATASETS["ml-1m"]
    best = ["BERT4Rec, recipe default", "SASRec, 3,000 negatives", "SASRec, softmax", "gSASRec"]
    assert models(beside)[:4] == best
    assert {"BPR-MF", "popularity", "markov"} <= set(models(beside))
    assert models(beside).count("BERT4Rec") == 3
    assert warning_of(beside, "eSASRec") == (
        "not comparable: eSASRec (eSASRec's authors 2025): items: 3,416 against 3,706"
    )
    unstable = warning_of(beside, "HSTU-large (Zhai et al. 2024)")
    assert "tie order: as in the log against any (unstable sort)" in unstable
    assert "trained on: training events against training and validation events" in unstable
    paper = warning_of(beside, "POP (Sun et al. 2019)")
    assert paper.startswith("not comparable: POP (Sun et al. 2019), BPR-MF (Sun et al. 2019), NCF")
    assert "protocol: full-catalogue against popularity-100" in paper


def test_the_papers_table_stands_beside_nothing_because_it_counted_test_events():
    beside = known_beside(evaluation(protocol="popularity-100"))
    assert "BERT4Rec" in models(beside)  # RecTools', of which it is not known
    assert {row.source for row in beside.comparable} <= {"RecTools", "this project"}
    counted = "negatives counted: training events against all events, held-out ones too"
    assert counted in warning_of(beside, "POP (Sun et al. 2019)")
    own = warning_of(beside, "BERT4Rec (Sun et al. 2019)")
    assert f"{counted}; trained on: training events against training and validation events" in own


@pytest.mark.parametrize(
    ("dataset", "model"), [("s3rec-beauty", "popularity (collected"), ("s3rec-toys", "popularity (collected")]
)
def test_popularity_that_counted_the_targets_is_not_comparable(dataset, model):
    assert "trained on: training events against all events" in warning_of(known_beside(evaluation(dataset)), model)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"split": "validation"}, "split: validation against test"),
        ({"protocol": "unfiltered"}, "protocol: unfiltered against full-catalogue"),
        ({"seen_items": "allowed"}, "seen items: allowed against forbidden"),
        ({"trained_on": "all events"}, "trained on: all events against training events"),
        ({"targets": "00000000"}, "other targets (events of equal time in another order?)"),
        ({"version": 1, "targets": "00000000"}, "items: 3,706 against 3,416"),
    ],
)
def test_what_differs_is_said_of_our_own_row(changed, reason, monkeypatch):
    # Published rows do not state all of this, so that they may stay; those of this project state everything.
    rows = [row for row in KNOWN_RESULTS if row.source.startswith("this project:") and row.dataset == "ml-1m"]
    stated = {"seen_items": "forbidden"}
    rows = [type(row)(**(vars(row) | {"conditions": row.conditions | stated})) for row in rows]
    monkeypatch.setattr("hf_bert4rec.known_results.KNOWN_RESULTS", rows)
    assert models(known_beside(evaluation())) == ["BERT4Rec, recipe default"]
    beside = known_beside(evaluation(**changed))
    assert beside.comparable == []
    assert reason in beside.warnings[0]


def test_all_items_of_movielens_stand_beside_those_who_kept_them():
    beside = known_beside(evaluation(version=1, targets="00000000"))
    assert models(beside) == ["eSASRec"]


def test_an_unknown_data_set_is_not_recognised_but_may_be_named():
    found = evaluation()
    found["conditions"]["data"]["num_events"] -= 1
    assert known_beside(found) is None
    named = known_beside(found, "ml-1m")
    assert named.comparable == []
    assert named.warnings[0].endswith("and 9 more: events: 999,610 against 999,611")
    assert models(known_beside(found, "steam")) == ["BERT4Rec", "SASRec, softmax"]  # whose sizes are not known
    with pytest.raises(ValueError, match="No results are known for 'ml-2m'; choose one of ml-1m, ml-100k"):
        known_beside(found, "ml-2m")
    assert known_beside({"protocol": "full-catalogue", "split": "test", "num_users": 6040}) is None


def test_a_file_will_do(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text(json.dumps(evaluation()))
    assert known_beside(path) == known_beside(evaluation())


def test_a_baseline_that_is_not_what_it_must_be_is_said():
    recall, ndcg, mrr = BASELINES["ml-1m"]["full-catalogue"]["popularity"]
    found = evaluation() | {"popularity": {"recall@10": recall, "ndcg@10": ndcg + 0.00004, "mrr": mrr}}
    assert not [warning for warning in known_beside(found).warnings if "is known" in warning]
    found["popularity"]["ndcg@10"] = ndcg + 0.001
    assert known_beside(found).warnings[0] == (
        f"popularity has ndcg@10 {ndcg + 0.001:.4f}, {ndcg:.4f} is known: the events differ from those of the known data set"
    )


def test_drawn_negatives_may_be_drawn_otherwise_where_users_are_numbered_otherwise():
    recall, ndcg, mrr = BASELINES["ml-1m"]["popularity-100"]["markov"]
    for difference, num_warnings in ((0.01, 0), (0.02, 1)):
        values = {"recall@10": recall + difference, "ndcg@10": ndcg, "mrr": mrr}
        beside = known_beside(evaluation(protocol="popularity-100") | {"markov": values})
        assert len([warning for warning in beside.warnings if "is known" in warning]) == num_warnings


class Constant:
    """Every item scores the same; beside it the baselines are computed."""

    def __init__(self, vocab_size):
        self.vocab_size = vocab_size

    def __call__(self, user_ids, histories):
        return lambda start, stop: torch.zeros(len(histories), stop - start)


def check_baselines(dataset, data):
    """The baselines have the values of the table, and the targets are those of the table."""
    for protocol in BASELINES[dataset]:
        found = compare(Constant(data.num_items + 3), data, protocol=protocol)
        assert found["conditions"]["targets"] == DATASETS[dataset].targets
        beside = known_beside(found)
        assert {"popularity", "markov"} <= set(models(beside))
        assert not [warning for warning in beside.warnings if "is known" in warning]


def test_the_generated_world_has_the_baselines_of_the_table(tmp_path):
    check_baselines("generated", prepare(SyntheticWorld().generate(), tmp_path / "data"))


def test_movielens_has_the_baselines_of_the_table(real_data, tmp_path):
    log = real_data / "ml-1m" / "interactions.parquet"
    check_baselines("ml-1m", prepare(log, tmp_path / "data", time_column="position"))
    small = real_data / "ml-100k" / "u.data"
    columns = {"user_column": 0, "item_column": 1, "time_column": 3}
    check_baselines("ml-100k", prepare(small, tmp_path / "small", **columns))
