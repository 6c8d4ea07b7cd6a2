"""
One run: configuration, model, data sets, collator, metrics and the stock `Trainer` put together, and the defaults of it all.

*Source:* the paper's objective (Sun et al., CIKM 2019) with the pre-norm blocks and full softmax of its strongest
reproductions (Klenitskiy & Vasilev 2023; RecTools).

*Differences from the paper:* see `recipes.py`; by default half of the samples are read causally, positions are counted from
the newest event, there is one random window of each history per epoch, and the model is chosen by validation NDCG@10.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import transformers
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments

from .catalogue import tokenizer_of
from .configuration_bert4rec import FIRST_ITEM_TOKEN, Bert4RecConfig
from .cpu_attention import choose_attention
from .data_collator import DataCollatorForCloze
from .distillation import Teacher, TeacherOptions, teacher_of
from .energy import measure_energy
from .evaluation import TrainerRanking
from .fine_tuning import StartModel, StartOptions, noted, start_of
from .interactions import InteractionData, InteractionOptions
from .modeling_bert4rec import Bert4RecForMaskedLM
from .modeling_bert4rec_causal import Bert4RecForCausalLM
from .plots import has_matplotlib, plot_run
from .process_memory import ReturnFreeMemory
from .publishing import open_repository, push_run
from .recipes import AUTO, RECIPES, SMALL_NUM_USERS, SPARSE_EVENTS_PER_ITEM, fine_tuned, recipe_for
from .reporting import check_reporters, stop_reporting
from .rowwise_adam import rowwise_adamw
from .run_arguments import FIXED_ARGUMENTS, check_arguments, check_number, training_arguments
from .run_folder import RUN_FILE, SESSIONS_FILE, begin, check_output, data_of_run, finish, last_checkpoint
from .run_record import RunClock, run_record
from .sequences import EvaluationSequences, TrainingSequences

logger = logging.getLogger(__name__)

# Answered here: a run goes to the Hub when it is whole, where `Trainer` would send its unfinished folder.
HUB_ARGUMENTS = {
    *("push_to_hub", "hub_model_id", "hub_private_repo", "hub_revision", "hub_token"),
    *("hub_strategy", "hub_always_push"),
}
NUM_EVALUATIONS = 40
# Scores that validation holds at once, 256 MiB of them: larger catalogues are ranked for fewer users at a time.
SCORES_AT_ONCE = 2**26


@dataclass
class SequenceOptions:
    """What is hidden, which part of a long history is read, and when a run gives up; see [`DataCollatorForCloze`]."""

    recipe: str = field(
        default=AUTO,
        metadata={
            "help": f"Named set of defaults for model and training: {', '.join(RECIPES)}; {AUTO} is sparse with fewer than "
            f"{SPARSE_EVENTS_PER_ITEM} training events an item, small with fewer than {SMALL_NUM_USERS} users. Options given win."
        },
    )
    mlm_probability: float = field(default=0.2, metadata={"help": "Share of items hidden in each sequence (rho)."})
    last_item_probability: float = field(
        default=0.1, metadata={"help": "Share of samples that hide only the last item."}
    )
    causal_probability: float = field(
        default=0.0,
        metadata={
            "help": "Share of samples that predict every item from those before it; 1 trains the causal sibling (SASRec)."
        },
    )
    mask_replace_prob: float = field(default=1.0, metadata={"help": "Share of hidden items that become [MASK]."})
    random_replace_prob: float = field(
        default=0.0, metadata={"help": "Share of hidden items that become a random item; the rest stays as it is."}
    )
    window: str = field(
        default="random",
        metadata={
            "help": "Which events of a history longer than the model are read: a random window each epoch, or the newest."
        },
    )
    early_stopping_patience: int = field(
        default=10,
        metadata={"help": "Evaluations without a better validation NDCG@10 before training stops; 0: never."},
    )

    def __post_init__(self):
        if self.early_stopping_patience < 0:
            raise ValueError(f"early_stopping_patience is {self.early_stopping_patience}; give 0 or more.")


def option_fields() -> dict[type, dict[str, dataclasses.Field]]:
    """Every option of a run by the dataclass that declares it."""
    hidden = {"vocab_size", "pad_token_id", "mask_token_id", "unk_token_id"}
    hidden |= {"use_cache", "add_cross_attention", "output_dir"}
    model = {name for name in Bert4RecConfig.__annotations__ if name not in hidden}
    declared = {}
    for owner in (
        Bert4RecConfig,
        StartOptions,
        TeacherOptions,
        SequenceOptions,
        InteractionOptions,
        TrainingArguments,
    ):
        names = model if owner is Bert4RecConfig else {f.name for f in dataclasses.fields(owner) if f.init} - hidden
        declared[owner] = {f.name: f for f in dataclasses.fields(owner) if f.name in names}
    return declared


def train(
    data: InteractionData | str | Path | Any, output_dir: str | Path, *, overwrite: bool = False, **options: Any
) -> Path:
    r"""
    Train BERT4Rec on a log and save model, tokenizer and the record of the run in `output_dir`, with a picture of its loss and
    validation, `validation.png`, where matplotlib is installed.

    The run is made in `output_dir + ".partial"`, where a rerun with the same options resumes, and renamed when whole.

    With `model` a trained model is continued: its architecture and its objective are the defaults, and its items become
    those of the log, see [`change_catalogue`].

    Args:
        data ([`InteractionData`], path or log):
            Prepared data, its folder, or a log that [`prepare`] reads; a log is prepared into `output_dir + ".data"`.
        output_dir (`str` or `Path`): Folder of the run; must not exist.
        overwrite (`bool`, *optional*, defaults to `False`): Whether to replace `output_dir`.
        options: Fields of [`Bert4RecConfig`], `TrainingArguments`, [`SequenceOptions`], [`fine_tuning.StartOptions`],
            [`distillation.TeacherOptions`] and, for a log, [`InteractionOptions`].

    Returns:
        `Path`: the folder, which `from_pretrained` loads.

    Raises:
        ValueError: If an option is unknown, has a value that cannot be used or contradicts the model that is continued or
            the teacher, or if the partial run has other options.
        FileExistsError: If `output_dir` exists, or if it is to be replaced and holds what it reads or other folders.
        OSError: If the Hub cannot be reached or refuses; where training is over then, the run is whole.
    """
    output_dir = Path(output_dir)
    options, hub = _without_hub(options, output_dir)
    partial = output_dir.with_name(output_dir.name + ".partial")
    start = start_of(options)
    chosen = sorted_options(options, start)
    teacher = teacher_of(chosen[TeacherOptions])
    check_output(output_dir, overwrite, (data, options.get("new_items"), options.get("teacher")))
    arguments = training_arguments(chosen[TrainingArguments], partial)
    check_arguments(arguments), check_reporters(arguments)
    config, _ = config_of(chosen, 1), collator_of(chosen, 1)  # a wrong value is refused before a log is prepared
    if teacher is not None:
        teacher.check_student(config)
    if hub and arguments.process_index == 0:
        open_repository(**hub)  # and so is a token
    with arguments.main_process_first():
        is_first = arguments.local_process_index == 0
        data = data_of_run(data, output_dir, chosen[InteractionOptions], overwrite=overwrite, is_first=is_first)
    if chosen[SequenceOptions].get("recipe", AUTO) == AUTO:
        chosen = sorted_options(options | {"recipe": recipe_for(data)}, start)
        arguments = training_arguments(chosen[TrainingArguments], partial)
    run, recorded = _Run(data, chosen, arguments, start, teacher), noted(options)
    with arguments.main_process_first():
        begin(partial, recorded | ({} if teacher is None else {"teacher": str(teacher)}), data, overwrite)
    run.train(partial)
    if arguments.process_index == 0:
        run.save(partial, recorded)
        finish(partial, output_dir)
        if hub:
            _push(output_dir, hub)
    run.trainer.accelerator.wait_for_everyone()
    return output_dir


def _without_hub(options: dict[str, Any], output_dir: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options without those of the Hub, and the repository to push to: nothing where none was asked for."""
    given = {name: value for name, value in options.items() if name in HUB_ARGUMENTS}
    if given.get("hub_strategy", "end") != "end" or given.get("hub_always_push"):
        name = "hub_always_push" if given.get("hub_always_push") else "hub_strategy"
        raise ValueError(f"{name} is {given[name]!r}, but a run is pushed when it is whole; leave it out.")
    hub = {
        "repo_id": given.get("hub_model_id") or output_dir.name,
        "private": given.get("hub_private_repo"),
        "revision": given.get("hub_revision"),
        "token": given.get("hub_token"),
    }
    rest = {name: value for name, value in options.items() if name not in given}
    return rest, hub if given.get("push_to_hub") else {}


