"""Everything binsight raises on purpose, in one small tree.

    BinsightError
    ├── ConfigError    a YAML file, a command-line value or a rule book is wrong
    ├── ImageError     an image is missing, truncated, too large or not an image
    ├── DatasetError   a folder or an index of images cannot be used
    ├── BundleError    a model bundle is corrupt, contradicts itself or is of an unknown schema
    ├── CameraError    a camera cannot be opened or gave no frame
    ├── ActuatorError  a lid cannot be used or did not move
    ├── WireError      a batch or a receipt is not what the protocol says
    ├── AccessError    a bin sends what it has no right to send
    │   └── IdentityError  who sends it is not known: no token, no key, no signature of it
    ├── UplinkError    the hub could not be reached or did not take a batch
    └── StorageError   an outbox or a lake cannot be opened, read or written
        └── BusyError  it works, and has too much to do

Each message names the file or key at fault and what to do about it. The command line prints it and
exits with 2; any other exception is a defect and keeps its traceback.
"""


class BinsightError(Exception):
    """Base of all errors that a user can act on."""


class ConfigError(BinsightError):
    """A configuration, rule book or command-line value is wrong."""


class ImageError(BinsightError):
    """An image cannot be read."""


class DatasetError(BinsightError):
    """A set of images cannot be used."""


class BundleError(BinsightError):
    """A model bundle must not be run."""


class CameraError(BinsightError):
    """A camera cannot be opened or has stopped giving frames."""


class ActuatorError(BinsightError):
    """A lid cannot be used, or did not move."""


class WireError(BinsightError):
    """Bytes on the wire do not follow the protocol."""


class AccessError(BinsightError):
    """Whoever sends this has no right to."""


class IdentityError(AccessError):
    """Nobody can say who sends this."""


class UplinkError(BinsightError):
    """The hub did not take a batch; the batch stays in the outbox."""


class StorageError(BinsightError):
    """Durable storage failed; nothing was acknowledged."""


class BusyError(StorageError):
    """Nothing is wrong, but too much waits already: try again later."""
