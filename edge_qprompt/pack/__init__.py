"""A pack: what was learned for one task, in a few hundred bytes.

`Pack` is the whole file; `PackTensor` and `Section` are its parts, `Role` and `Kind` say what they are. The bytes are described
in docs/pack-format.md, and are read without believing any of them. May import `codebook`, `errors` and `files`.
"""

from edge_qprompt.pack.adapter import ROLES, beside, is_adapter, joined, split
from edge_qprompt.pack.layout import MAX_BYTES, RAW_BITS
from edge_qprompt.pack.pack import (
    SECTION,
    ZERO_SHOT,
    Pack,
    PackTensor,
    Precision,
    Role,
    Section,
    names_section,
    templates_section,
)
from edge_qprompt.pack.section import CLASS_NAMES, DECISION, PROVENANCE, RESIDUAL_BIAS, TEMPLATE, Decision, Kind

__all__ = [
    "CLASS_NAMES",
    "DECISION",
    "Decision",
    "Kind",
    "PROVENANCE",
    "RESIDUAL_BIAS",
    "TEMPLATE",
    "ZERO_SHOT",
    "MAX_BYTES",
    "Pack",
    "PackTensor",
    "Precision",
    "RAW_BITS",
    "ROLES",
    "Role",
    "SECTION",
    "Section",
    "beside",
    "is_adapter",
    "joined",
    "names_section",
    "split",
    "templates_section",
]
