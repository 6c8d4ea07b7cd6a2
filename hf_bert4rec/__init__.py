"""
BERT4Rec as an extension of Hugging Face Transformers: items are tokens, a user's history is a sequence.

Importing the package registers its classes: afterwards `AutoModel.from_pretrained`, `AutoTokenizer.from_pretrained` and
`pipeline("next-item-recommendation")` know a BERT4Rec folder.
"""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)
from transformers.pipelines import PIPELINE_REGISTRY

from .baselines import Markov, Popularity
from .catalogue import change_catalogue
from .comparison import compare, evaluate_run
from .configuration_bert4rec import Bert4RecConfig
from .data_collator import DataCollatorForCloze
from .distillation import Teacher
from .ensemble import ensemble_models, ensemble_runs
from .export import write_export
from .exported_scorer import ExportedScorer
from .interactions import InteractionData, InteractionOptions, load_data, prepare
from .known_results import known_beside
from .logit_adjustment import adjust_logits, adjust_run
from .model_card import write_model_card
from .modeling_bert4rec import Bert4RecForMaskedLM, Bert4RecModel, Bert4RecPreTrainedModel
from .modeling_bert4rec_causal import Bert4RecForCausalLM
from .modeling_bert4rec_classification import Bert4RecForSequenceClassification, Bert4RecForTokenClassification
from .pipeline_recommendation import NextItemRecommendationPipeline
from .protocols import PROTOCOLS, comparability
from .publishing import push_run
from .ranking_metric import ranking_metric, save_ranking_metric
from .sequences import EvaluationSequences, TrainingSequences
from .tokenization_bert4rec import Bert4RecTokenizer
from .training import SequenceOptions, train

AutoConfig.register("bert4rec", Bert4RecConfig)
AutoModel.register(Bert4RecConfig, Bert4RecModel)
AutoModelForMaskedLM.register(Bert4RecConfig, Bert4RecForMaskedLM)
AutoModelForCausalLM.register(Bert4RecConfig, Bert4RecForCausalLM)
AutoModelForSequenceClassification.register(Bert4RecConfig, Bert4RecForSequenceClassification)
AutoModelForTokenClassification.register(Bert4RecConfig, Bert4RecForTokenClassification)
AutoTokenizer.register(Bert4RecConfig, tokenizer_class=Bert4RecTokenizer)
PIPELINE_REGISTRY.register_pipeline(
    "next-item-recommendation",
    pipeline_class=NextItemRecommendationPipeline,
    pt_model=AutoModelForMaskedLM,
    type="text",
)

__all__ = [
    "PROTOCOLS",
    "Bert4RecConfig",
    "Bert4RecForCausalLM",
    "Bert4RecForMaskedLM",
    "Bert4RecForSequenceClassification",
    "Bert4RecForTokenClassification",
    "Bert4RecModel",
    "Bert4RecPreTrainedModel",
    "Bert4RecTokenizer",
    "DataCollatorForCloze",
    "EvaluationSequences",
    "ExportedScorer",
    "InteractionData",
    "InteractionOptions",
    "Markov",
    "NextItemRecommendationPipeline",
    "Popularity",
    "SequenceOptions",
    "Teacher",
    "TrainingSequences",
    "adjust_logits",
    "adjust_run",
    "change_catalogue",
    "comparability",
    "compare",
    "ensemble_models",
    "ensemble_runs",
    "evaluate_run",
    "known_beside",
    "load_data",
    "prepare",
    "push_run",
    "ranking_metric",
    "save_ranking_metric",
    "train",
    "write_export",
    "write_model_card",
]
