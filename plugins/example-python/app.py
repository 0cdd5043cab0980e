"""A method in Python: lists the keys and takes each by DUMP. The artifact is a file of RESTORE commands, so that a restore is one
copy in the host, and `redis-cli --pipe` reads it too.

componentize-py keeps every list that an import returns until the instance ends. So values never come into Python: `pipeline` leaves
the replies in the host, the few bytes of each reply's head are read, and `splice` copies the value itself, at the host's speed.
"""

import json

from componentize_py_types import Err
from wit_world.exports.method import Info
from wit_world.imports import artifacts, control, pipe, redis
from wit_world.imports.types import Attribute, Error

NAME, TYPE = "keys.resp", "redis-commands"
# Keys whose replies are asked for together.
BATCH = 200
NO_PARAMETERS = '{"type": "object", "additionalProperties": false}'


def failure(code, message):
    return Err(Error(code, message, False, []))


def command(*words):
    """Words as one RESP command."""
    out = b"*%d\r\n" % len(words)
    for word in words:
        out += b"$%d\r\n%s\r\n" % (len(word), word)
    return out


def parse(reply, at=0):
    """One RESP reply that lies in memory: its value, and where it ends."""
    end = reply.index(b"\r\n", at)
    kind, line, at = reply[at : at + 1], reply[at + 1 : end], end + 2
    if kind == b"$":
        length = int(line)
        return (None, at) if length < 0 else (reply[at : at + length], at + length + 2)
    if kind == b"*":
        values = []
        for _ in range(int(line)):
            value, at = parse(reply, at)
            values.append(value)
        return values, at
    return line, at


def ask(*words):
    return parse(redis.command(list(words)))[0]


def head(source):
    """The first line of the next reply, byte by byte: what follows it stays in the host."""
    line = b""
    while not line.endswith(b"\r\n"):
        byte = source.read(1)
        if not byte:
            raise failure("source-io", "the server's replies are cut short")
        line += byte
    return line


def databases():
    """Numbers of the databases that hold keys."""
    return [line.key[2:].encode() for line in redis.info("keyspace") if line.key.startswith("db")]


def copy_keys(keys, sink):
    """Writes one RESTORE for each key that is still there; how many there were, and their bytes."""
    asked = [words for key in keys for words in ([b"PTTL", key], [b"DUMP", key])]
    count = size = 0
    with redis.pipeline(asked) as replies:
        for key in keys:
            left = int(head(replies)[1:])
            line = head(replies)
            if line.startswith(b"-"):
                raise failure("server-reply", line[1:-2].decode(errors="replace"))
            length = int(line[1:])
            if length < 0:
                continue  # Expired or deleted since it was listed.
            expires = b"%d" % (control.now_ms() + left if left >= 0 else 0)
            start = command(b"RESTORE", key, expires).replace(b"*3", b"*5", 1)
            sink.write(start + line)
            pipe.splice(replies, sink, length + 2)
            sink.write(b"$6\r\nABSTTL\r\n")
            count, size = count + 1, size + length
    return count, size


class Method:
    def describe(self):
        return Info(
            name="example-python",
            version="0.1.0",
            summary="Every key by DUMP, as a file of RESTORE commands",
            parameters_schema=NO_PARAMETERS,
            requests=["?redis:info", "?redis:load"]
            + ["?redis:command:" + name for name in ("SELECT", "SCAN", "PTTL", "DUMP")],
            attributes=[Attribute("targets", "server"), Attribute("reads", TYPE)],
        )

    def validate(self, parameters):
        json.loads(parameters)

    def plan(self):
        return []

    def capture(self):
        keys = size = 0
        seen = set()
        sink = artifacts.create(NAME, [Attribute("type", TYPE)])
        for database in databases():
            ask(b"SELECT", database)
            sink.write(command(b"SELECT", database))
            cursor = b"0"
            seen.clear()
            while True:
                cursor, found = ask(b"SCAN", cursor, b"COUNT", b"%d" % BATCH)
                # SCAN may name a key twice, and the second RESTORE would find it in use.
                found = [key for key in dict.fromkeys(found) if key not in seen]
                seen.update(found)
                for start in range(0, len(found), BATCH):
                    count, bytes_ = copy_keys(found[start : start + BATCH], sink)
                    keys, size = keys + count, size + bytes_
                control.progress("capture", "keys", keys, None)
                if cursor == b"0":
                    break
        pipe.finish(sink, [])
        return [Attribute("keys", str(keys)), Attribute("value-bytes", str(size))]

    def restore(self):
        source, sink = artifacts.open(NAME), redis.load([])
        pipe.splice(source, sink, None)
        done = pipe.finish(sink, [])
        return [attribute for attribute in done.attributes if attribute.key == "commands"]

    def verify(self):
        # Read whole, which is what makes the host compare its digests; each chunk stays in memory (see above).
        source = artifacts.open(NAME)
        first = b""
        while chunk := source.read(1 << 18):
            first = first or chunk
        if first and not first.startswith(b"*"):
            raise failure("damaged", NAME + " does not begin with a command")
        return []

    def inspect(self, query):
        return json.dumps({fact.key: int(fact.value) for fact in artifacts.facts() if fact.value.isdigit()})
