"""The arithmetics of an export."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Precision:
    """One of them.

    Attributes:
        policy: Keras's policy for the layers; the logits of the heads are float32 in each.
        tolerance: How far probabilities may lie from those stored when it was written.
    """

    policy: str
    tolerance: float


#: By name. Kernels for other processors add in another order: between oneDNN's for SSE4.1 and AVX2
#: and TensorFlow's own, probabilities of a trained float32 network were seen to move by 7e-7.
#: Deeper networks and GPUs may move them further; 1e-3 leaves room, and takes hardly a voxel over a
#: threshold. int8 is the storage of kernels: the arithmetic is float32. bfloat16 rounds to 8 bits:
#: seen, 2e-4; processors with instructions of their own for it may differ by more.
PRECISIONS = {
    "float32": Precision("float32", 1e-3),
    "bfloat16": Precision("bfloat16", 0.02),
    "int8": Precision("float32", 1e-3),
}
