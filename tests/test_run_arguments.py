"""What a run cannot go through with is said in one line before anything is written."""

import re
import subprocess
import sys
from importlib.util import find_spec

import pytest

from hf_bert4rec import prepare, train
from hf_bert4rec.cli import main


@pytest.fixture
def data(interaction_log, tmp_path):
    return prepare(interaction_log, tmp_path / "data")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--per_device_train_batch_size=0", "per_device_train_batch_size is 0; give at least 1."),
        ("--per_device_eval_batch_size=0", "per_device_eval_batch_size is 0; give at least 1."),
        ("--gradient_accumulation_steps=0", "gradient_accumulation_steps is 0; give at least 1."),
        ("--eval_steps=0", "eval_steps is 0; give a number above 0, or leave it out."),
        ("--learning_rate=-1", "learning_rate is -1; give a number of at least 0."),
        ("--learning_rate=nan", "learning_rate is nan; give a number of at least 0."),
        ("--dataloader_num_workers=-1", "dataloader_num_workers is -1; give a number of at least 0."),
        ("--adam_beta1=1", "adam_beta1 is 1; give a number from 0 up to, not including, 1."),
        ("--seed=-1", "seed is -1; give a number from 0 to 4294967295."),
        ("--seed=4294967296", "seed is 4294967296; give a number from 0 to 4294967295."),
        ("--num_train_epochs=-3", "num_train_epochs is -3; give a number above 0."),
        ("--metric_for_best_model=ndcg@7", "metric_for_best_model is 'ndcg@7'; choose one of loss, recall@1, "),
        ("--label_smoothing_factor=0.1", "label_smoothing_factor is 0.1, but order, metrics or weights need 0.0"),
        (
            "--resume_from_checkpoint=elsewhere",
            "resume_from_checkpoint is 'elsewhere', but order, metrics or weights need",
        ),
        ("--early_stopping_patience=-1", "early_stopping_patience is -1; give 0 or more."),
        ("--neftune_noise_alpha=5", "neftune_noise_alpha is 5, but order, metrics or weights need None"),
        ("--dataloader_drop_last=true", "dataloader_drop_last is True, but order, metrics or weights need False"),
        (
            '--accelerator_config={"even_batch": true}',
            "accelerator_config has even_batch; it can have split_batches, ",
        ),
        ("--parallelism_config=dp", "parallelism_config is 'dp', not an accelerate.ParallelismConfig; give one in"),
    ],
)
def test_an_argument_that_no_run_can_go_through_with_is_refused(data, tmp_path, capsys, option, message):
    assert main(["train", str(data.folder), "--output_dir", str(tmp_path / "run"), option]) == 2
    found = capsys.readouterr().err
    assert found.startswith(f"hf-bert4rec train: {message}")
    assert found.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize(
    ("option", "package"),
    [
        ("--optim=adamw_bnb_8bit", "bitsandbytes"),
        ("--report_to=wandb", "wandb"),
        ("--optim=apollo_adamw", "apollo_torch"),
    ],
)
def test_a_package_that_an_option_needs_is_named_in_one_line(data, tmp_path, capsys, option, package):
    if find_spec(package) is not None:
        pytest.skip(f"{package} is installed")
    arguments = ["train", str(data.folder), "--output_dir", str(tmp_path / "run"), option]
    assert main(arguments) == 2
    found = capsys.readouterr().err.splitlines()[-1]
    assert found.startswith("hf-bert4rec train: ")
    assert package in found
    assert "pip install" in found


WITH_FRACTIONS = {"learning_rate", "eval_steps", "num_train_epochs", "mlm_probability", "hidden_dropout_prob"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", "abc"),
        ("eval_steps", "x"),
        ("num_train_epochs", None),
        ("mlm_probability", "a"),
        ("hidden_dropout_prob", None),
        ("seed", "x"),
        ("seed", 1.5),
        ("hidden_size", "x"),
        ("save_total_limit", "x"),
        ("max_steps", True),
        ("per_device_train_batch_size", [128]),
        ("early_stopping_patience", float("nan")),
    ],
)
def test_what_is_no_number_where_one_is_needed_is_refused_by_name(data, tmp_path, name, value):
    kind = "whole number" if name not in WITH_FRACTIONS else "number"
    with pytest.raises(ValueError, match=rf"^{name} is {re.escape(repr(value))}; give a {kind}\.$"):
        train(data, tmp_path / "run", **{name: value})
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


LEAVES = """
import torch
import hf_bert4rec
group = torch.distributed
group.init_process_group("gloo", rank=0, world_size=1, store=group.HashStore())
leave = group.destroy_process_group
group.destroy_process_group = lambda: (leave(), print("left"))
"""


def test_a_process_leaves_its_group_before_it_ends():
    done = subprocess.run([sys.executable, "-c", LEAVES], capture_output=True, text=True, check=True)
    assert done.stdout == "left\n"
