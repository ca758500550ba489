"""The error tree, with the exit code of each branch.

StreamSRError                                               1
  ConfigError                                               2
  ModelError                                                2
  SourceError   SourceOpenError SourceLost DecodeError      3
                  SourceRefused
  EngineError   EngineUnavailable EngineBuildError EngineRunError   4
  SinkError     SinkOpenError SinkWriteError                5
                  OutputRemoved
  FrameStalled  PipelineStalled                             6
  PictureShapeError                                         1

Every message says what came, what is allowed and what to do next. End of stream, a closed window and Ctrl-C are not
errors. Adapters turn their library's exceptions into these and keep the cause.
"""


class StreamSRError(Exception):
    """Root of all errors that a user can meet."""

    exit_code = 1


class ConfigError(StreamSRError):
    """An option, a configuration file or a combination of them that cannot be."""

    exit_code = 2


class ModelError(StreamSRError):
    """A model that does not exist, is not trained for the scale, or is not of the form that we run."""

    exit_code = 2


class SourceError(StreamSRError):
    """Something about the input."""

    exit_code = 3


class SourceOpenError(SourceError):
    """The input cannot be opened: missing, refused, not a video."""


class SourceRefused(SourceOpenError):
    """The input wants another user or password; asking again soon may get them locked out."""


class SourceLost(SourceError):
    """A live input went away or fell silent."""


class DecodeError(SourceError):
    """The input is open but cannot be decoded."""


class EngineError(StreamSRError):
    """Something about the inference engine."""

    exit_code = 4


class EngineUnavailable(EngineError):
    """The backend cannot run on this machine; the message says what to install."""


class EngineBuildError(EngineError):
    """The backend could not compile the model."""


class EngineRunError(EngineError):
    """A frame could not be computed, or was refused (wrong size, format or device)."""


class SinkError(StreamSRError):
    """Something about the output."""

    exit_code = 5


class SinkOpenError(SinkError):
    """The output cannot be opened: exists, unwritable, refused, no display."""


class SinkWriteError(SinkError):
    """The output failed while it was being written: disk full, server gone."""


class PictureShapeError(StreamSRError):
    """An internal error: a library takes a picture to have another size, format or layout than the one it was given.

    It is raised instead of writing a damaged picture. Another version of that library may be installed than was tested.
    """


class OutputRemoved(SinkWriteError):
    """The file was removed, renamed or replaced while it was being written, or its folder or file system was."""


class FrameStalled(StreamSRError):
    """The engine or the encoder has worked on one frame of a live stream for too long."""

    exit_code = 6


class PipelineStalled(StreamSRError):
    """A thread did not end in time: it still runs, and what it holds cannot be closed."""

    exit_code = 6
