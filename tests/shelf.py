"""A store for tests, `shelf:///folder/...`: objects as files of this computer, which all processes see, put whole.

It counts what it is asked, and fails when it is told to.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from typing import ClassVar

import fsspec
from fsspec.implementations.local import LocalFileSystem


class Shelf(LocalFileSystem):
    """See above.

    Attributes:
        asked: How often it was asked for what, in this process.
        faults: What is raised at the n-th call of an operation, by (operation, n); n = 0 for each.
    """

    protocol = "shelf"
    asked: ClassVar[Counter[str]] = Counter()
    faults: ClassVar[dict[tuple[str, int], Exception]] = {}

    def __init__(self, **options):
        super().__init__(auto_mkdir=True, **options)

    @classmethod
    def clear(cls):
        cls.asked.clear()
        cls.faults.clear()

    @classmethod
    def _strip_protocol(cls, path):
        return os.fspath(path).removeprefix("shelf://").rstrip("/") or "/"

    def unstrip_protocol(self, name):
        return f"shelf://{name}"

    def _ask(self, what):
        type(self).asked[what] += 1
        fault = self.faults.get((what, self.asked[what])) or self.faults.get((what, 0))
        if fault is not None:
            raise fault

    def find(self, path, **more):
        self._ask("list")
        assert more.pop("on_error", "raise") == "raise"
        found = {}
        for folder, _, names in os.walk(path):
            for name in names:
                found[os.path.join(folder, name)] = self.about(os.path.join(folder, name))
        if not found and os.path.isfile(path):
            found[path] = self.about(path)
        return found

    def about(self, path):
        status = os.stat(path)
        return {"name": path, "type": "file", "size": status.st_size, "ETag": f"{status.st_ino} {status.st_mtime_ns}"}

    def info(self, path, **more):
        self._ask("info")
        if os.path.isdir(path) and any(names for _, _, names in os.walk(path)):
            return {"name": path, "type": "directory", "size": 0}
        if not os.path.isfile(path):
            raise FileNotFoundError(path)
        return self.about(path)

    def isdir(self, path):
        try:
            return self.info(path)["type"] == "directory"
        except FileNotFoundError:
            return False

    def exists(self, path, **more):
        self._ask("exists")
        return os.path.exists(path)

    def cat_file(self, path, start=None, end=None, **more):
        self._ask("get")
        with open(path, "rb") as file:
            return file.read()

    def put_file(self, lpath, rpath, callback=None, mode="overwrite", **more):
        self._ask("put")
        os.makedirs(os.path.dirname(rpath), exist_ok=True)
        number, place = tempfile.mkstemp(prefix="shelf-")  # what is not whole yet lies elsewhere
        os.close(number)
        shutil.copyfile(lpath, place)
        os.replace(place, rpath)

    def pipe_file(self, path, value, mode="overwrite", **more):
        self._ask("put")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "xb" if mode == "create" else "wb") as file:
            file.write(value)

    def rm_file(self, path):
        self._ask("remove")
        os.remove(path)

    def rm(self, path, recursive=False, maxdepth=None):
        self._ask("remove")
        for one in path:
            os.remove(one)


fsspec.register_implementation("shelf", Shelf, clobber=True)
