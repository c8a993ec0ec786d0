"""The layout of a pack in numbers: what its writer and its reader share.

`docs/pack-format.md` is the specification. Little-endian throughout.
"""

from __future__ import annotations

import struct

MAGIC = b"\x89QPK"
VERSION = 1
HEAD = struct.Struct("<4sBBBBI8s4x")  # magic, version, precision, tensors, method, extension length, fingerprint, zeros
HEAD_ZEROS = slice(20, 24)
RECORD = struct.Struct("<BBBx")  # role, bits, dimensions, zero; then a u16 for each dimension
SECTION = struct.Struct("<BI")  # tag, length
CRC = struct.Struct("<I")
FINGERPRINT_BYTES = 8
SMALLEST = HEAD.size + CRC.size

RAW_BITS = 16  # float16 as it is, without a codebook
ESSENTIAL_BELOW = 128  # a reader refuses a section of an unknown tag below this, and keeps one from it on

MAX_BYTES = 32 << 20  # of a pack; the largest thing anyone packs (QMaPLe at 16 bits, 7 MB) fits with room
MAX_SCALARS = MAX_BYTES // 2  # of all tensors: as many as fit at 16 bits, or a pack at 1 bit would unpack to gigabytes
MAX_DIMS = 4
MAX_DIM = 0xFFFF  # a u16
MAX_TENSORS = 0xFF  # a u8
MAX_SECTIONS = 0xFF  # as many as tensors: bounds the objects that 32 MiB of empty sections would become
MAX_NAMES = 0xFFFF  # three times the classes of ImageNet-21k
MAX_TEMPLATES = 128  # CLIP used 80 for ImageNet; each takes a run of the text encoder over all names
