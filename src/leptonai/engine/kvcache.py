"""Block pool of the KV cache. Owns which block belongs to whom: empty + cached + referenced == total, always.

A full block may be found again by what it holds: its key is a hash chained over all tokens before it, begun at (tenant, adapter).
A block that nobody references keeps its content until the pool needs it; the one unused for longest goes first.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Sequence

from ..base.errors import LeptonError

BLOCK = 32  # tokens; the kernels' block too


def blocks_for(tokens: int) -> int:
    return -(-tokens // BLOCK)


def chain(parent: bytes, tokens: Sequence[int]) -> bytes:
    """Key of a full block that follows `parent`. 128 bits of BLAKE2: tenants cannot make two prefixes collide."""
    return hashlib.blake2b(parent + array("I", tokens).tobytes(), digest_size=16).digest()


def root(tenant: str, adapter: str | None) -> bytes:
    """Where a chain begins. Lengths are part of it, so no two pairs give the same root."""
    names = [tenant.encode(), b"" if adapter is None else b"+" + adapter.encode()]
    return hashlib.blake2b(b"".join(len(name).to_bytes(4, "little") + name for name in names), digest_size=16).digest()


class BlockPool:
    """`references[b]` sequences hold block b; `keys[b]` names its content if the index knows it."""

    def __init__(self, total: int, *, prefix_cache: bool = True):
        self.total, self.prefix_cache = total, prefix_cache
        self.references = [0] * total
        self.keys: list[bytes | None] = [None] * total
        self.index: dict[bytes, int] = {}
        self.empty = list(range(total - 1, -1, -1))
        self.cached: OrderedDict[int, None] = OrderedDict()  # unreferenced blocks with content, longest unused first

    @property
    def free(self) -> int:
        """Blocks that can be had now, cached ones included."""
        return len(self.empty) + len(self.cached)

    @property
    def used(self) -> int:
        return self.total - self.free

    def match(self, keys: Iterable[bytes]) -> list[int]:
        """Blocks of the longest known prefix of `keys`. Nothing is taken yet: see `take`."""
        found = []
        for key in keys if self.prefix_cache else ():
            block = self.index.get(key)
            if block is None:
                break
            found.append(block)
        return found

    def take(self, blocks: Iterable[int]) -> None:
        """One more reference on blocks that have content."""
        for block in blocks:
            if self.references[block] == 0:
                del self.cached[block]
            self.references[block] += 1

    def cost(self, blocks: Iterable[int]) -> int:
        """How many free blocks `take(blocks)` uses up."""
        return sum(self.references[block] == 0 for block in blocks)

    def allocate(self, count: int) -> list[int] | None:
        """`count` blocks for new content, or None (and nothing taken) if there are not as many."""
        if count > self.free:
            return None
        blocks = []
        for _ in range(count):
            if self.empty:
                block = self.empty.pop()
            else:
                block, _ = self.cached.popitem(last=False)
                self.forget(block)
            self.references[block] = 1
            blocks.append(block)
        return blocks

    def forget(self, block: int) -> None:
        key, self.keys[block] = self.keys[block], None
        if key is not None:
            del self.index[key]

    def publish(self, block: int, key: bytes) -> None:
        """The block is full and holds `key`: others may find it. If another block holds the same, that one stays the known one."""
        if self.prefix_cache and key not in self.index and self.keys[block] is None:
            self.index[key], self.keys[block] = block, key

    def release(self, blocks: Sequence[int]) -> None:
        """Give references back. Ends of prefixes become evictable before their beginnings."""
        for block in reversed(blocks):
            self.references[block] -= 1
            if self.references[block] == 0:
                if self.keys[block] is None:
                    self.empty.append(block)
                else:
                    self.cached[block] = None

    def clear_index(self) -> None:
        """Forget all content that nobody uses, and let nobody find what is in use."""
        for block in list(self.index.values()):
            self.forget(block)
        self.empty.extend(self.cached)
        self.cached.clear()

    def check(self, tables: Iterable[Sequence[int]] = ()) -> None:
        """Raise LeptonError unless every block is in exactly one place and `tables` hold exactly the references."""
        held = [0] * self.total
        for table in tables:
            for block in table:
                held[block] += 1
        free = [*self.empty, *self.cached]
        faults = {
            "references are not those of the tables": held != self.references,
            "a block is free twice": len(free) != len(set(free)),
            "a free block is referenced": any(self.references[block] for block in free),
            "blocks are lost": len(free) + sum(count > 0 for count in self.references) != self.total,
            "an empty block has a key": any(self.keys[block] is not None for block in self.empty),
            "a cached block has none": any(self.keys[block] is None for block in self.cached),
            "the index is wrong": any(self.keys[block] != key for key, block in self.index.items())
            or len(self.index) != sum(key is not None for key in self.keys),
        }
        wrong = [what for what, is_so in faults.items() if is_so]
        if wrong:
            raise LeptonError(
                f"the KV cache is not consistent: {'; '.join(wrong)}", fix="This is a defect: restart and report it"
            )
