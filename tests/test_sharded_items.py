"""
Two processes that hold half of the items each, against one that holds all. This file is also what the two processes run.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from transformers import Trainer, TrainingArguments
from transformers.distributed import DistributedConfig

from hf_bert4rec import (
    Bert4RecConfig,
    Bert4RecForCausalLM,
    Bert4RecForMaskedLM,
    DataCollatorForCloze,
    EvaluationSequences,
    TrainingSequences,
    compare,
    load_data,
    losses,
    prepare,
)
from hf_bert4rec.cpu_parallelism import CpuParallelismConfig
from hf_bert4rec.evaluation import TrainerRanking
from hf_bert4rec.ranking import rank_targets, top_k_items
from hf_bert4rec.rowwise_adam import rowwise_adamw
from hf_bert4rec.scoring import ModelScorer
from hf_bert4rec.sharded_items import is_sharded, sharded_rows

ROOT = Path(__file__).resolve().parent.parent
SIZES = {"hidden_size": 16, "intermediate_size": 32, "max_position_embeddings": 12, "hidden_dropout_prob": 0.1}
NUM_ITEMS = 34
VOCAB_SIZE = NUM_ITEMS + 3  # odd: 19 rows in the first process, 18 in the second
ITEMS = "bert4rec.embeddings.word_embeddings.weight"
BIAS = "cls.predictions.bias"
CASES = {
    "masked": {},
    "causal": {"norm_position": "pre"},
    "both": {"reading": "both", "embedding_layer_norm": False, "scale_embedding": True},
    "untied": {"tie_word_embeddings": False},
    "gbce": {"training_loss": "gbce", "num_negatives": 20},
    "sampled_softmax": {"training_loss": "sampled_softmax", "num_negatives": 5, "share_negatives": False},
}
TRAINING = {
    "num_train_epochs": 2,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 2,
    "per_device_eval_batch_size": 16,  # does not divide the 39 users
    "learning_rate": 0.01,
    "train_sampling_strategy": "sequential",
    "remove_unused_columns": False,
    "batch_eval_metrics": True,
    "label_names": ["labels", "seen_items"],
    "eval_strategy": "epoch",
    "logging_steps": 1,
    "save_strategy": "epoch",
    "save_only_model": True,
    "save_total_limit": 1,
    "use_cpu": True,
    "disable_tqdm": True,
}


def model_class(case):
    return Bert4RecForCausalLM if case == "causal" else Bert4RecForMaskedLM


def batch(case):
    """Histories padded on the left; the first and the last item of either half stand in them."""
    generator = torch.Generator().manual_seed(1)
    input_ids = torch.randint(3, VOCAB_SIZE, (6, 10), generator=generator)
    input_ids[:, 6:] = torch.tensor([18, 19, 36, 3])
    input_ids[:2, :4] = 0
    inputs = {"input_ids": input_ids, "attention_mask": input_ids.ne(0).long()}
    inputs["labels"] = input_ids.masked_fill(input_ids.eq(0), -100)
    if case != "causal":
        is_hidden = torch.rand(input_ids.shape, generator=generator) < 0.5
        inputs["labels"] = inputs["labels"].masked_fill(~is_hidden, -100)
        inputs["input_ids"] = torch.where(is_hidden & input_ids.ne(0), 1, input_ids)
    if case == "both":
        inputs["input_ids"] = torch.where(torch.arange(6)[:, None] < 3, inputs["input_ids"], input_ids)
        inputs["causal_rows"] = torch.arange(6) >= 3
    return inputs


def train_six_steps(model, case):
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    found = []
    model.train()
    for seed in (0, 1, 2, 3, 4, 0):  # the last step draws what the first drew, so that their losses can be compared
        torch.manual_seed(seed)
        optimizer.zero_grad()
        loss = model(**batch(case)).loss
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found, optimizer


def answers(model):
    """Logits, loss, ranks, and the best items of a model that is not training."""
    model.eval()
    inputs = batch("masked")
    with torch.no_grad():
        outputs = model(**inputs)
    score_items = ModelScorer(model)(None, [np.array([5, 9]), np.array([20, 36, 3]), np.array([18])])
    ranks = rank_targets(score_items, torch.tensor([3, 19, 36]), vocab_size=VOCAB_SIZE, slice_size=5)
    tokens, scores = top_k_items(score_items, NUM_ITEMS, vocab_size=VOCAB_SIZE, slice_size=20)
    graded = model(inputs["input_ids"], inputs["attention_mask"]).logits  # with gradients another kernel runs
    return {
        "logits": outputs.logits.tolist(),
        "graded": graded.tolist(),
        "loss": outputs.loss.item(),
        "ranks": ranks.tolist(),
        "tokens": tokens.tolist(),
        "scores": scores.tolist(),
    }


def train_with_trainer(model, data, output_dir, parallelism=None):
    """The losses, the metrics during training, and the batches that this process has read."""
    batches = []

    def collate(features):
        batches.append([int(feature["row"]) for feature in features])
        return collator(features)

    collator = DataCollatorForCloze(max_length=12, vocab_size=VOCAB_SIZE, causal_probability=0.5)
    ranking = TrainerRanking(model)
    trainer = Trainer(
        model,
        TrainingArguments(str(output_dir), parallelism_config=parallelism, **TRAINING),
        data_collator=collate,
        train_dataset=TrainingSequences(data, max_length=12),
        eval_dataset=EvaluationSequences(data, split="validation"),
        compute_metrics=ranking.compute_metrics,
        preprocess_logits_for_metrics=ranking.preprocess_logits_for_metrics,
    )
    trainer.train()
    history = trainer.state.log_history
    return {
        "losses": [entry["loss"] for entry in history if "loss" in entry],
        "norms": [entry["grad_norm"] for entry in history if "grad_norm" in entry],
        "ndcg": [entry["eval_ndcg@10"] for entry in history if "eval_ndcg@10" in entry],
        "batches": batches,
    }


def load_sharded(folder, case):
    return model_class(case).from_pretrained(folder, distributed_config=DistributedConfig(tp_size=2))


def run_one_of_two(folder):
    """What each of the two processes does; the parent reads what it leaves in `folder`."""
    losses.ROWS_PER_CHUNK = 7  # the labels of a batch take several chunks
    record = {}
    for case in CASES:
        model = load_sharded(folder / case / "start", case)
        found, optimizer = train_six_steps(model, case)
        parameters = dict(model.named_parameters())
        record[case] = {
            "losses": found,
            "sharded": {n: list(p.to_local().shape) for n, p in parameters.items() if is_sharded(p)},
            "gradients": {n: list(p.grad.to_local().shape) for n, p in parameters.items() if is_sharded(p)},
            "states": {
                n: [list(optimizer.state[p][key].to_local().shape) for key in ("exp_avg", "exp_avg_sq")]
                for n, p in parameters.items()
                if is_sharded(p)
            },
            "checksum": sum(p.double().sum().item() for p in parameters.values() if not is_sharded(p)),
            "is_tied": model.get_output_embeddings().weight is model.get_input_embeddings().weight,
        }
        model.save_pretrained(folder / case / "two")
        record[case] |= answers(model)
    with pytest.raises(ValueError, match=r"sharded over processes.*leave optimizer_cls_and_kwargs out"):
        rowwise_adamw(load_sharded(folder / "gbce" / "start", "gbce"), TrainingArguments(use_cpu=True))
    model = load_sharded(folder / "masked" / "start", "masked")
    data = load_data(folder / "data")
    record["trainer"] = train_with_trainer(model, data, folder / "trainer", CpuParallelismConfig(tp_size=2))
    record["compared"] = compare(model, data)["model"]["ndcg@10"]
    model.save_pretrained(folder / "trained")
    (folder / f"record-{os.environ['RANK']}.json").write_text(json.dumps(record))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where both processes have left their records and checkpoints."""
    folder = tmp_path_factory.mktemp("sharded")
    random = np.random.default_rng(0)
    rows = [(user, (7 * user + time * time) % NUM_ITEMS, time) for user in range(39) for time in range(3 + user % 17)]
    rows += [(user, item, 100 + random.random()) for user, item in enumerate(range(NUM_ITEMS))]
    log = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])
    data = prepare(log, folder / "data", min_user_events=1, min_item_events=1)
    assert (data.num_users, data.num_items) == (39, NUM_ITEMS)
    for case, options in CASES.items():
        torch.manual_seed(0)
        model = model_class(case)(Bert4RecConfig(vocab_size=VOCAB_SIZE, initializer_range=0.2, **SIZES, **options))
        torch.nn.init.normal_(model.get_output_embeddings().bias)
        model.save_pretrained(folder / case / "start")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [*launcher, __file__, str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-9000:]
    return folder


