"""The bytes of a file beside what its header claims: a header's word alone never costs memory.

A few hundred bytes may claim gigabytes, and a few megabytes unpack to them. So a reader reads the header, says how many
bytes there must be, and is given them if there are as many.
"""

import os
import zlib
from pathlib import Path
from typing import BinaryIO

from scansynth.errors import InputError

MARGIN = 4096
"""Bytes that may follow the voxels: a block, to which some programs fill up."""
_CHUNK = 1 << 14  # of the file; what follows a part's end is copied, so that large ones make many small parts slow
_PIECE = 1 << 20  # of what is inflated
_DEFLATE = 1032  # bytes that DEFLATE makes of one at the most (zlib's technical details)
_SHORTEST = 64  # bytes: shorter files prove nothing by that


class Content:
    """What an open file holds from where it stands on, inflated where it is compressed, in order.

    Args:
        path: for messages.
        file: open, with a file on disk behind it.
        compressed: whether in zlib's frame or gzip's, the latter in one or several parts; None: by gzip's first bytes.
    """

    def __init__(self, path: Path | str, file: BinaryIO, *, compressed: bool | None = None):
        self._path, self._file, self._waiting = path, file, b""
        self._left = os.fstat(file.fileno()).st_size - file.tell()
        if compressed is None:
            start = file.read(2)
            file.seek(-len(start), os.SEEK_CUR)
            compressed = start == b"\x1f\x8b"
        self._inflate = zlib.decompressobj(wbits=47) if compressed else None

    def read(self, size: int) -> bytes:
        """The next bytes; fewer where there are no more, of which a checksum then was compared.

        Raises:
            InputError: if they are compressed and damaged, or cannot be read.
        """
        pieces: list[bytes] = []
        try:
            while size > 0 and (piece := self._next(min(size, _PIECE))):
                pieces.append(piece)
                size -= len(piece)
        except (EOFError, zlib.error):
            raise self._truncated() from None
        except OSError as error:
            raise InputError(
                f"{self._path} cannot be read ({error.strerror or error}): check its permissions"
            ) from error
        return b"".join(pieces)

    def whole(self, head: bytes, claimed: int, *, after: int = MARGIN) -> bytes:
        """All bytes, of which `head` was read already.

        Args:
            head: the first ones.
            claimed: how many the header says that there are.
            after: how many more there may be.

        Raises:
            InputError: if there are fewer or more, before they are in memory.
        """
        if self._inflate is None:
            self._compare(self._left, claimed, after)
        elif claimed > self._left * _DEFLATE + _SHORTEST:
            raise self._truncated()
        content = b"".join((head, self.read(claimed + after + 1 - len(head))))
        self._compare(len(content), claimed, after)
        return content

    def check(self, claimed: int, *, after: int = MARGIN) -> None:
        """As `whole` where nothing was read yet, but nothing is kept."""
        if self._inflate is None:
            return self._compare(self._left, claimed, after)
        there = 0
        while there <= claimed + after and (piece := self.read(_PIECE)):
            there += len(piece)
        return self._compare(there, claimed, after)

    def _compare(self, there: int, claimed: int, after: int) -> None:
        if there < claimed:
            raise self._truncated()
        if there > claimed + after:
            raise InputError(
                f"{self._path} holds more bytes than its header says that it does ({claimed}): mend its header, or "
                "export it again"
            )

    def _truncated(self) -> InputError:
        return InputError(f"{self._path} is truncated or corrupt: copy it again")

    def _next(self, most: int) -> bytes:
        """Some bytes, `most` at the most; none at the end."""
        if self._inflate is None:
            return self._file.read(most)
        while True:
            if self._inflate.eof:
                rest = self._inflate.unused_data.lstrip(b"\0")  # as gzip, which fills up with them
                while not rest:
                    if not (chunk := self._file.read(_CHUNK)):
                        return b""
                    rest = chunk.lstrip(b"\0")
                self._inflate, self._waiting = zlib.decompressobj(wbits=47), rest
            chunk = self._waiting or self._file.read(_CHUNK)
            piece = self._inflate.decompress(chunk, most)
            self._waiting = self._inflate.unconsumed_tail
            if piece:
                return piece
            if not chunk and not self._inflate.eof:
                raise EOFError


def check_room(path: Path, claimed: int, voxels: int) -> None:
    """Raise InputError if a scan is beyond this machine: its bytes twice, the array as float32, a copy in RAS+."""
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # not told: Windows
        return
    if (needed := 2 * claimed + 8 * voxels) > memory:
        raise InputError(
            f"{path} needs {needed / 1e9:.1f} GB of memory, this machine has {memory / 1e9:.1f}: resample or crop it"
        )
