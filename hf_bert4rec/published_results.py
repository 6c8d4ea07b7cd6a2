"""
What others published, and what this project measured: data sets that are recognised by their sizes, and rows of tables.

*Source:* named beside each row. Sun et al., "BERT4Rec" (CIKM 2019), table 2; Petrov & Macdonald, "A Systematic Review and
Replicability Study of BERT4Rec" (RecSys 2022) and "gSASRec" (RecSys 2023); Klenitskiy & Vasilev, "Turning Dross Into Gold
Loss" (RecSys 2023); Zhai et al., "Actions Speak Louder than Words" (ICML 2024); Rajput et al., "Recommender Systems with
Generative Retrieval" (NeurIPS 2023), table 1; RecTools' benchmarks. That the paper's BERT4Rec was trained on the validation
events and its negatives were counted over all events is what the authors' `gen_data_fin.py` does; that HSTU was trained on
them is what its `reco_dataset.py` does.

*Differences:* a row states only what is known of how it was made.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

METRICS = ("recall@10", "ndcg@10", "mrr")  # the order of the figures below
COLLECTED = "collected from the literature"

Figures = tuple[float, ...]
Table = dict[str, dict[str, Figures]]  # by source and model


@dataclass(frozen=True)
class KnownDataset:
    r"""
    A data set that figures are published for.

    Args:
        title (`str`): Its name for people.
        sizes (tuple of `(num_users, num_items, num_events)`, *optional*):
            The version of the published figures, then others that are recognised too; without any the data set can only
            be named.
        targets (`str`, *optional*): The published version's test targets, see [`protocols.targets_checksum`].
    """

    title: str
    sizes: tuple[tuple[int, int, int], ...] = ()
    targets: str | None = None


@dataclass(frozen=True)
class KnownResult:
    r"""
    One row of somebody's table, on test targets.

    Args:
        dataset (`str`): A key of `DATASETS`.
        protocol (`str`): A name in [`protocols.PROTOCOLS`].
        model (`str`): What was evaluated.
        metrics (`dict[str, float]`): `recall@10`, `ndcg@10` and where known `mrr`.
        source (`str`): Who published it; for our own rows the options of the training.
        conditions (`dict`, *optional*): What is known of how it was made, see [`protocols.conditions`].
        tolerance (`dict[str, float]`, *optional*): How far a repetition may lie from each metric, for our own rows.
        scorer (`str`, *optional*): The scorer of a metrics file whose value this must be: `popularity` or `markov`.
    """

    dataset: str
    protocol: str
    model: str
    metrics: dict[str, float]
    source: str
    conditions: dict[str, Any] = field(default_factory=dict)
    tolerance: dict[str, float] | None = None
    scorer: str | None = None

    def as_metrics(self) -> dict[str, Any]:
        """The row in the form of a metrics file, as far as its making is known."""
        return {"protocol": self.protocol, "split": "test", "conditions": self.conditions}


DATASETS = {
    "ml-1m": KnownDataset(
        "MovieLens-1M, the papers' version", ((6040, 3416, 999_611), (6040, 3706, 1_000_209)), "13feb201"
    ),
    "ml-100k": KnownDataset("MovieLens-100K, 5-core", ((943, 1349, 99_287), (943, 1682, 100_000)), "c39854cf"),
    "ml-20m": KnownDataset("MovieLens-20M"),
    "beauty": KnownDataset("Amazon Beauty, BERT4Rec's file", ((40_226, 54_542, 353_962),), "4d5915fc"),
    "steam": KnownDataset("Steam, BERT4Rec's file"),
    "s3rec-beauty": KnownDataset("Amazon Beauty, S3-Rec's 5-core file", ((22_363, 12_101, 198_502),), "75dd4b66"),
    "s3rec-toys": KnownDataset("Amazon Toys, S3-Rec's 5-core file", ((19_412, 11_924, 167_597),), "97184b45"),
    "generated": KnownDataset("the generated world of the demo", ((12_000, 120, 95_851),), "58f2eb37"),
}

# By data set and source: model -> (Recall@10, NDCG@10), the whole catalogue, seen items forbidden.
FULL_CATALOGUE: dict[str, Table] = {
    "ml-1m": {
        "Petrov & Macdonald 2022": {"BERT4Rec": (0.2821, 0.1516)},
        "Klenitskiy & Vasilev 2023": {
            "BERT4Rec": (0.2843, 0.1537),
            "BPR-MF": (0.0740, 0.0377),
            "GRU4Rec, softmax": (0.2811, 0.1648),
            "SASRec, binary cross-entropy": (0.2500, 0.1341),
            "SASRec, softmax": (0.3152, 0.1821),
            "SASRec, 3,000 negatives": (0.3159, 0.1857),
        },
        "RecTools": {"BERT4Rec": (0.2921, 0.1618)},
        "Petrov & Macdonald 2023": {"gSASRec": (0.3003, 0.1726)},
    },
    "ml-20m": {
        COLLECTED: {
            "BERT4Rec": (0.2886, 0.1732),
            "SASRec, softmax": (0.2983, 0.1833),
            "SASRec, 3,000 negatives": (0.3090, 0.1872),
            "eSASRec": (0.3289, 0.1966),
        },
    },
    "beauty": {
        "RecTools": {"BERT4Rec": (0.0434, 0.0242)},
        COLLECTED: {
            "BERT4Rec, weakest": (0.0166, 0.0080),
            "BERT4Rec": (0.0338, 0.0187),
            "SASRec, softmax": (0.0533, 0.0327),
            "SASRec, softmax, strongest": (0.0595, 0.0359),
        },
    },
    "steam": {COLLECTED: {"BERT4Rec": (0.1361, 0.0734), "SASRec, softmax": (0.1191, 0.0641)}},
    "s3rec-beauty": {
        "Rajput et al. 2023": {
            "GRU4Rec": (0.0283, 0.0137),
            "Caser": (0.0347, 0.0176),
            "BERT4Rec, undertrained": (0.0347, 0.0170),
            "SASRec, binary cross-entropy": (0.0605, 0.0318),
            "S3-Rec": (0.0647, 0.0327),
            "TIGER": (0.0648, 0.0384),
        },
        COLLECTED: {
            "SASRec, sampled softmax": (0.0921, 0.0531),
            "SASRec, contrastive cross-entropy": (0.0923, 0.0568),
            "S3-Rec, contrastive cross-entropy and attributes": (0.1058, 0.0629),
        },
    },
    "s3rec-toys": {
        "Rajput et al. 2023": {
            "GRU4Rec": (0.0176, 0.0084),
            "Caser": (0.0270, 0.0141),
            "BERT4Rec, undertrained": (0.0203, 0.0099),
            "SASRec, binary cross-entropy": (0.0675, 0.0374),
            "S3-Rec": (0.0700, 0.0376),
            "TIGER": (0.0712, 0.0432),
        },
        COLLECTED: {
            "SASRec, sampled softmax": (0.0970, 0.0580),
            "SASRec, contrastive cross-entropy": (0.0985, 0.0617),
            "S3-Rec, contrastive cross-entropy and attributes": (0.1099, 0.0669),
        },
    },
}
# These are the figures of counts over all events, the test targets among them: over the training part they are .0120/.0056
# and .0090/.0049.
POPULARITY_OF_ALL: dict[str, Figures] = {"s3rec-beauty": (0.0152, 0.0068), "s3rec-toys": (0.0113, 0.0061)}
ESASREC: Table = {"eSASRec's authors 2025": {"eSASRec": (0.3133, 0.1772)}}
HSTU: dict[str, dict[str, Figures]] = {
    "ml-1m": {"HSTU-large": (0.3294, 0.1893)},
    "ml-20m": {"HSTU-large": (0.3556, 0.2098)},
}
HSTU_STABLE: Table = {"HSTU's code, one run": {"HSTU-large, stable order of ties, timestamps": (0.3642, 0.2164)}}

# The paper's table: model -> (HR@10, NDCG@10, MRR) on Beauty, Steam, ML-1m, ML-20m, 100 negatives drawn by popularity.
PAPER_DATASETS = ("beauty", "steam", "ml-1m", "ml-20m")
PAPER: dict[str, tuple[Figures, ...]] = {
    "POP": ((0.0762, 0.0349, 0.0437), (0.1389, 0.0665, 0.0669), (0.1358, 0.0621, 0.0627), (0.1378, 0.0695, 0.0709)),
    "BPR-MF": ((0.1992, 0.1064, 0.1006), (0.1993, 0.1005, 0.0942), (0.4301, 0.2365, 0.2009), (0.3538, 0.1786, 0.1503)),
    "NCF": ((0.2142, 0.1124, 0.1043), (0.2169, 0.1026, 0.0932), (0.3477, 0.1640, 0.1358), (0.2922, 0.1271, 0.1072)),
    "FPMC": ((0.2401, 0.1211, 0.1056), (0.2551, 0.1283, 0.1139), (0.5946, 0.3439, 0.2891), (0.5201, 0.2895, 0.2273)),
    "GRU4Rec": ((0.2343, 0.1074, 0.1023), (0.3313, 0.1802, 0.1420), (0.6207, 0.3627, 0.3041), (0.5844, 0.3637, 0.2967)),
    "GRU4Rec+": (
        (0.2654, 0.1453, 0.1299), (0.3594, 0.2053, 0.1757), (0.6351, 0.4064, 0.3462), (0.6524, 0.4087, 0.3476),
    ),
    "Caser": ((0.2590, 0.1360, 0.1205), (0.2870, 0.1484, 0.1305), (0.6692, 0.4268, 0.3648), (0.5427, 0.3062, 0.2529)),
    "SASRec": ((0.2653, 0.1633, 0.1536), (0.3783, 0.2147, 0.1874), (0.6629, 0.4368, 0.3790), (0.7136, 0.4665, 0.4026)),
    "BERT4Rec": (
        (0.3025, 0.1862, 0.1701), (0.4013, 0.2261, 0.1949), (0.6970, 0.4818, 0.4254), (0.7473, 0.5340, 0.4785),
    ),
}  # fmt: skip
POPULARITY_100: dict[str, Table] = {"ml-1m": {"RecTools": {"BERT4Rec": (0.7151, 0.5020)}}}

# Our own trainings: data set -> (model, options, (Recall@10, NDCG@10), how far a repetition may lie from them).
MEASURED: dict[str, tuple[str, str, Figures, Figures]] = {
    "ml-1m": (
        "BERT4Rec, recipe default",
        "examples/04_reproduce.py ml-1m",
        (0.3298, 0.1909),
        (0.012, 0.0082),
    ),
    "ml-100k": (
        "BERT4Rec, recipe small",
        "examples/04_reproduce.py ml-100k",
        (0.2110, 0.1092),
        (0.025, 0.0150),
    ),
    "beauty": (
        "BERT4Rec, recipe sparse, with a teacher",
        "examples/04_reproduce.py beauty",
        (0.0646, 0.0377),
        (0.0023, 0.0016),
    ),
    "s3rec-beauty": (
        "BERT4Rec, recipe sparse",
        "examples/04_reproduce.py s3rec-beauty",
        (0.0979, 0.0584),
        (0.0039, 0.0026),
    ),
    "s3rec-toys": (
        "BERT4Rec, recipe sparse",
        "examples/04_reproduce.py s3rec-toys",
        (0.1062, 0.0644),
        (0.0045, 0.0028),
    ),
    "generated": ("BERT4Rec, recipe default", "hf-bert4rec demo", (0.605, 0.345), (0.009, 0.006)),
}
# Counts rank given events in one way, so that these are exact; where negatives are drawn another numbering of the users
# draws others, so that they are as exact as the draws: data set -> protocol -> scorer -> (Recall@10, NDCG@10, MRR).
BASELINES: dict[str, Table] = {
    "ml-1m": {
        "full-catalogue": {"popularity": (0.0369, 0.0180, 0.0199), "markov": (0.2144, 0.1259, 0.1097)},
        "unfiltered": {"popularity": (0.0162, 0.0079, 0.0119), "markov": (0.1887, 0.1073, 0.0931)},
        "popularity-100": {"popularity": (0.1379, 0.0625, 0.0626), "markov": (0.4811, 0.3207, 0.2863)},
        "uniform-100": {"popularity": (0.4373, 0.2402, 0.2027), "markov": (0.6440, 0.4597, 0.4157)},
    },
    "ml-100k": {
        "full-catalogue": {"popularity": (0.0870, 0.0445, 0.0409), "markov": (0.1453, 0.0762, 0.0681)},
        "unfiltered": {"popularity": (0.0498, 0.0224, 0.0223), "markov": (0.1113, 0.0558, 0.0507)},
        "popularity-100": {"popularity": (0.1421, 0.0749, 0.0754), "markov": (0.3245, 0.1819, 0.1558)},
        "uniform-100": {"popularity": (0.3669, 0.2044, 0.1794), "markov": (0.4740, 0.2973, 0.2614)},
    },
    "s3rec-beauty": {
        "full-catalogue": {"popularity": (0.0120, 0.0056, 0.0056), "markov": (0.0670, 0.0440, 0.0395)},
    },
    "s3rec-toys": {
        "full-catalogue": {"popularity": (0.0090, 0.0049, 0.0054), "markov": (0.0709, 0.0479, 0.0428)},
    },
    "beauty": {
        "full-catalogue": {"popularity": (0.0078, 0.0035, 0.0035), "markov": (0.0426, 0.0287, 0.0261)},
        "popularity-100": {"popularity": (0.0561, 0.0261, 0.0364), "markov": (0.0981, 0.0696, 0.0788)},
    },
    "generated": {
        "full-catalogue": {"popularity": (0.2213, 0.1123, 0.1023), "markov": (0.4782, 0.2753, 0.2303)},
    },
}
BASELINE_TOLERANCE = 5.1e-5  # the last digit that is written


def _conditions(dataset: str, data: dict[str, Any] | None = None, **facts: Any) -> dict[str, Any]:
    """The data set's published version, with what a row is known to do otherwise; `None` where that is unknown."""
    known = DATASETS[dataset]
    sizes = zip(("num_users", "num_items", "num_events"), known.sizes[0], strict=True) if known.sizes else ()
    whole = {"split": "leave-one-out"} | dict(sizes) | (data or {})
    return {"data": whole, "targets": known.targets} | facts


