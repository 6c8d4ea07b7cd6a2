"""Processes on CPUs are admitted, and a wrong number of them is not."""

from types import SimpleNamespace

import pytest
from accelerate import ParallelismConfig
from accelerate.utils import DistributedType

from hf_bert4rec.cpu_parallelism import CpuParallelismConfig


def accelerator(num_processes, distributed_type=DistributedType.MULTI_CPU):
    return SimpleNamespace(
        num_processes=num_processes,
        distributed_type=distributed_type,
        is_fsdp2=False,
        is_main_process=True,
        multi_device=distributed_type == DistributedType.MULTI_GPU,
    )


def test_cpus_are_admitted_which_accelerate_refuses():
    with pytest.raises(ValueError, match="MULTI_CPU"):
        ParallelismConfig(tp_size=2)._validate_accelerator(accelerator(2))
    CpuParallelismConfig(tp_size=2)._validate_accelerator(accelerator(2))


def test_accelerators_are_checked_as_ever():
    CpuParallelismConfig(tp_size=2)._validate_accelerator(accelerator(2, DistributedType.MULTI_GPU))
    with pytest.raises(ValueError, match="total_size"):
        CpuParallelismConfig(tp_size=2)._validate_accelerator(accelerator(4, DistributedType.MULTI_GPU))


def test_another_number_of_processes_is_refused():
    with pytest.raises(ValueError, match="tp_size is 2, but 4 processes run; give it their number"):
        CpuParallelismConfig(tp_size=2)._validate_accelerator(accelerator(4))
