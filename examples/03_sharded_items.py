"""
Train on with the items split over processes, each of which holds its rows of the embedding and their optimiser state.

    hf-bert4rec prepare log.csv --output_dir data
    hf-bert4rec train data --output_dir run
    torchrun --nproc_per_node 2 examples/03_sharded_items.py --data data --model run --output_dir sharded

For a model that no process can hold, save a new one first: `Bert4RecForMaskedLM(config).save_pretrained("run")`.
"""

import argparse
import os

import torch
from transformers import Trainer, TrainingArguments
from transformers.distributed import DistributedConfig

from hf_bert4rec import Bert4RecForMaskedLM, DataCollatorForCloze, TrainingSequences, compare, load_data
from hf_bert4rec.catalogue import tokenizer_of
from hf_bert4rec.cpu_parallelism import CpuParallelismConfig


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="Folder of prepare.")
    parser.add_argument("--model", required=True, help="Folder of a saved model.")
    parser.add_argument("--output_dir", required=True, help="Where the whole model is saved.")
    parser.add_argument("--num_train_epochs", type=float, default=1)
    options = parser.parse_args()

    data = load_data(options.data)
    num_processes = int(os.environ.get("WORLD_SIZE", "1"))
    sharded = DistributedConfig(tp_size=num_processes)
    model = Bert4RecForMaskedLM.from_pretrained(options.model, distributed_config=sharded)
    length = model.config.max_position_embeddings
    arguments = TrainingArguments(
        f"{options.output_dir}.checkpoints",
        num_train_epochs=options.num_train_epochs,
        per_device_train_batch_size=256,
        train_sampling_strategy="sequential",  # the data set owns the order
        remove_unused_columns=False,
        save_strategy="no",  # Transformers saves no optimiser state of a sharded model
        use_cpu=not torch.accelerator.is_available(),
        parallelism_config=CpuParallelismConfig(tp_size=num_processes),  # Accelerate's own refuses CPUs
        disable_tqdm=True,
    )
    trainer = Trainer(
        model,
        arguments,
        data_collator=DataCollatorForCloze(max_length=length, vocab_size=model.config.vocab_size),
        train_dataset=TrainingSequences(data, max_length=length),
    )
    trainer.train()
    ndcg = compare(model, data, split="validation")["model"]["ndcg@10"]  # all processes score every user together
    if arguments.process_index == 0:
        rows = model.get_input_embeddings().weight.to_local() if model.tp_size else model.get_input_embeddings().weight
        print(f"{len(rows)} of {model.config.vocab_size} rows in the first process, validation NDCG@10 {ndcg:.3f}")
        tokenizer_of(data).save_pretrained(options.output_dir)
    model.save_pretrained(options.output_dir)  # one checkpoint, which any number of processes loads


if __name__ == "__main__":
    main()
