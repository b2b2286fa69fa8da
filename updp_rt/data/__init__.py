"""Data sets and loaders."""

from updp_rt.data.digits import Digits
from updp_rt.data.loading import Loader, Splits, first_images, load_splits, make_loader
from updp_rt.data.order import EpochSampler
from updp_rt.data.pictures import PicturesError

__all__ = [
    "Digits",
    "EpochSampler",
    "Loader",
    "PicturesError",
    "Splits",
    "first_images",
    "load_splits",
    "make_loader",
]
