"""What an audit finds wrong: codes that kernels return, and the words for them.

Beside its code a kernel notes six numbers: the kind of record, its row, the field's place in
the record, the field's value, what it should be, and one more that the words may use.

The constants are numpy's: of a plain int numba knows the value, and makes machine code anew
for every value that a kernel is called with.
"""

from typing import Any, Final

import numpy as np

from nbkv import layout

INTACT: Final = np.int64(0)
RANGE: Final = np.int64(1)
MUST_BE: Final = np.int64(2)
COUNTED: Final = np.int64(3)
REFERENCES: Final = np.int64(4)
PINS: Final = np.int64(5)
CHILDREN: Final = np.int64(6)
STATE: Final = np.int64(7)
ENTRY_RANGE: Final = np.int64(8)
ENTRY_HOLE: Final = np.int64(9)
ENTRY_COLUMN: Final = np.int64(10)
ENTRY_PARENT: Final = np.int64(11)
ENTRY_FILL: Final = np.int64(12)
TAIL: Final = np.int64(13)
WRITER: Final = np.int64(14)
PARENT_LOOSE: Final = np.int64(15)
PARENT_LET_GO: Final = np.int64(16)
PARENT_KIND: Final = np.int64(17)
PARENT_ORDER: Final = np.int64(18)
PARENT_NOT_HELD: Final = np.int64(19)
CYCLE: Final = np.int64(20)
CHILD: Final = np.int64(21)
NAMES_OVER: Final = np.int64(22)
NAME_CHAIN: Final = np.int64(23)
NAME_LENGTH: Final = np.int64(24)
CHAIN_HASH: Final = np.int64(25)
NOT_FOUND: Final = np.int64(26)
FOUND_OTHER: Final = np.int64(27)
SLOT_OCCUPANT: Final = np.int64(28)
SLOT_STALE: Final = np.int64(29)
OCCUPANTS: Final = np.int64(30)
LIST_RANGE: Final = np.int64(31)
LIST_MEMBER: Final = np.int64(32)
LIST_LENGTH: Final = np.int64(33)
LIST_TAIL: Final = np.int64(34)
FENCE_BACK: Final = np.int64(35)
FENCE_ORDER: Final = np.int64(36)
RING_ENTRY: Final = np.int64(37)
RING_ORDER: Final = np.int64(38)
RING_HEAD: Final = np.int64(39)
HEAP_ENTRY: Final = np.int64(40)
HEAP_RANK: Final = np.int64(41)
HEAP_ORDER: Final = np.int64(42)
SHARED_RECORD: Final = np.int64(43)
EXTRA_ORDER: Final = np.int64(44)

HEADER: Final = np.int64(0)
BLOCKS: Final = np.int64(1)
KEYS: Final = np.int64(2)
SEQUENCES: Final = np.int64(3)
SEQUENCE_KEYS: Final = np.int64(4)
NAMES: Final = np.int64(5)
EXTRAS: Final = np.int64(6)
LEASES: Final = np.int64(7)
LEASED: Final = np.int64(8)
HOLDS: Final = np.int64(9)
SEQ_INDEX: Final = np.int64(10)
PREFIX_INDEX: Final = np.int64(11)
NAME_INDEX: Final = np.int64(12)

_RECORDS: Final[dict[Any, tuple[str, "np.dtype[Any]"]]] = {
    HEADER: ("header", layout.HEADER_DTYPE),
    BLOCKS: ("block", layout.BLOCK_DTYPE),
    KEYS: ("block", layout.BLOCK_KEY_DTYPE),
    SEQUENCES: ("sequence row", layout.SEQUENCE_DTYPE),
    SEQUENCE_KEYS: ("sequence row", layout.SEQUENCE_KEY_DTYPE),
    NAMES: ("name", layout.NAME_DTYPE),
    EXTRAS: ("extra key", layout.EXTRA_DTYPE),
    LEASES: ("lease", layout.LEASE_DTYPE),
    LEASED: ("leased record", layout.LEASED_DTYPE),
    HOLDS: ("block", np.dtype([("external_holds", "i2")])),
    SEQ_INDEX: ("seq_index slot", layout.INDEX_DTYPE),
    PREFIX_INDEX: ("prefix_index slot", layout.INDEX_DTYPE),
    NAME_INDEX: ("name_index slot", layout.INDEX_DTYPE),
}

#: The lists that `LIST_RANGE` to `LIST_TAIL` speak of, noted where the field would be.
LISTS: Final = ("free list", "fence", "free rows", "free names", "free leases", "free extra keys")
LISTS_MORE: Final = ("free leased records", "leased blocks", "extra keys", "names of a leaf")
FREE_LIST, FENCE, FREE_ROWS, FREE_NAMES, FREE_LEASES, FREE_EXTRAS = np.arange(6)
FREE_LEASED, LEASED_BLOCKS, EXTRA_KEYS, LEAF_NAMES = np.arange(6, 10)

