"""How training shares the processor's cores among TensorFlow's operations."""

import os


def use_half_of_the_cores_for_an_operation():
    """Have two operations run side by side, each on half of the cores.

    A training step has two of nearly everything: two modalities forward, and backward the
    gradients of a convolution by its input and by its kernel. Splitting one operation over all
    cores costs more than running two of them at once (`benchmarks/threads.py`). It works until
    TensorFlow has made its threads; what a user has set stays.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", str(max(1, cores // 2)))