def _published(dataset: str, protocol: str, table: Table, **facts: Any) -> Iterator[KnownResult]:
    conditions = _conditions(dataset, **facts)
    for source, models in table.items():
        for model, figures in models.items():
            metrics = dict(zip(METRICS, figures, strict=False))
            yield KnownResult(dataset, protocol, model, metrics, source, conditions)


def _paper() -> Iterator[KnownResult]:
    for model, table in PAPER.items():
        for dataset, figures in zip(PAPER_DATASETS, table, strict=True):
            facts: dict[str, Any] = {"negatives_counted": "all events, held-out ones too"}
            if model == "BERT4Rec":
                facts["trained_on"] = "training and validation events"
            yield from _published(dataset, "popularity-100", {"Sun et al. 2019": {model: figures}}, **facts)


def _hstu() -> Iterator[KnownResult]:
    facts: dict[str, Any] = {"trained_on": "training and validation events", "targets": None}
    all_items = {"num_items": 3706, "num_events": None}
    for dataset, models in HSTU.items():
        data = all_items if dataset == "ml-1m" else None
        table = {"Zhai et al. 2024": models}
        yield from _published(dataset, "full-catalogue", table, data=data, tie_order="any (unstable sort)", **facts)
    yield from _published("ml-1m", "full-catalogue", HSTU_STABLE, data=all_items, **facts)
    yield from _published("ml-1m", "full-catalogue", ESASREC, data=all_items, targets=None)


