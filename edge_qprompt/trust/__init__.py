"""Trust: who may say which pack a device runs.

`Statement` is what a publisher signs, `accept` is what a device does with it, `write_key_pair` makes a key. Needs the extra
`fleet`. May import `pack`, `errors` and `files`.
"""

from edge_qprompt.trust.keys import key_id, new_key_pair, public_path, read_public_key, write_key_pair
from edge_qprompt.trust.statement import MAX_ENVELOPE_BYTES, NAME, Envelope, Statement, read_private_key, sign, stamp, verify
from edge_qprompt.trust.update import accept, check_adapter, check_pack

__all__ = [
    "Envelope",
    "MAX_ENVELOPE_BYTES",
    "NAME",
    "Statement",
    "accept",
    "check_adapter",
    "check_pack",
    "key_id",
    "new_key_pair",
    "public_path",
    "read_private_key",
    "read_public_key",
    "sign",
    "stamp",
    "verify",
    "write_key_pair",
]
