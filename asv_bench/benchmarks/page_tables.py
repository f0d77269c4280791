"""Page tables of a batch, for attention kernels."""

from nbkv.bench.emitting import Emitting


class PageTables:
    params = (["handles", "seq_ids"],)
    param_names = ("named by",)

    def setup(self, named_by):
        self.emitting = Emitting(by_seq_id=named_by == "seq_ids")

    def time_csr_step(self, named_by):
        self.emitting.csr_step()

    def time_block_tables(self, named_by):
        self.emitting.block_tables()

    def time_tensorrt_llm(self, named_by):
        self.emitting.tensorrt_llm()

    def time_hf_indices(self, named_by):
        self.emitting.hf_indices()
