"""
Pre-training by the plain `Trainer`, without `train()`: what the package gives are data sets, a collator and metrics.

    hf-bert4rec prepare log.csv --output_dir data
    python examples/08_plain_trainer.py --data data --output_dir run
"""

import argparse

import torch
from transformers import Trainer, TrainingArguments

from hf_bert4rec import (
    Bert4RecConfig,
    Bert4RecForMaskedLM,
    Bert4RecTokenizer,
    DataCollatorForCloze,
    EvaluationSequences,
    TrainingSequences,
    load_data,
)
from hf_bert4rec.evaluation import TrainerRanking


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of hf-bert4rec prepare")
    parser.add_argument("--output_dir", required=True, help="folder for model and tokenizer")
    parser.add_argument("--num_train_epochs", type=float, default=20)
    options = parser.parse_args()

    data = load_data(options.data)
    tokenizer = Bert4RecTokenizer.from_items(data.item_ids.to_pylist(), titles=data.titles)
    config = Bert4RecConfig(vocab_size=len(tokenizer), max_position_embeddings=50, linear_initializer="xavier")
    arguments = TrainingArguments(
        options.output_dir,
        num_train_epochs=options.num_train_epochs,
        per_device_train_batch_size=128,
        learning_rate=1e-3,
        train_sampling_strategy="sequential",  # the data set owns the order
        remove_unused_columns=False,  # the collator draws its masks from the rows' numbers
        label_names=["labels", "seen_items"],  # the item that came next, and those that may not be recommended
        batch_eval_metrics=True,  # a batch of scores becomes ranks at once and is not kept
        eval_strategy="epoch",
        save_strategy="no",
        dataloader_pin_memory=torch.cuda.is_available(),  # on a CPU alone it warns
    )
    ranking = TrainerRanking()
    trainer = Trainer(
        Bert4RecForMaskedLM(config),
        arguments,
        data_collator=DataCollatorForCloze(max_length=config.max_position_embeddings),
        train_dataset=TrainingSequences(data, max_length=config.max_position_embeddings),
        eval_dataset=EvaluationSequences(data, split="validation"),
        preprocess_logits_for_metrics=ranking.preprocess_logits_for_metrics,
        compute_metrics=ranking.compute_metrics,
        processing_class=tokenizer,
    )
    trainer.train()
    trainer.save_model()  # and the tokenizer: hf-bert4rec evaluate, recommend and pipeline() take the folder
    metrics = trainer.evaluate(EvaluationSequences(data, split="test"))
    print(f"test NDCG@10 {metrics['eval_ndcg@10']:.3f}, Recall@10 {metrics['eval_recall@10']:.3f}")


if __name__ == "__main__":
    main()