@pytest.fixture(scope="module")
def records(folder):
    return [json.loads((folder / f"record-{rank}.json").read_text()) for rank in (0, 1)]


def largest_difference(state, folder):
    saved = load_file(folder / "model.safetensors")
    # what is tied is saved once
    assert saved.keys() == load_file(folder.parent / "start" / "model.safetensors").keys()
    return max((state[name] - saved[name]).abs().max().item() for name in saved)


@pytest.mark.parametrize("case", CASES)
def test_two_halves_train_like_the_whole(folder, records, case):
    model = model_class(case).from_pretrained(folder / case / "start")
    found, _ = train_six_steps(model, case)
    assert found[0] - found[-1] > 0.1, "the loss must fall for this test to say something"
    for record in records:
        assert record[case]["losses"] == pytest.approx(found, abs=1e-5)
    assert records[0][case]["checksum"] == records[1][case]["checksum"]
    assert largest_difference(model.state_dict(), folder / case / "two") < 2e-5


@pytest.mark.parametrize("case", CASES)
def test_each_process_holds_half_of_rows_gradients_and_optimiser_state(records, case):
    for record, num_rows in zip(records, (19, 18), strict=True):
        shapes = {ITEMS: [num_rows, 16], BIAS: [num_rows]}
        if case == "untied":
            shapes = {ITEMS: [num_rows, 16]}
            shapes |= {"cls.predictions.decoder.weight": [num_rows, 16], "cls.predictions.decoder.bias": [num_rows]}
        assert record[case]["sharded"] == record[case]["gradients"] == shapes
        assert record[case]["states"] == {name: [shape, shape] for name, shape in shapes.items()}
        assert record[case]["is_tied"] == (case != "untied")