def _popularity_of_all() -> Iterator[KnownResult]:
    for dataset, figures in POPULARITY_OF_ALL.items():
        yield from _published(dataset, "full-catalogue", {COLLECTED: {"popularity": figures}}, trained_on="all events")


def _measured() -> Iterator[KnownResult]:
    for dataset, (model, options, figures, tolerances) in MEASURED.items():
        metrics, tolerance = (dict(zip(METRICS, values, strict=False)) for values in (figures, tolerances))
        conditions = _conditions(dataset, trained_on="training events")
        source = f"this project: {options}"
        yield KnownResult(dataset, "full-catalogue", model, metrics, source, conditions, tolerance)
    for dataset, protocols in BASELINES.items():
        for protocol, scorers in protocols.items():
            for scorer, figures in scorers.items():
                metrics = dict(zip(METRICS, figures, strict=True))
                # two standard errors of a share of one half
                drawn = DATASETS[dataset].sizes[0][0] ** -0.5
                tolerance = dict.fromkeys(metrics, drawn if protocol.endswith("-100") else BASELINE_TOLERANCE)
                conditions = _conditions(dataset, seed=0)
                yield KnownResult(dataset, protocol, scorer, metrics, "this project", conditions, tolerance, scorer)


KNOWN_RESULTS: tuple[KnownResult, ...] = (
    *(row for dataset, table in FULL_CATALOGUE.items() for row in _published(dataset, "full-catalogue", table)),
    *_popularity_of_all(),
    *_hstu(),
    *_paper(),
    *(row for dataset, table in POPULARITY_100.items() for row in _published(dataset, "popularity-100", table)),
    *_measured(),
)
