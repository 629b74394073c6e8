"""Sets of labelled pictures: readers, grouped splits, digests.

A reader turns a folder into a `Dataset`; nothing after it cares where the pictures came from.
"""

from vision.datasets.images import IMAGE_SUFFIXES, image_paths, read_image
from vision.datasets.readers import open_dataset, read_class_folders, read_label_map, read_splits_csv
from vision.datasets.samples import Dataset, Sample, split_by_group

__all__ = [
    "IMAGE_SUFFIXES",
    "Dataset",
    "Sample",
    "image_paths",
    "open_dataset",
    "read_class_folders",
    "read_image",
    "read_label_map",
    "read_splits_csv",
    "split_by_group",
]
