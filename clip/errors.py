"""The errors of `clip`: what is wrong with a video, in words that may be shown to its sender.

    ClipError                        code
    ├── EmptyFileError               empty_file             no bytes at all
    ├── UnknownContainerError        unknown_container      not a container this package reads
    ├── NoVideoStreamError           no_video_stream        audio, cover art or nothing
    ├── UnsupportedCodecError        unsupported_codec      a known container, a codec not allowed
    ├── EncryptedVideoError          encrypted_video        a protected stream, there is no key
    ├── DecodeError                  decode_failed          not one frame came out
    ├── DecodeTimeoutError           decode_timeout         the decoding took longer than allowed
    └── LimitError                   (one of the three below)
        ├── TooManyPixelsError       too_many_pixels
        ├── TooLongError             too_long
        └── TooManyStreamsError      too_many_streams
    SpecError                        a ClipSpec that this code cannot compute
    ManifestError                    a model's record that is incomplete or contradicts itself

`ClipError.message` never holds a path, an address or the words of a library.
"""

from __future__ import annotations

from typing import ClassVar


class ClipError(ValueError):
    """A video from which no tensor can be made; `code` is stable and made for machines."""

    code: ClassVar[str] = "clip_error"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class EmptyFileError(ClipError):
    """The file holds no bytes."""

    code = "empty_file"


class UnknownContainerError(ClipError):
    """The first bytes are not those of a container that this package reads."""

    code = "unknown_container"


class NoVideoStreamError(ClipError):
    """The container holds no moving picture."""

    code = "no_video_stream"


class UnsupportedCodecError(ClipError):
    """The video stream's codec is not on the allow-list."""

    code = "unsupported_codec"


class EncryptedVideoError(ClipError):
    """The video stream is encrypted."""

    code = "encrypted_video"


class DecodeError(ClipError):
    """The container or the stream is so damaged that no frame came out."""

    code = "decode_failed"


class DecodeTimeoutError(ClipError, TimeoutError):
    """Decoding passed its time limit."""

    code = "decode_timeout"


class LimitError(ClipError):
    """The video is larger than the limits allow."""

    code = "limit_exceeded"


class TooManyPixelsError(LimitError):
    """The picture has more pixels than allowed."""

    code = "too_many_pixels"


class TooLongError(LimitError):
    """The video has more frames, seconds or compressed bytes than allowed."""

    code = "too_long"


class TooManyStreamsError(LimitError):
    """The container holds more streams than allowed."""

    code = "too_many_streams"


class SpecError(ValueError):
    """A ClipSpec that this version of the code cannot compute exactly."""


class ManifestError(ValueError):
    """A ModelManifest that is incomplete or contradicts itself."""
