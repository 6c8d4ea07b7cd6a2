"""
Tensor parallelism between processes on CPUs, as `Trainer` takes it.

*Source:* `accelerate.ParallelismConfig`, which `Trainer` makes by itself for a sharded model.

*Differences:* Accelerate 1.15 refuses it unless each process has an accelerator of its own, although all it does then, one
mesh of processes that read the same batches, works over gloo as well.
"""

from typing import Any

from accelerate import ParallelismConfig
from accelerate.utils import DistributedType


class CpuParallelismConfig(ParallelismConfig):
    r"""
    `accelerate.ParallelismConfig` that also admits processes on CPUs: `TrainingArguments(parallelism_config=...)`.

    Args:
        tp_size (`int`): Processes that the items are sharded over, as in `DistributedConfig(tp_size=...)`.

    Example:
        >>> CpuParallelismConfig(tp_size=2).tp_enabled
        True
    """

    def _validate_accelerator(self, accelerator: Any) -> None:
        if accelerator.distributed_type != DistributedType.MULTI_CPU:
            super()._validate_accelerator(accelerator)
        elif self.total_size != accelerator.num_processes:
            raise ValueError(
                f"tp_size is {self.total_size}, but {accelerator.num_processes} processes run; give it their number."
            )
