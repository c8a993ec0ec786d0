"""Photos: from files, folders, images and arrays to pixels and image features.

`load_dataset` reads a folder of classes, `dataset_of` takes lists and features too, `extract` encodes photos and remembers their
features, `Decoder` decodes what strangers send in a process that can be killed. No torch. May import `backbone`, `prompts`,
`errors` and `files`.
"""

from edge_qprompt.photos.dataset import AnyData, Dataset, Photos, dataset_of, list_photos, load_dataset, natural
from edge_qprompt.photos.decoder import PIXELS, REFUSED, SAYING, SIZE, Decoder, Decoders, Job, request
from edge_qprompt.photos.features import Features, Views, encode_photos, extract, features_of, forget_features, read_views
from edge_qprompt.photos.glance import Glance, glances
from edge_qprompt.photos.photo import COMMON, Bytes, decode_photo, normalise, read_photo, to_pixels
from edge_qprompt.photos.source import AnyPhoto, Source, read, source_of

__all__ = [
    "AnyData",
    "AnyPhoto",
    "Bytes",
    "COMMON",
    "Dataset",
    "Decoder",
    "Decoders",
    "Features",
    "Glance",
    "Job",
    "PIXELS",
    "Photos",
    "REFUSED",
    "SAYING",
    "SIZE",
    "Source",
    "Views",
    "dataset_of",
    "decode_photo",
    "encode_photos",
    "extract",
    "features_of",
    "forget_features",
    "glances",
    "list_photos",
    "load_dataset",
    "natural",
    "normalise",
    "read",
    "read_photo",
    "request",
    "read_views",
    "source_of",
    "to_pixels",
]
