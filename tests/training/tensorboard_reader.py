"""Reader of TensorBoard event files: records of a length, its hash, the data, its hash."""

import struct

from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import masked_crc32c


def read_events(directory):
    """The events of all files in a directory, which must be whole."""
    events = []
    for path in sorted(directory.iterdir()):
        content, place = path.read_bytes(), 0
        while place < len(content):
            header, (length,) = content[place : place + 8], struct.unpack_from("<Q", content, place)
            data = content[place + 12 : place + 12 + length]
            assert struct.unpack_from("<I", content, place + 8) == (masked_crc32c(header),)
            assert struct.unpack_from("<I", content, place + 12 + length) == (masked_crc32c(data),)
            events.append(Event.FromString(data))
            place += 16 + length
    return events


def scalars(directory):
    """(tag, step, value) of all scalars, in their order."""
    return [
        (value.tag, event.step, value.simple_value)
        for event in read_events(directory)
        for value in event.summary.value
    ]
