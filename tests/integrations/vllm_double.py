"""vLLM's block pool, written from how it behaves: one line of free blocks, hashes to blocks.

A freed block that can be found goes to the end of the line, any other to its front; who needs
a block takes the first. Nothing is checked.
"""

from types import SimpleNamespace


class PlainPool:
    def __init__(self, num_blocks):
        self.blocks = [SimpleNamespace(block_id=i, ref_cnt=0, key=None) for i in range(num_blocks)]
        self.line = self.blocks[1:]
        self.found_by = {}

    def find(self, block_hash, groups):
        found = []
        for group in groups:
            blocks = self.found_by.get((block_hash, group))
            if not blocks:
                return None
            found.append(blocks[0])
        return found

    def cache(self, hashes, blocks, start, end, group):
        for i in range(start, end):
            blocks[i].key = hashes[i], group
            self.found_by.setdefault(blocks[i].key, []).append(blocks[i])

    def forget(self, block):
        if block.key is not None:
            self.found_by[block.key].remove(block)
            block.key = None

    def take(self, count):
        taken, self.line = self.line[:count], self.line[count:]
        for block in taken:
            self.forget(block)
            block.ref_cnt = 1
        return taken

    def touch(self, blocks):
        for block in blocks:
            if block.ref_cnt == 0:
                self.line.remove(block)
            block.ref_cnt += 1

    def free(self, blocks):
        first, last = [], []
        for block in blocks:
            block.ref_cnt -= 1
            if block.ref_cnt == 0:
                (last if block.key else first).append(block)
        self.line = first + self.line + last

    def reset(self):
        if len(self.line) < len(self.blocks) - 1:
            return False
        for block in self.blocks:
            self.forget(block)
        return True
