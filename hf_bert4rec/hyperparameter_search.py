"""
Many runs to find the options of one: what `Trainer.hyperparameter_search` needs to search among the options of [`train`].

*Source:* `transformers.Trainer.hyperparameter_search`.

*Differences:* a trial counts by the best of its evaluations, as `train` keeps the best weights; Transformers takes the last.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import transformers
from transformers import PrinterCallback, Trainer, TrainingArguments

from .cpu_attention import choose_attention
from .distillation import TeacherOptions
from .evaluation import TrainerRanking
from .fine_tuning import StartOptions
from .interactions import InteractionData, InteractionOptions
from .modeling_bert4rec import Bert4RecForMaskedLM
from .modeling_bert4rec_causal import Bert4RecForCausalLM
from .process_memory import ReturnFreeMemory
from .recipes import AUTO, RECIPES, recipe_for
from .run_arguments import training_arguments
from .sequences import EvaluationSequences, TrainingSequences
from .training import (
    HUB_ARGUMENTS,
    SCORES_AT_ONCE,
    SequenceOptions,
    collator_of,
    config_of,
    option_fields,
    sorted_options,
)

# A trial starts anew from prepared data with the whole softmax, is ranked after each epoch, ends early only when pruned,
# and leaves nothing behind.
SETTLED = {
    "training_loss": "softmax",
    "eval_strategy": "epoch",
    "early_stopping_patience": 0,
    "save_strategy": "no",
    "load_best_model_at_end": False,
}
ELSEWHERE = {name for owner in (StartOptions, TeacherOptions, InteractionOptions) for name in option_fields()[owner]}
ELSEWHERE |= HUB_ARGUMENTS
# The data set is made once for all trials; a median over trials is one at the same step.
SHARED = {"recipe", "seed", "window", "max_position_embeddings", "num_train_epochs", "max_steps"}
SHARED |= {"per_device_train_batch_size", "gradient_accumulation_steps"}


def trials_trainer(
    data: InteractionData, output_dir: str | Path, tried: Callable[[Any], Mapping[str, Any]], **options: Any
) -> tuple[Trainer, dict[str, Any]]:
    r"""
    The stock `Trainer`, made so that each trial of its `hyperparameter_search` trains what [`train`] trains with the same
    options. It ranks the validation targets after each epoch, never looks at those of the test, saves and prints nothing.

    With `eval_strategy="epoch"` and `early_stopping_patience=0` beside the trial's options `train` repeats it to the digit.

    Args:
        data ([`InteractionData`]): Prepared data.
        output_dir (`str` or `Path`): What `TrainingArguments` asks for.
        tried (callable):
            From a trial, which suggests their values, to options of [`train`] by name; called more than once for a trial.
        options: Options of [`train`] for all trials.

    Returns:
        `tuple`: the `Trainer`, and arguments of its `hyperparameter_search`: `hp_space`, `compute_objective` (the best
        validation NDCG@10 so far, or whatever `metric_for_best_model` names) and `direction`.

    Raises:
        ValueError: If an option is unknown or one that trials cannot follow, if one is tried that all trials share, or if there
            are several processes.

    Example:
        >>> import tempfile
        >>> import pandas as pd
        >>> from hf_bert4rec import prepare
        >>> rows = [(user, (user + step) % 9, step) for user in range(9) for step in range(6)]
        >>> log = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     data = prepare(log, folder + "/data")
        ...     trainer, search = trials_trainer(
        ...         data, folder, lambda trial: {"hidden_size": trial.suggest_categorical("hidden_size", [32, 64])}
        ...     )
        >>> sorted(search), type(trainer).__name__
        (['compute_objective', 'direction', 'hp_space'], 'Trainer')
    """
    trials, ranking = _Trials(data, output_dir, tried, options), TrainerRanking()
    arguments = trials.arguments
    trainer = Trainer(
        model_init=trials.model_init,
        args=arguments,
        data_collator=trials.collator,
        train_dataset=trials.sequences(),
        eval_dataset=EvaluationSequences(data, split="validation"),
        compute_metrics=ranking.compute_metrics,
        preprocess_logits_for_metrics=ranking.preprocess_logits_for_metrics,
    )
    trainer.remove_callback(PrinterCallback)  # Optuna tells how a trial ended
    if arguments.device.type == "cpu":
        trainer.add_callback(ReturnFreeMemory())
    metric = f"eval_{str(arguments.metric_for_best_model).removeprefix('eval_')}"
    best = max if arguments.greater_is_better else min
    search = {
        "hp_space": trials.hp_space,
        "compute_objective": lambda _: best(entry[metric] for entry in trainer.state.log_history if metric in entry),
        "direction": "maximize" if arguments.greater_is_better else "minimize",
    }
    return trainer, search


def default_parameters(data: InteractionData, tried: Callable[[Any], Mapping[str, Any]]) -> dict[str, Any]:
    r"""
    What trials suggest, with the values that [`train`] takes when it is told nothing: where an Optuna study may begin.

    Args:
        data ([`InteractionData`]): Prepared data; they choose the recipe.
        tried (callable): That of [`trials_trainer`]; it suggests parameters by the names of options.

    Returns:
        `dict`: for `Study.enqueue_trial`; without parameters whose usual value lies outside of what is searched.
    """
    defaults = {name: field.default for fields in option_fields().values() for name, field in fields.items()}
    trial = _DefaultTrial(defaults | RECIPES[recipe_for(data)])
    tried(trial)
    return trial.params


class _DefaultTrial:
    """Suggests the default where it is among the choices, and notes it."""

    def __init__(self, defaults: Mapping[str, Any]):
        self.defaults, self.params = defaults, dict[str, Any]()

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._suggested(name, self.defaults.get(name) in choices, choices[0])

    def suggest_float(self, name: str, low: float, high: float, **_: Any) -> Any:
        value = self.defaults.get(name)
        return self._suggested(name, isinstance(value, int | float) and low <= value <= high, low)

    suggest_int = suggest_float

    def _suggested(self, name: str, is_searched: bool, otherwise: Any) -> Any:
        if is_searched:
            self.params[name] = self.defaults[name]
        return self.params.get(name, otherwise)


class _Trials:
    """The parts of a `Trainer` that a trial changes, and the data set, which it does not."""

    def __init__(
        self,
        data: InteractionData,
        output_dir: str | Path,
        tried: Callable[[Any], Mapping[str, Any]],
        options: dict[str, Any],
    ):
        for name in options:
            if name in ELSEWHERE or options[name] != SETTLED.get(name, options[name]):
                raise ValueError(f"{name} is {options[name]!r}, which trials cannot do; leave it out.")
        self.data, self.tried = data, tried
        self.options: dict[str, Any] = {"disable_tqdm": True, **options, **SETTLED}
        if self.options.get("recipe", AUTO) == AUTO:
            self.options["recipe"] = recipe_for(data)
        self.shared = sorted_options(self.options)
        self.config = config_of(self.shared, data.num_items)
        self.arguments = training_arguments(self.shared[TrainingArguments], Path(output_dir))
        if self.arguments.world_size > 1:
            found = self.arguments.world_size
            raise ValueError(f"There are {found} processes, but trials are trained in one; start one.")
        if "per_device_eval_batch_size" not in options:
            users_at_once = max(1, SCORES_AT_ONCE // self.config.vocab_size)
            self.arguments.per_device_eval_batch_size = min(self.arguments.per_device_eval_batch_size, users_at_once)
        self.initial = dict(vars(self.arguments))
        self.collator = collator_of(self.shared, data.num_items, self.arguments.seed)

    def sequences(self) -> TrainingSequences:
        return TrainingSequences(
            self.data,
            max_length=self.config.max_position_embeddings,
            window=SequenceOptions(**self.shared[SequenceOptions]).window,
            seed=self.arguments.seed,
        )

    def _values(self, trial: Any) -> dict[str, Any]:
        values = dict(self.tried(trial))
        for name in values:
            if name in ELSEWHERE | SETTLED.keys() | SHARED:
                raise ValueError(f"{name} is tried, but it cannot differ between trials; give it to all of them.")
        return values

    def hp_space(self, trial: Any) -> dict[str, Any]:
        """Those of a trial's options that `Trainer` knows; of the others it would warn."""
        fields = option_fields()[TrainingArguments]
        return {name: value for name, value in self._values(trial).items() if name in fields}

    def model_init(self, trial: Any) -> Bert4RecForMaskedLM:
        """The trial's model; its masks and `TrainingArguments` are put into those that `Trainer` holds."""
        chosen, of_training, arguments = self.shared, {}, self.arguments
        if trial is not None:  # `Trainer` asks for a model before there is a trial
            chosen, of_training = sorted_options(self.options | self._values(trial)), self.hp_space(trial)
        # Nothing of the trial before is left; `Trainer`, which sets these too, would make an integer of warmup_steps=0.1.
        vars(arguments).update(self.initial | of_training)
        vars(self.collator).update(vars(collator_of(chosen, self.data.num_items, arguments.seed)))
        model_class = Bert4RecForCausalLM if self.collator.causal_probability == 1 else Bert4RecForMaskedLM
        model = model_class(config_of(chosen, self.data.num_items))
        choose_attention(model, arguments)
        # Dropout as in `train`, whose `Trainer` seeds once more behind the weights.
        transformers.set_seed(arguments.seed)
        return model
