"""The paper's augmentation as users of other libraries would write it: peers of benchmarks.

Neither has the whole list: MONAI lacks optical distortion, batchgeneratorsv2 (nnU-Net's) that and
grid distortion. Each transform is applied with p = 0.5 and about the paper's magnitude.
"""

import functools

import numpy as np


def installed_peers(size) -> dict:
    """`{title: augment}` of those that are installed; `augment(images, masks)` as ours.

    Args:
        size: Height and width of the slices in pixels.
    """
    found = {}
    for title, build in {"MONAI": monai_augmenter, "batchgeneratorsv2": nnunet_augmenter}.items():
        try:
            found[title] = build(size)
        except ImportError as error:
            print(f"{title} is not measured: {error}")
    return found


def monai_augmenter(size):
    """MONAI's transforms on a dictionary."""
    from monai import transforms as mt
    from monai.data import set_track_meta

    # The record of what was applied is shared by the threads of tf.data, and takes time.
    set_track_meta(False)
    keys, half = ("image", "mask"), {"prob": 0.5}
    modes = {"mode": ("bilinear", "nearest")}
    chain = mt.Compose(
        [
            mt.RandFlipd(keys, spatial_axis=0, **half),
            mt.RandFlipd(keys, spatial_axis=1, **half),
            mt.RandRotate90d(keys, max_k=1, **half),
            mt.RandRotated(keys, range_x=np.deg2rad(7), **half, **modes),
            mt.Rand2DElasticd(keys, spacing=(16, 16), magnitude_range=(0, 1), **half, **modes),
            mt.RandGridDistortiond(keys, num_cells=5, distort_limit=0.1, **half, mode="bilinear"),
            mt.RandScaleIntensityd("image", factors=0.1, **half),
            mt.RandShiftIntensityd("image", offsets=0.1, **half),
        ]
    )

    def augment(images, masks):
        planes = {"image": np.moveaxis(images, 2, 0), "mask": np.moveaxis(masks, 2, 0)}
        result = chain({k: v.astype(np.float32) for k, v in planes.items()})
        image, mask = (np.moveaxis(np.asarray(result[k]), 0, 2) for k in keys)
        return np.ascontiguousarray(image), np.ascontiguousarray(mask > 0.5)

    return augment


def nnunet_augmenter(size):
    """batchgeneratorsv2's transforms, which rotate and deform in one sampling."""
    import torch
    from batchgeneratorsv2.transforms.intensity.brightness import MultiplicativeBrightnessTransform
    from batchgeneratorsv2.transforms.intensity.contrast import ContrastTransform
    from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
    from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
    from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
    from batchgeneratorsv2.transforms.utils.random import RandomTransform

    angle = float(np.deg2rad(7))
    chain = ComposeTransforms(
        [
            SpatialTransform(
                (size, size),
                0,
                False,
                p_elastic_deform=0.5,
                elastic_deform_magnitude=(0, 0.05),
                p_rotation=0.5,
                rotation=(-angle, angle),
                mode_seg="nearest",
            ),
            MirrorTransform((0, 1)),
            RandomTransform(MultiplicativeBrightnessTransform((0.9, 1.1), True), 0.5),
            RandomTransform(ContrastTransform((0.9, 1.1), True, True), 0.5),
        ]
    )
    plane = functools.partial(np.moveaxis, source=2, destination=0)

    def augment(images, masks):
        image = torch.from_numpy(plane(images).copy())
        mask = torch.from_numpy(plane(masks).astype(np.int16))
        result = chain(image=image, segmentation=mask)
        image, mask = (np.moveaxis(result[k].numpy(), 0, 2) for k in ("image", "segmentation"))
        return np.ascontiguousarray(image), np.ascontiguousarray(mask > 0)

    return augment
