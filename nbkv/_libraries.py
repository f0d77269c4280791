"""How kernels' machine code is put together: each piece once, and only what will run.

Numba copies the code of everything that a function calls into the function's own module and
optimises it all again: an outlined kernel once more for every caller, an inlined one first
for itself, though nobody runs it. That was two thirds of the time it took to compile nbkv.
"""

from collections.abc import Callable, Iterable
from typing import Any

from llvmlite import binding as llvm
from numba.core.caching import CompileResultCacheImpl, FunctionCache
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler

from nbkv._unboxing import wrap_kernels

#: Libraries that came with a caller from disk, by what they define.
_LOADED: dict[tuple[str, ...], JITCodeLibrary] = {}


class KernelLibrary(JITCodeLibrary):
    """The machine code of one kernel: what it calls outlined stays where it is."""

    def __init__(self, codegen: Any, name: str) -> None:
        super().__init__(codegen, name)
        self.callees: dict[CalleeLibrary, None] = {}

    def add_linking_library(self, library: JITCodeLibrary) -> None:
        """Take in what this kernel calls, or, where it is outlined, note that it is called."""
        library._ensure_finalized()
        if isinstance(library, (PartLibrary, CalleeLibrary)):
            self.callees |= library.callees
        if isinstance(library, CalleeLibrary):
            self.callees[library] = None
        elif isinstance(library, PartLibrary):
            self._linking_libraries.append(library.body)
        else:
            super().add_linking_library(library)

    def _get_module_for_linking(self) -> llvm.ModuleRef:
        """Give everything, for libraries that are not of these classes and to keep on disk."""
        module = super()._get_module_for_linking()
        if self.callees:
            module = module.clone()
            # Callers first: the linker leaves out what nothing there calls yet.
            for callee in reversed(self.callees):
                module.link_in(callee.own_module(), preserve=True)
        return module

    def own_module(self) -> llvm.ModuleRef:
        """Return the code without that of callees."""
        return super()._get_module_for_linking()


class EntryLibrary(KernelLibrary):
    """The machine code of a kernel that the facade calls; `nbkv._unboxing` looks at arrays."""


class CalleeLibrary(KernelLibrary):
    """An outlined kernel's machine code, called where it was compiled."""

    def pack(self) -> tuple[tuple[str, ...], str, bytes]:
        """Return what it defines, its name and its object code."""
        external = llvm.Linkage.external
        names = [f.name for f in self.get_defined_functions() if f.linkage == external]
        return tuple(names), self.name, self._get_compiled_object()


class PartLibrary(KernelLibrary):
    """A part's code, never run: left unoptimised until it lies in the kernel that runs."""

    def __init__(self, codegen: Any, name: str) -> None:
        super().__init__(codegen, name)
        self.body = _Body(self)

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:
        """Return null: no machine code was made."""
        self._ensure_finalized()
        return 0

    @property
    def codegen(self) -> Any:
        """Whom numba asks to store the address of the part's environment."""
        return _NoCode


class _NoCode:
    @staticmethod
    def set_env(env_name: str, env: object) -> None:
        """Store nothing: there is no code that would read it."""


class _Body:
    """What a library looks like to one that takes in its code but not that of its callees."""

    def __init__(self, library: KernelLibrary) -> None:
        self._get_module_for_linking = library.own_module
        self._reload_init = library._reload_init


def compiler_into(kind: type[KernelLibrary]) -> type[Compiler]:
    """Make numba's compiler put its code into a library of this kind."""

    class KernelCompiler(Compiler):
        def compile_extra(self, func: Callable[..., Any]) -> Any:
            self.state.library = kind(self.state.targetctx.codegen(), func.__qualname__)
            self.state.library.enable_object_caching()
            if kind is EntryLibrary:
                wrap_kernels(self.state.targetctx)
            return super().compile_extra(func)

    return KernelCompiler


class _KernelCacheImpl(CompileResultCacheImpl):
    def reduce(self, result: Any) -> Any:
        """Put the machine code of a kernel's callees beside its own, so that it can be run."""
        callees = [callee.pack() for callee in result.library.callees]
        return super().reduce(result), callees

    def rebuild(self, target_context: Any, payload: Any) -> Any:
        """Load a kernel's callees before it, so that the linker finds them."""
        own, callees = payload
        _load(target_context.codegen(), callees)
        return super().rebuild(target_context, own)


def _load(codegen: Any, packed: Iterable[tuple[tuple[str, ...], str, bytes]]) -> None:
    """Make machine code from disk callable, unless an earlier kernel has brought the same."""
    for names, name, code in packed:
        if names not in _LOADED:
            library = _LOADED[names] = JITCodeLibrary(codegen, name)
            library.enable_object_caching()
            library._set_compiled_object(code)
            library._finalize_final_module()


class KernelCache(FunctionCache):
    """A function's cache on disk, its callees' machine code included."""

    _impl_class = _KernelCacheImpl
