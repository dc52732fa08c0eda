"""Published data sets as they are downloaded: where pictures and labels lie, what the ids mean, what is scored."""

from ovseg_cli.evaluation.datasets.catalogue import DATASETS, find_dataset
from ovseg_cli.evaluation.datasets.opening import OpenDataset, open_dataset
from ovseg_cli.evaluation.datasets.record import Dataset, Layout, Names, Split

__all__ = ["DATASETS", "Dataset", "Layout", "Names", "OpenDataset", "Split", "find_dataset", "open_dataset"]
