"""BERT4Rec as an extension of Hugging Face Transformers."""

from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, AutoTokenizer

from .configuration_bert4rec import Bert4RecConfig
from .modeling_bert4rec import Bert4RecForMaskedLM, Bert4RecModel, Bert4RecPreTrainedModel


AutoConfig.register("bert4rec", Bert4RecConfig)
AutoModel.register(Bert4RecConfig, Bert4RecModel)
AutoModelForMaskedLM.register(Bert4RecConfig, Bert4RecForMaskedLM)

__all__ = ["Bert4RecConfig", "Bert4RecForMaskedLM", "Bert4RecModel", "Bert4RecPreTrainedModel"]
