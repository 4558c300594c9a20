import platform
from pathlib import Path

import pytest
import torch

from training.devices import computes_bf16


@pytest.mark.skipif(platform.machine() != "x86_64", reason="reads the flags that Linux names on x86-64")
def test_bf16_is_taken_on_cpus_that_have_instructions_for_it_and_on_no_other() -> None:
    flags = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")).split()
    assert computes_bf16(torch.device("cpu")) == ("avx512_bf16" in flags or "amx_bf16" in flags)
