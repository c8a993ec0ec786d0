"""The image encoder without a server: decodes photos one after the other and encodes them in batches, for as long as asked.

    python benchmarks/raw_encoder.py BACKBONE BATCH PHOTO ...

For each number of seconds on stdin it prints photos a second, and the median seconds of encoding one batch.
"""

from __future__ import annotations

import statistics
import sys
import time
from itertools import cycle, islice
from pathlib import Path

import numpy as np

from edge_qprompt import Backbone
from edge_qprompt.photo import decode_photo, to_pixels


def main(name: str, batch: int, paths: list[Path]) -> None:
    """See the module."""
    backbone = Backbone.open(name)
    photos = cycle([path.read_bytes() for path in paths])
    for line in sys.stdin:
        start, end, encoding = time.perf_counter(), time.perf_counter() + float(line), []
        while (began := time.perf_counter()) < end:
            pixels = [to_pixels(decode_photo(data), backbone.manifest.preprocess) for data in islice(photos, batch)]
            began = time.perf_counter()
            backbone.encode_images(np.stack(pixels))
            encoding.append(time.perf_counter() - began)
        print(len(encoding) * batch / (time.perf_counter() - start), statistics.median(encoding), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), [Path(path) for path in sys.argv[3:]])
