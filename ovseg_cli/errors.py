"""Every error that ovseg raises on purpose.

    OvsegError                      exit code 1: the run failed
    ├── UsageError                  exit code 2: what was asked cannot be done as asked
    │   ├── ClassNameError          a class name that cannot be stored
    │   ├── ClassExistsError        add-class of a name that the store holds
    │   ├── UnknownClassError       a name that the store does not hold
    │   ├── NoInputError            no image found, no run recorded
    │   ├── ProfileMismatchError    the store was made with another profile or extractor
    │   └── LabelError              ground truth that cannot be read as asked
    ├── StoreError
    │   ├── StoreNotFoundError
    │   ├── NoDefaultStoreError     none is named, and there is no home folder for one
    │   ├── StoreVersionError       made by a newer (or too old) ovseg
    │   ├── StoreCorruptError
    │   ├── StoreLockedError        another process is writing
    │   ├── ClassChangedError       another process changed the class meanwhile
    │   └── StoreReadOnlyError
    ├── WeightsError                a profile's weights are not here and cannot be fetched
    ├── MethodError                 a method of another package that cannot be run
    ├── GenerationError             the generator gave no usable support set
    ├── ImageError                  one image that cannot be read
    ├── BundleError                 a file of exported classes that cannot be read or written
    ├── EngineError                 workers, or a cluster, that cannot be had
    ├── DiskFullError
    └── OutputError                 an output folder that cannot be written

Messages are one or two sentences: what is wrong, with the value received, and what to do next.
"""

from __future__ import annotations

from typing import ClassVar


class OvsegError(Exception):
    """Base of every deliberate error; the command line prints it as one line and exits with `exit_code`."""

    exit_code: ClassVar[int] = 1


class UsageError(OvsegError):
    """The request itself is at fault: a bad value, no input, an unknown name."""

    exit_code: ClassVar[int] = 2


class ClassNameError(UsageError):
    """A class name that cannot be stored (empty, too long, or with a forbidden character)."""


class ClassExistsError(UsageError):
    """The store already holds a class of this name."""


class UnknownClassError(UsageError):
    """The store holds no class of this name."""


class NoInputError(UsageError):
    """No image was found, or no run is recorded to work on."""


class ProfileMismatchError(UsageError):
    """The store was made with another profile, or by another version of an extractor."""


class LabelError(UsageError):
    """Ground truth or predictions that cannot be read as labels, or paired, as asked."""


class StoreError(OvsegError):
    """The prototype store cannot be used."""


class StoreNotFoundError(StoreError):
    """There is no store at this path."""


class NoDefaultStoreError(StoreError):
    """No store is named, and there is no home folder in which the default one could be."""


class StoreVersionError(StoreError):
    """The store's schema is newer than this version of ovseg, or not one that it knows."""


class StoreCorruptError(StoreError):
    """The database is damaged, or is not an ovseg store."""


class StoreLockedError(StoreError):
    """Another process held the store's write lock for longer than we were willing to wait."""


class ClassChangedError(StoreError):
    """Another process changed or removed the class that was being changed."""


class StoreReadOnlyError(StoreError):
    """The store's folder or database cannot be written."""


class WeightsError(OvsegError):
    """The weights of a profile are not on this machine and could not be fetched."""


class MethodError(OvsegError):
    """A method whose code cannot be imported, or is none."""


class GenerationError(OvsegError):
    """The generator did not give a usable support set."""


class ImageError(OvsegError):
    """One image that cannot be read."""


class BundleError(OvsegError):
    """A file of exported classes that is damaged, hostile, of a newer version, or beyond its bounds."""


class EngineError(OvsegError):
    """There can be no workers: all have died, or there is no cluster."""


class DiskFullError(OvsegError):
    """No space is left where we write."""


class OutputError(OvsegError):
    """The output folder cannot be used."""
