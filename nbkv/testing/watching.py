"""Calls of a cache, seen by somebody else as well: methods of the instance are wrapped."""

from collections.abc import Callable
from functools import partial
from inspect import Signature, signature
from typing import Any, Final, NoReturn

from nbkv.cache import PagedKVCache
from nbkv.errors import ArgumentError
from nbkv.plan import StepPlan
from nbkv.testing.device import Device
from nbkv.testing.failures import ScheduleError
from nbkv.testing.histories import History

_PLAIN: Final = (
    "finish", "free_sequence", "evict", "reset_prefix_cache", "unregister_prefix",
    "allocate", "acquire", "release",
)  # fmt: skip
_REFUSED: Final = (
    "append", "append_token", "append_tokens", "allocate_block", "allocate_blocks_for_tokens",
    "add_sequence", "index",
)  # fmt: skip
_FOLLOWED: Final = (
    "plan", "commit", "step", "complete", "fail", "admit", "fork", "share_prefix",
    "attach_prefix", "register_prefix", "truncate", "reorder", "pin", "unpin",
)  # fmt: skip


class Watch:
    """Stands between a cache and its callers until it is closed.

    Parameters
    ----------
    cache : PagedKVCache
    device : Device
    """

    def __init__(self, cache: PagedKVCache, device: Device) -> None:
        if "plan" in vars(cache):
            raise ArgumentError("cache is followed by another executor; close that one first")
        self.cache, self.device, self.ledger = cache, device, device.ledger
        self._signatures: dict[str, Signature] = {}
        for name in _PLAIN + _REFUSED + _FOLLOWED:
            original = getattr(cache, name)
            self._signatures[name] = signature(original)
            if name in _PLAIN:
                wrapper = partial(self._call, original)
            elif name in _REFUSED:
                wrapper = partial(self._refuse, name)
            else:
                wrapper = partial(getattr(self, f"_{name}"), original)
            setattr(cache, name, wrapper)

    def close(self) -> None:
        """Leave the cache as it was."""
        for name in self._signatures:
            vars(self.cache).pop(name, None)

    def _call(self, original: Callable[..., Any], *args: Any, **options: Any) -> Any:
        result = original(*args, **options)
        self.device.settle()
        return result

    def _refuse(self, name: str, *_: object, **__: object) -> NoReturn:
        raise ScheduleError(
            f"{name} makes slots or content that no plan tells of; the executor cannot follow it"
        )

    def _given(self, name: str, args: Any, options: Any) -> dict[str, Any]:
        """Return a call's arguments by name."""
        return dict(self._signatures[name].bind(*args, **options).arguments)

    # --- steps -----------------------------------------------------------------------
    def _plan(self, original: Callable[..., StepPlan], *args: Any, **options: Any) -> StepPlan:
        plan = original(*args, **options)
        self.ledger.settle()
        self.device.take(plan)
        return plan

    def _check_commit(self, given: dict[str, Any]) -> None:
        self.device.check_commit(given.get("num_accepted"), given.get("tokens"))

    def _commit(self, original: Callable[..., StepPlan], *args: Any, **options: Any) -> StepPlan:
        given = self._given("commit", args, options)
        if getattr(given["plan"], "is_outstanding", False):
            self._check_commit(given)
        report = original(*args, **options)
        self.ledger.commit(report, given.get("num_accepted"), given.get("tokens"))
        self.ledger.settle()
        return report

    def _step(self, original: Callable[..., StepPlan], *args: Any, **options: Any) -> StepPlan:
        if not self.ledger.uncommitted:
            return original(*args, **options)  # plans by `plan`, which is watched
        given = self._given("step", args, options)
        self._check_commit(given)
        plan = original(*args, **options)
        self.ledger.commit(plan, given.get("num_accepted"), given.get("tokens"))
        self.ledger.settle()
        if plan.is_outstanding:
            self.device.take(plan)
        return plan

    def _complete(self, original: Callable[..., None], step_id: int) -> None:
        self.device.check_complete(step_id)
        original(step_id)

    def _fail(self, original: Callable[..., Any], step_id: int) -> Any:
        withdrawn = original(step_id)
        self.device.fail(step_id, withdrawn)
        return withdrawn

    # --- sequences -------------------------------------------------------------------
    def _admit(self, original: Callable[..., Any], *args: Any, **options: Any) -> Any:
        given = self._given("admit", args, options)
        extra_keys = tuple(given.get("extra_keys", ()))
        if "extra_keys" in options:
            options["extra_keys"] = extra_keys
        handle, num_hit = self._call(original, *args, **options)
        seq_id, prompt = int(given["seq_id"]), given["token_ids"]
        history = History(seq_id, prompt, given.get("salt"), extra_keys)
        history.say(history.prompt[:num_hit])
        self.ledger.open(handle, history)
        return handle, num_hit

    def _fork(self, original: Callable[..., None], src: int, dst: int) -> None:
        self._call(original, src, dst)
        self._follow(self.cache.handle(src), dst)

    def _share_prefix(
        self, original: Callable[..., None], src: int, dst: int, num_blocks: int
    ) -> None:
        self._call(original, src, dst, num_blocks)
        self._follow(self.cache.handle(src), dst)

    def _follow(self, source: int, seq_id: int) -> None:
        history = self.ledger.history(source)
        num_tokens = self.cache.num_cached_tokens(seq_id)
        handle = self.cache.handle(seq_id)
        self.ledger.open(handle, history.like(int(seq_id), num_tokens))

    def _register_prefix(self, original: Callable[..., Any], *args: Any, **options: Any) -> Any:
        given = list(self._given("register_prefix", args, options).values())
        result = self._call(original, *args, **options)
        history = self.ledger.leader(given[1])
        if history is not None:
            self.ledger.names[int(given[0])] = history
        return result

    def _attach_prefix(self, original: Callable[..., None], prefix_hash: int, seq_id: int) -> None:
        self._call(original, prefix_hash, seq_id)
        history = self.ledger.names[int(prefix_hash)]
        self.ledger.open(self.cache.handle(seq_id), history.attached(int(seq_id)))

    def _truncate(self, original: Callable[..., None], seq_id: int, num_tokens: int) -> None:
        self._call(original, seq_id, num_tokens)
        self.ledger.cut(self.cache.handle(seq_id), int(num_tokens))

    def _reorder(self, original: Callable[..., None], sequences: Any, parents: Any) -> None:
        self._call(original, sequences, parents)
        ledger, handles = self.ledger, [int(x) for x in sequences]
        if sequences.dtype != "int64":
            handles = [self.cache.handle(seq_id) for seq_id in handles]
        told = [ledger.history(handle) for handle in handles]
        for i, parent in enumerate(parents.tolist()):
            if parent != i:
                seq_id = told[i].seq_id
                num_tokens = self.cache.num_cached_tokens(seq_id)
                ledger.open(handles[i], told[parent].like(seq_id, num_tokens))

    # --- leases ----------------------------------------------------------------------
    def _pin(self, original: Callable[..., int], handle: int) -> int:
        lease: int = self._call(original, handle)
        self.device.pin(lease, int(handle))
        return lease

    def _unpin(self, original: Callable[..., None], lease: int) -> None:
        self.device.unpin(lease)
        self._call(original, lease)
