"""Data files of a test's own, in place of published ones."""

import dataclasses
import hashlib

from experiments import data


def publish(name, content, directory, monkeypatch):
    """Has the data file of this name be one of this content, in `directory`."""
    file = data.DATA_FILES[name]
    (directory / file.filename).write_bytes(content)
    changed = dataclasses.replace(file, sha256=hashlib.sha256(content).hexdigest())
    monkeypatch.setitem(data.DATA_FILES, name, changed)
    return directory
