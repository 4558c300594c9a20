"""What a benchmark ran on, in words."""

from pathlib import Path

from service.runtime import cpu_quota


def cpu_name() -> str:
    """The processor's name, with the cores that this process may use."""
    models = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return f"{cpu_quota()} CPU cores ({models[0] if models else 'unknown'})"


def hardware() -> str:
    """The GPU's name where there is one, else the processor's."""
    # Here, because benchmarks of the service alone run without torch.
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else cpu_name()
