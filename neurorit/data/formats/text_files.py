"""Text as it was written: byte order marks, UTF-16, gzip, numbered lines, JSON of a line."""

from __future__ import annotations

import codecs
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from neurorit.core.errors import BadInput

LONGEST = 64 * 1024 * 1024  # bytes of a line; a longer one is no record
_LOOKED_AT = 4096  # bytes in which a text shows how it is encoded
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16's, which begins alike
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# What no text has many of: not ends of lines and pages, tabs, escapes, or letters struck twice.
_CONTROLS = bytes(code for code in range(0x20) if code not in b"\b\t\n\v\f\r\x1b")

# NaN and Infinity, which Python writes and no other tool reads, are nothing.
_DECODER = json.JSONDecoder(parse_constant=lambda name: None)

Bad = Callable[[BadInput], None]


def encoding_of(head: bytes) -> tuple[str, int]:
    """(codec, length of the byte order mark) of a text by its first bytes; UTF-8 unless they tell.

    Without a mark, UTF-16 and UTF-32 are told by the zero bytes of their ASCII characters, and
    UTF-16 of other alphabets by the small numbers of these, which as UTF-8 would be control
    characters. Raises ValueError for what has many of them elsewhere: it is no text.
    """
    for mark, codec in _MARKS:
        if head.startswith(mark):
            return codec, len(mark)
    head = head[:_LOOKED_AT]
    zeros = [head[start::4].count(0) for start in range(4)]
    quads, pairs = len(head) // 4, len(head) // 2
    even, odd = zeros[0] + zeros[2], zeros[1] + zeros[3]
    # Characters up to U+FFFF, which in UTF-32 have two zero bytes each.
    if quads and zeros[2] + zeros[3] >= 1.8 * quads and not zeros[0]:
        return "utf-32-le", 0
    if quads and zeros[0] + zeros[1] >= 1.8 * quads and not zeros[3]:
        return "utf-32-be", 0
    if odd > pairs / 5 and odd > even:
        return "utf-16-le", 0
    if even > pairs / 5 and even > odd:
        return "utf-16-be", 0
    if even + odd > len(head) / 10:
        raise ValueError("it is full of zero bytes, and neither UTF-8 nor UTF-16 text")
    if len(head.translate(None, _CONTROLS)) < 0.9 * len(head):
        small = [sum(byte < 0x20 for byte in head[start::2]) for start in range(2)]
        if max(small) < 0.8 * pairs:
            raise ValueError("it is full of control characters, and neither UTF-8 nor UTF-16 text")
        return ("utf-16-le" if small[1] > small[0] else "utf-16-be"), 0
    return "utf-8", 0


def decoded(data: bytes) -> str:
    """The text of some bytes, without its mark; raises ValueError, saying where, for none."""
    codec, mark = encoding_of(data)
    try:
        return data[mark:].decode(codec)
    except UnicodeDecodeError as error:
        raise ValueError(not_text(error, codec, mark)) from error


def not_text(error: UnicodeDecodeError, codec: str, mark: int = 0) -> str:
    """What is said of bytes that are no text of their encoding."""
    return f"no {codec.upper()} text at byte {error.start + mark}"


def read_text(path: Path) -> str:
    """A whole file's text; raises BadInput naming it."""
    try:
        return decoded(Path(path).read_bytes())
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: cannot be read: {reason_of(error)}") from error


def open_utf8(path: Path) -> IO[bytes]:
    """A file's bytes as UTF-8 without a mark, whatever it is encoded in; gzip is unpacked.

    Raises OSError, or ValueError for what is no text.
    """
    stream: Any = open(path, "rb")  # noqa: SIM115 (whoever asks for it closes it)
    try:
        if stream.peek(2)[:2] == b"\x1f\x8b":
            stream.close()
            stream = gzip.open(path, "rb")  # noqa: SIM115
        head: bytes = stream.peek(_LOOKED_AT)
        codec, mark = encoding_of(head)
        stream.read(mark)
        by_cr = b"\r" in head and b"\n" not in head  # lines as old Macs end them
        return io.BufferedReader(_Recoded(stream, codec)) if by_cr or codec != "utf-8" else stream
    except BaseException:
        stream.close()
        raise


def numbered_lines(path: Path, bad: Bad) -> Iterator[tuple[int, bytes]]:
    """Lines as UTF-8 with their numbers; one without end is bad, and so is a broken archive."""
    number = 0
    try:
        with open_utf8(path) as stream:
            while line := stream.readline(LONGEST + 1):
                number += 1
                if len(line) <= LONGEST:
                    yield number, line
                    continue
                bad(BadInput(f"{path}:{number}: the line is longer than {LONGEST} bytes"))
                while line and not line.endswith(b"\n"):
                    line = stream.readline(LONGEST)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        bad(BadInput(f"{path}:{number + 1}: cannot be read: {reason_of(error)}"))


def reason_of(error: Exception) -> str:
    """One line of a library's error for a person; of an OSError what the system says."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, UnicodeDecodeError):
        return not_text(error, error.encoding)
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def decode_line(line: bytes) -> Any:
    """The value of a line; raises ValueError, saying what is wrong, for any that is none.

    Half of a surrogate pair (`"\\ud800"`) is none: no encoder and no file takes it.
    """
    try:
        value = _DECODER.decode(line.decode("utf-8"))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"no UTF-8 text at byte {error.start}") from error
    # Only an escape can bring one in.
    if b"\\ud" in line.lower():
        check_text(json.dumps(value, ensure_ascii=False))
    return value


def check_text(text: str) -> None:
    """Raise ValueError for a text that holds half of a surrogate pair."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        half = ord(text[error.start])
        raise ValueError(f"it holds \\u{half:04x}, half of a surrogate pair") from error


class _Recoded(io.RawIOBase):
    """A stream of another encoding as UTF-8, with the usual ends of lines."""

    def __init__(self, stream: IO[bytes], codec: str) -> None:
        self._stream = stream
        decoder = codecs.getincrementaldecoder(codec)()
        self._decoder = io.IncrementalNewlineDecoder(decoder, translate=True)
        self._left = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._left:
            data = self._stream.read(1 << 16)
            text = self._decoder.decode(data, final=not data)
            self._left = text.encode("utf-8", "surrogatepass")
            if not data and not self._left:
                return 0
        size = min(len(buffer), len(self._left))
        buffer[:size], self._left = self._left[:size], self._left[size:]
        return size

    def close(self) -> None:
        self._stream.close()
        super().close()