@pytest.mark.parametrize("case", CASES)
def test_the_checkpoint_of_two_is_whole_and_answers_in_one_process_as_it_did_in_two(folder, records, case):
    expected = answers(model_class(case).from_pretrained(folder / case / "two"))
    config, before = (json.loads((folder / case / name / "config.json").read_text()) for name in ("two", "start"))
    assert config == before
    for record in records:
        assert {name: record[case][name] for name in ("ranks", "tokens")} == {
            name: expected[name] for name in ("ranks", "tokens")
        }
        for name in ("logits", "graded", "scores", "loss"):
            torch.testing.assert_close(
                torch.tensor(record[case][name]), torch.tensor(expected[name]), atol=1e-5, rtol=0
            )


def test_the_stock_trainer_gives_both_the_same_batches_and_ends_where_one_process_does(folder, records, tmp_path):
    model = Bert4RecForMaskedLM.from_pretrained(folder / "masked" / "start")
    data = load_data(folder / "data")
    expected = train_with_trainer(model, data, tmp_path)
    for record in records:
        for name in ("losses", "norms", "ndcg"):
            assert record["trainer"][name] == pytest.approx(expected[name], abs=1e-4), name
        assert record["trainer"]["batches"] == expected["batches"]
        assert record["compared"] == pytest.approx(compare(model, data)["model"]["ndcg@10"], abs=1e-9)
    for saved in (folder / "trained", next((folder / "trainer").glob("checkpoint-*"))):
        found = load_file(saved / "model.safetensors")
        assert max((model.state_dict()[name] - found[name]).abs().max().item() for name in found) < 1e-4


def test_a_sharded_embedding_beside_a_whole_tensor_is_refused():
    with pytest.raises(TypeError, match="Found a Tensor beside a sharded item embedding; shard both or neither"):
        sharded_rows(torch.zeros(3, 2), torch.tensor([1]))


if __name__ == "__main__":
    run_one_of_two(Path(sys.argv[1]))
