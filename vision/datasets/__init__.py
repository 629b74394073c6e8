"""Sets of labelled images: readers, grouped splits, digests.

A reader turns a folder into a `Dataset`; nothing after it cares where the images came from.
"""

from vision.datasets.images import IMAGE_SUFFIXES, image_paths, read_image, scan, shown
from vision.datasets.readers import (
    UNKNOWN,
    open_dataset,
    read_class_folders,
    read_index,
    read_label_map,
)
from vision.datasets.samples import Dataset, Progress, Sample, merge, split_by_group

__all__ = [
    "IMAGE_SUFFIXES",
    "UNKNOWN",
    "Dataset",
    "Progress",
    "Sample",
    "image_paths",
    "merge",
    "open_dataset",
    "read_class_folders",
    "read_image",
    "read_index",
    "read_label_map",
    "scan",
    "shown",
    "split_by_group",
]