def _push(output_dir: Path, hub: dict[str, Any]):
    try:
        push_run(output_dir, **hub)
    except (OSError, ValueError) as error:
        again = f"hf-bert4rec push {output_dir} {hub['repo_id']}"
        raise OSError(f"The run is whole in {output_dir}; {again} repeats what failed: {error}") from error


def sorted_options(options: dict[str, Any], start: StartModel | None = None) -> dict[type, dict[str, Any]]:
    """Options by the dataclass that declares them."""
    recipe = options.get("recipe", AUTO)
    if recipe not in (AUTO, *RECIPES):
        raise ValueError(f"There is no recipe {recipe!r}; choose one of {', '.join((AUTO, *RECIPES))}.")
    declared, own = option_fields(), {}
    if start is not None:
        start.check(options)
        own = start.options(declared[Bert4RecConfig], with_recipe=recipe == AUTO)
        recipe = own.get("recipe", recipe)
    defaults = RECIPES["default" if recipe == AUTO else recipe]
    options = (defaults if start is None else fine_tuned(defaults)) | own | options
    chosen: dict[type, dict[str, Any]] = {owner: {} for owner in declared}
    for name, value in options.items():
        owner = next((owner for owner, fields in declared.items() if name in fields), None)
        if owner is None:
            known = [known for fields in declared.values() for known in fields]
            close = difflib.get_close_matches(name, known, n=1)
            raise ValueError(f"There is no option {name!r}{f'; did you mean {close[0]!r}?' if close else '.'}")
        check_number(declared[owner][name], value)
        chosen[owner][name] = value
    for name, value in FIXED_ARGUMENTS.items():
        if chosen[TrainingArguments].get(name, value) != value:
            found = chosen[TrainingArguments][name]
            raise ValueError(f"{name} is {found!r}, but order, metrics or weights need {value!r}; leave it out.")
    return chosen


