"""The paper's augmentation, stateless: a function of (seed, epoch, index).

Section 2.3: "random brightness and contrast, flips, rotations, random elastic transformations,
and random grid and optical distortions". `reference` applies them with albumentations, one after
the other; `fast` draws the same transforms and samples once.
"""
