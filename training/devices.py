"""Which device a process computes on, and how tensors get there without making it wait."""

import torch
from torch import Tensor


def own_device(local_rank: int = 0) -> torch.device:
    """The GPU of this process where there are any, else the CPU."""
    return torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")


def computes_bf16(device: torch.device) -> bool:
    """Whether the device has instructions for it. A CPU without them emulates: ten times slower than fp32, measured on one with AVX2 alone."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def move(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device. A GPU copies pinned memory by itself, while it would finish all its work before other copies."""
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def fits(size: int, device: torch.device, fraction: float = 0.5) -> bool:
    """Whether so many bytes are at most this fraction of what is free on a GPU. Nothing is moved to a CPU, where it is already."""
    return device.type == "cuda" and size <= fraction * torch.cuda.mem_get_info(device)[0]