def config_of(chosen: dict[type, dict[str, Any]], num_items: int) -> Bert4RecConfig:
    """The model's configuration, which reads as its training says unless an option does."""
    causal_probability = SequenceOptions(**chosen[SequenceOptions]).causal_probability
    reading = "masked" if causal_probability == 0 else "causal" if causal_probability == 1 else "both"
    values = {"reading": reading} | chosen[Bert4RecConfig]
    return Bert4RecConfig(vocab_size=num_items + FIRST_ITEM_TOKEN, **values)


def collator_of(chosen: dict[type, dict[str, Any]], num_items: int, seed: int = 0) -> DataCollatorForCloze:
    """The masks of a run."""
    options, config = SequenceOptions(**chosen[SequenceOptions]), config_of(chosen, num_items)
    return DataCollatorForCloze(
        mlm_probability=options.mlm_probability,
        last_item_probability=options.last_item_probability,
        causal_probability=options.causal_probability,
        mask_replace_prob=options.mask_replace_prob,
        random_replace_prob=options.random_replace_prob,
        max_length=config.max_position_embeddings,
        vocab_size=config.vocab_size,
        seed=seed,
    )


class _Run:
    """The parts of one run."""

    def __init__(
        self,
        data: InteractionData,
        chosen: dict[type, dict[str, Any]],
        arguments: TrainingArguments,
        start: StartModel | None,
        teacher: Teacher | None,
    ):
        self.data, self.arguments, self.start, self.teacher = data, arguments, start, teacher
        self.options = SequenceOptions(**chosen[SequenceOptions])
        self.config = config_of(chosen, data.num_items)
        if teacher is not None:
            teacher.check_training(data, self.options.causal_probability)
            if arguments.n_gpu > 1:
                raise ValueError(
                    f"A teacher needs a process for each of the {arguments.n_gpu} GPUs; start with torchrun."
                )
        # A model of both objectives is read as validation says, unless the user says how.
        self.chooses_reading = self.config.reading == "both" and "reading" not in chosen[Bert4RecConfig]
        self.readings: dict[str, float] = {}
        self.collator = collator_of(chosen, data.num_items, arguments.seed)
        rows_at_once = arguments.train_batch_size * arguments.world_size
        self.rows_per_step = rows_at_once * arguments.gradient_accumulation_steps
        self.sequences = TrainingSequences(
            data,
            max_length=self.config.max_position_embeddings,
            window=self.options.window,
            length_multiple=rows_at_once if arguments.world_size > 1 else 1,
            seed=arguments.seed,
        )
        self.has_validation = bool((data.validation_target >= 0).any())
        self._plan(chosen[TrainingArguments])

    def _plan(self, given: dict[str, Any]):
        """Evaluate, log and save about `NUM_EVALUATIONS` times, at most once an epoch; keep the best."""
        arguments = self.arguments
        if "per_device_eval_batch_size" not in given:
            users_at_once = max(1, SCORES_AT_ONCE // self.config.vocab_size)
            arguments.per_device_eval_batch_size = min(arguments.per_device_eval_batch_size, users_at_once)
        steps_per_epoch = -(-len(self.sequences) // self.rows_per_step)
        total = arguments.max_steps if arguments.max_steps > 0 else steps_per_epoch * arguments.num_train_epochs
        every = max(steps_per_epoch, int(total) // NUM_EVALUATIONS)
        if not self.has_validation:
            logger.warning("No user has three events, so there is nothing to validate on: the last weights are kept.")
            arguments.eval_strategy = transformers.IntervalStrategy.NO
        elif "eval_strategy" not in given:
            arguments.eval_strategy = transformers.IntervalStrategy.STEPS
            arguments.eval_steps = given.get("eval_steps", every)
        evaluates = arguments.eval_strategy != transformers.IntervalStrategy.NO
        if "save_strategy" not in given:
            arguments.save_strategy = transformers.trainer_utils.SaveStrategy(
                arguments.eval_strategy.value if evaluates else "steps"
            )
            arguments.save_steps = given.get("save_steps", arguments.eval_steps if evaluates else every)
        if "logging_strategy" not in given and "logging_steps" not in given:
            arguments.logging_steps = every
        if "load_best_model_at_end" not in given:
            arguments.load_best_model_at_end = evaluates

    def _trainer(self, model: Bert4RecForMaskedLM) -> Trainer:
        ranking = TrainerRanking()
        options = self.options
        callbacks: list[TrainerCallback] = [self.clock]
        if options.early_stopping_patience > 0 and self.arguments.load_best_model_at_end:
            callbacks.append(EarlyStoppingCallback(options.early_stopping_patience))
        if self.arguments.device.type == "cpu":
            callbacks.append(ReturnFreeMemory())
        return Trainer(
            model=model,
            args=self.arguments,
            data_collator=self.collator,
            train_dataset=self.sequences,
            eval_dataset=self._validation() if self.has_validation else None,
            compute_metrics=ranking.compute_metrics,
            preprocess_logits_for_metrics=ranking.preprocess_logits_for_metrics,
            optimizer_cls_and_kwargs=rowwise_adamw(model, self.arguments),
            callbacks=callbacks,
        )

    def _validation(self) -> EvaluationSequences:
        return EvaluationSequences(self.data, split="validation")

    def train(self, partial: Path):
        """Train to the end, from the newest checkpoint where there is one."""
        with self.arguments.main_process_first():
            checkpoint = last_checkpoint(partial)
            self.clock = RunClock(partial / SESSIONS_FILE)
        transformers.set_seed(self.arguments.seed)
        is_causal = self.options.causal_probability == 1
        model = Bert4RecForCausalLM(self.config) if is_causal else Bert4RecForMaskedLM(self.config)
        if self.start is not None:
            self.start.continue_as(model, self.data)
        choose_attention(model, self.arguments)
        if self.teacher is not None:
            self.teacher.teach(model)
        self.trainer = self._trainer(model)
        self.clock.meter = measure_energy(self.trainer)
        self.trainer.train(resume_from_checkpoint=checkpoint)
        if self.chooses_reading and self.has_validation:
            self._choose_reading()

    def _choose_reading(self):
        """Rank the validation targets by each reading of the trained weights and keep the best one."""
        self.trainer.remove_callback(EarlyStoppingCallback)  # it warns of metrics that it does not know
        stop_reporting(self.trainer)
        metric = str(self.arguments.metric_for_best_model).removeprefix("eval_")
        for reading in ("both", "causal", "masked"):
            self.trainer.model.config.reading = reading
            found = self.trainer.evaluate(metric_key_prefix=reading)
            self.readings[reading] = found[f"{reading}_{metric}"]
        best = max if self.arguments.greater_is_better else min
        self.trainer.model.config.reading = best(self.readings, key=self.readings.__getitem__)

    def save(self, partial: Path, options: dict[str, Any]):
        """Model, tokenizer, the record of the run and, where matplotlib is installed, its curves."""
        model = self.trainer.accelerator.unwrap_model(self.trainer.model)
        model.save_pretrained(partial)
        record = run_record(self.trainer, self.data, options, self.options, self.clock)
        record["readings"] = self.readings
        if self.start is not None:
            record["start"] = self.start.facts
        if self.teacher is not None:
            record["teacher"] = self.teacher.facts
        (partial / RUN_FILE).write_text(json.dumps(record, indent=2, default=str))
        # The vocabulary of ten million items takes gigabytes, and so does the optimiser: one after the other.
        self.trainer.optimizer = self.trainer.lr_scheduler = None
        self.trainer.accelerator.free_memory()
        known = None if self.start is None else self.start.tokenizer
        tokenizer_of(self.data, known).save_pretrained(partial)
        if has_matplotlib():
            plot_run(record["log_history"], record["best_step"], partial)
