"""Where a model runs and in which numbers."""

import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(name: str | None) -> torch.device:
    """The named torch device, or the best that this machine has: cuda, then mps, then cpu.

    Raises `ValueError` for a name that torch does not know or a device that is not there.
    """
    if name is None:
        return torch.device(_best())
    try:
        device = torch.device(name)
        float(torch.ones(1, device=device))  # a device of torch may be there and hold no numbers
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"device {name!r} cannot be used here ({reason}); this machine's best is {_best()}") from None
    return device


def choose_dtype(name: str | None, device: torch.device) -> torch.dtype:
    """The named dtype, or the fastest that is safe on the device.

    Half precision on a processor without the instructions is some hundred times slower than float32, so it is refused.
    """
    if name is None:
        return best_dtype(device)
    if name not in DTYPES:
        raise ValueError(f"dtype {name!r} does not exist; the dtypes are {', '.join(DTYPES)}")
    dtype = DTYPES[name]
    if device.type == "cpu" and dtype is torch.float16:
        raise ValueError("float16 has no arithmetic on the CPU; use float32 or, where the processor has it, bfloat16")
    if device.type == "cpu" and dtype is torch.bfloat16 and not cpu_has_bfloat16():
        raise ValueError("this processor has no bfloat16 arithmetic (AVX512-BF16 or AMX); use float32")
    return dtype


def best_dtype(device: torch.device) -> torch.dtype:
    """The fastest dtype that is safe: bfloat16 where the device computes in it, else float16 on cuda, else float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.bfloat16 if device.type == "cpu" and cpu_has_bfloat16() else torch.float32


def cpu_has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 itself: AVX512-BF16 or AMX."""
    capabilities = getattr(torch.cpu, "get_capabilities", dict[str, bool])()  # not yet in torch 2.10
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def _best() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
