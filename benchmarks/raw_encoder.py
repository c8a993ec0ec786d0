"""The image encoder without a server: on each of its lanes, decodes photos and encodes them in batches, for as long as asked.

    python benchmarks/raw_encoder.py BACKBONE BATCH PHOTO ...

For each number of seconds on stdin it prints photos a second, and the median seconds of encoding one batch.
"""

from __future__ import annotations

import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path

import numpy as np

from edge_qprompt import Backbone
from edge_qprompt.photos.photo import decode_photo, to_pixels


def main(name: str, batch: int, paths: list[Path]) -> None:
    """Decode and encode photos in batches, on as many lanes as the server has, whenever asked to on stdin."""
    backbone = Backbone.open(name)
    photos = [path.read_bytes() for path in paths]

    def work(lane: int, end: float) -> list[float]:
        """Seconds of each batch that this lane encoded."""
        mine, encoding = cycle(photos[lane:] + photos[:lane]), []
        while time.perf_counter() < end:
            pixels = [to_pixels(decode_photo(data), backbone.manifest.preprocess) for data in islice(mine, batch)]
            began = time.perf_counter()
            backbone.encode_images(np.stack(pixels), lane=True)
            encoding.append(time.perf_counter() - began)
        return encoding

    with ThreadPoolExecutor(backbone.lanes) as pool:
        for line in sys.stdin:
            start = time.perf_counter()
            times = list(pool.map(work, range(backbone.lanes), [start + float(line)] * backbone.lanes))
            seconds = time.perf_counter() - start
            batches = [each for lane in times for each in lane]
            print(len(batches) * batch / seconds, statistics.median(batches), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), [Path(path) for path in sys.argv[3:]])
