"""Photos: from files and folders to pixels and image features.

`load_dataset` reads a folder of classes, `extract` encodes photos and remembers their features, `Decoder` decodes what strangers
send in a process that can be killed. No torch. May import `backbone`, `prompts`, `errors` and `files`.
"""

from edge_qprompt.photos.dataset import Dataset, Photos, list_photos, load_dataset
from edge_qprompt.photos.decoder import Decoder, Decoders, Job
from edge_qprompt.photos.features import Features, Views, extract, read_views
from edge_qprompt.photos.photo import COMMON, Bytes, decode_photo, normalise, read_photo, to_pixels

__all__ = [
    "Bytes",
    "COMMON",
    "Dataset",
    "Decoder",
    "Decoders",
    "Features",
    "Job",
    "Photos",
    "Views",
    "decode_photo",
    "extract",
    "list_photos",
    "load_dataset",
    "normalise",
    "read_photo",
    "read_views",
    "to_pixels",
]
