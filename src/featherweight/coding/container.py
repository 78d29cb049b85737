"""The file container: atomic writes, a sealed envelope, and variable-length fields.

A sealed file is ``magic | version | body | checksum``: the three bytes ``fwt``, one version byte, the body, and the
CRC-32 (ISO-HDLC polynomial, as in zlib) of everything before it, little endian.

Integers in a body are LEB128 varints (DWARF 5, section 7.6): seven bits a byte, least significant group first, the top
bit set on every byte but the last. Signed integers are mapped by zigzag first: 0, -1, 1, -2, ... to 0, 1, 2, 3, ...
"""

import os
import tempfile
import zlib
from contextlib import suppress
from pathlib import Path

from featherweight.core.errors import FormatError

MAGIC = b"fwt"
VERSION = 1
_HEADER = len(MAGIC) + 1
_CHECKSUM = 4
_VARINT_BITS = 64
_VARINT_BYTES = 10  # ceil(64 / 7)


def write_atomic(path: str | os.PathLike[str], data: bytes) -> None:
    """Write ``data`` to ``path`` so that a reader sees the old file or the whole new one, and nothing else remains.

    The bytes go to a temporary file in the same directory (so that the rename stays on one file system), are forced to
    the disk, and replace ``path`` in one step. The new file has the permissions that a plain ``open`` would give it.
    """
    target = Path(path)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, _permissions(target))
        os.replace(temporary, target)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def _permissions(target: Path) -> int:
    """The mode of the file that is replaced, else what the process's umask leaves of 0o666."""
    if target.exists():
        return target.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def seal(body: bytes) -> bytes:
    """``body`` in its envelope."""
    sealed = MAGIC + bytes([VERSION]) + body
    return sealed + zlib.crc32(sealed).to_bytes(_CHECKSUM, "little")


def open_sealed(data: bytes) -> bytes:
    """The body of a sealed file.

    The magic and the version are looked at before the checksum: a file of another kind, or of a later version, is
    called that and not "damaged".
    """
    if not data.startswith(MAGIC[: len(data)]):
        raise FormatError("not a .fwt file: it does not begin with the magic bytes 'fwt'")
    if len(data) < _HEADER + _CHECKSUM:
        raise FormatError(
            f"too short for a .fwt file: {len(data)} bytes, and the smallest has {_HEADER + _CHECKSUM}; "
            "was the copy cut off?"
        )
    version = data[len(MAGIC)]
    if version > VERSION:
        raise FormatError(
            f"written by a newer Featherweight: upgrade (the file has format version {version}, "
            f"this one reads up to {VERSION})"
        )
    if version != VERSION:
        raise FormatError(f"format version {version} does not exist: the file is damaged")
    stored = int.from_bytes(data[-_CHECKSUM:], "little")
    computed = zlib.crc32(memoryview(data)[:-_CHECKSUM])
    if stored != computed:
        raise FormatError(
            f"checksum mismatch (stored {stored:08x}, computed {computed:08x}): "
            "the file is damaged or cut off; copy it anew"
        )
    return data[_HEADER:-_CHECKSUM]


class Writer:
    """Appends variable-length fields to a byte string."""

    def __init__(self) -> None:
        self._data = bytearray()

    def unsigned(self, value: int) -> None:
        """An integer in [0, 2**64) as a LEB128 varint."""
        if not 0 <= value < 1 << _VARINT_BITS:
            raise ValueError(f"{value} is not an unsigned 64-bit integer")
        while value > 0x7F:
            self._data.append(value & 0x7F | 0x80)
            value >>= 7
        self._data.append(value)

    def signed(self, value: int) -> None:
        """An integer in [-2**63, 2**63) as a zigzag varint."""
        self.unsigned(value << 1 if value >= 0 else (-value << 1) - 1)

    def blob(self, value: bytes) -> None:
        """The length as a varint, then the bytes."""
        self.unsigned(len(value))
        self._data += value

    def text(self, value: str) -> None:
        """UTF-8 bytes with their length."""
        self.blob(value.encode("utf-8"))

    def finish(self) -> bytes:
        """Everything written so far."""
        return bytes(self._data)


class Reader:
    """Reads the fields that a :class:`Writer` wrote, in order; anything else is a :class:`FormatError`."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def unsigned(self) -> int:
        """A LEB128 varint of at most 64 bits, in its shortest form."""
        value = 0
        for index in range(_VARINT_BYTES):
            if self._position >= len(self._data):
                raise FormatError("the data ends inside a number")
            byte = self._data[self._position]
            self._position += 1
            value |= (byte & 0x7F) << (7 * index)
            if byte < 0x80:
                if value >> _VARINT_BITS:
                    break
                if index and not byte:
                    raise FormatError("a number is padded with zeros")
                return value
        raise FormatError("a number is longer than 64 bits")

    def signed(self) -> int:
        """A zigzag varint."""
        value = self.unsigned()
        return -(value + 1 >> 1) if value & 1 else value >> 1

    def blob(self) -> bytes:
        """Bytes with their length."""
        length = self.unsigned()
        if length > self.remaining:
            raise FormatError(f"a field of {length} bytes reaches past the end: {self.remaining} are left")
        start = self._position
        self._position += length
        return self._data[start : self._position]

    def text(self) -> str:
        """UTF-8 text with its length in bytes."""
        try:
            return self.blob().decode("utf-8")
        except UnicodeDecodeError as error:
            raise FormatError(f"a text is not valid UTF-8: {error}") from error

    @property
    def remaining(self) -> int:
        """Bytes that are left to read."""
        return len(self._data) - self._position

    def finish(self) -> None:
        """Demand that nothing is left."""
        if self.remaining:
            raise FormatError(f"{self.remaining} bytes are left over at the end")
