"""What this machine can do, as far as it decides how networks are computed."""

from pathlib import Path

#: Instructions of a CPU that multiply bfloat16 in hardware.
BFLOAT16_INSTRUCTIONS = {"avx512_bf16", "amx_bf16", "bf16"}

#: What the drivers of GPUs that TensorFlow can use leave in the file system.
GPU_DEVICES = (Path("/dev/nvidiactl"), Path("/dev/kfd"))


def cpu_multiplies_bfloat16(file: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the CPU has instructions for it; no where the system does not tell."""
    if not file.is_file():
        return False
    lines = file.read_text(encoding="utf-8").splitlines()
    flags = next((line.split() for line in lines if line.startswith(("flags", "Feat"))), ())
    return not BFLOAT16_INSTRUCTIONS.isdisjoint(flags)


def may_have_gpu() -> bool:
    """Whether there is a GPU that TensorFlow might use, without asking TensorFlow."""
    return any(device.exists() for device in GPU_DEVICES)