_WORDS: Final[dict[Any, str]] = {
    RANGE: "{field} is {value}; it must be {wanted} to {other}",
    MUST_BE: "{field} is {value}; it must be {wanted}",
    COUNTED: "{field} is {value} but {wanted} are there",
    REFERENCES: "ref_count is {value} but {wanted} table entries hold it",
    PINS: "pin_count is {value} but {wanted} leases cover it",
    CHILDREN: "num_children is {value} but it is the parent of {wanted} linked blocks",
    STATE: "state is {value}; by its holders and flags it must be {wanted}",
    ENTRY_RANGE: "column {value} of its table has block {wanted}; used blocks are 0 to {other}",
    ENTRY_HOLE: "column {value} of its table, which the window has left, has block {wanted}",
    ENTRY_COLUMN: "column {value} of its table has block {wanted}, which a table has in column"
    " {other} too",
    ENTRY_PARENT: "column {value} of its table has block {wanted}, whose parent is not block"
    " {other}, the one before",
    ENTRY_FILL: "column {value} of its table has block {wanted}, with fewer valid tokens than the"
    " {other} that the sequence has in it",
    TAIL: "its open tail is offset {value} of block {wanted}, which is not the private place of"
    " its next token",
    WRITER: "writer is {value}, a sequence row whose open tail it is not",
    PARENT_LOOSE: "parent is block {value}, which is neither indexed nor named",
    PARENT_LET_GO: "it is held, but its parent, block {value}, is not",
    PARENT_KIND: "parent is block {value}, which is not indexed by the same kind of key",
    PARENT_ORDER: "it is cached and was let go after its parent, block {value}",
    PARENT_NOT_HELD: "it has external holds, but its parent, block {value}, has none",
    CYCLE: "its parents lead back to block {value}",
    CHILD: "child is block {value}, whose parent it is not",
    NAMES_OVER: "named_count is {value} but {wanted} names cover it",
    NAME_CHAIN: "its leaf is block {value}, which does not know it",
    NAME_LENGTH: "num_blocks is {value} but its leaf is {wanted} blocks from the root",
    CHAIN_HASH: "its tokens and its parent do not hash to its chain hash",
    NOT_FOUND: "it cannot be found in the index under its key",
    FOUND_OTHER: "under its key the index has number {value} as well",
    SLOT_OCCUPANT: "occupant is {value}; it must be 0 to {wanted}",
    SLOT_STALE: "it is empty but its tag is {value}",
    OCCUPANTS: "the index has {value} occupants but {wanted} belong there",
    LIST_RANGE: "it has number {value}; it may have 0 to {wanted}",
    LIST_MEMBER: "it has number {value}, which does not belong there",
    LIST_LENGTH: "it does not end after its {value} records",
    LIST_TAIL: "its last is number {value} but the header says {wanted}",
    FENCE_BACK: "block {value} says that block {wanted} is before it, which block {other} is",
    FENCE_ORDER: "block {value} waits for step {wanted}, out of order or not in flight",
    RING_ENTRY: "the recency ring has block {value} at {wanted}, where it does not belong",
    RING_ORDER: "the recency ring has block {value} at {wanted}, behind one let go later",
    RING_HEAD: "the recency ring does not begin with a living entry but with {value}",
    HEAP_ENTRY: "the rank heap has block {value} at {wanted}, where it does not belong",
    HEAP_RANK: "the rank heap has block {value} at {wanted} under a rank that is not its own",
    HEAP_ORDER: "the rank heap has block {value} at {wanted}, above which a later one stands",
    SHARED_RECORD: "it stands in two lists",
    EXTRA_ORDER: "it covers tokens {value} to {wanted}, out of order",
}
_LIST_CODES: Final = (LIST_RANGE, LIST_MEMBER, LIST_LENGTH, LIST_TAIL, FENCE_BACK, FENCE_ORDER)


def field_of(dtype: "np.dtype[Any]", name: str) -> np.int64:
    """Return a field's place in its record."""
    return np.int64((dtype.names or ()).index(name))


def describe(code: int, found: "np.ndarray[Any, Any]") -> str:
    """Say what an audit has found.

    Parameters
    ----------
    code : int
    found : int64, shape (6,)

    Returns
    -------
    str
    """
    kind, row, field, value, wanted, other = (int(number) for number in found)
    noun, dtype = _RECORDS[kind]
    if code in _LIST_CODES:
        return f"{(LISTS + LISTS_MORE)[field]}: " + _WORDS[code].format(
            value=value, wanted=wanted, other=other
        )
    name = (dtype.names or ())[field]
    words = _WORDS[code].format(field=name, value=value, wanted=wanted, other=other)
    if code == REFERENCES and other:
        words = f"ref_count is {value} but {wanted} table entries and {other} external holds do so"
    return f"{noun}: {words}" if kind == HEADER else f"{noun} {row}: {words}"
