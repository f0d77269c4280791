"""Files that are there whole or not at all, whenever the machine stops."""

import contextlib
import os
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt


def write_atomically(path: str | os.PathLike[str], data: npt.NDArray[np.uint8]) -> None:
    """Write a file, or leave what is there as it was.

    The bytes go to a temporary file in the same folder, are forced to the disk, and take the
    file's name in one operation, which is forced to the disk as well.

    Parameters
    ----------
    path : path
    data : uint8, C-contiguous

    Raises
    ------
    OSError
        The folder is not there, not writable or full; nothing has changed then.
    """
    target = Path(path)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data.data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    _force_folder(target.parent)


def _umask() -> int:
    """Return the process's mask; the only way to read it is to set it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _force_folder(folder: Path) -> None:
    """Force a folder's entries to the disk, where the system can open folders."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
