"""@NAME@: a server's dataset as one RDB file, and back into a data directory.

Three rules of this toolchain (componentize-py):
- bulk goes by `splice`, never through Python: every list of bytes that an import returns stays in memory for ever;
- errors are raised as `Err(types.Error(...))`, never as `Err(None)`;
- there is no WASI: no files, environment, sockets or randomness but what the host gives.
"""

import json

from componentize_py_types import Err
from wit_world import exports
from wit_world.exports.method import Info
from wit_world.imports import artifacts, control, files, log, pipe, redis, types

DUMP = "dump.rdb"
SCHEMA = {"type": "object", "additionalProperties": False, "properties": {}}


def attribute(key, value):
    return types.Attribute(key, str(value))


def failure(code, message):
    """An error of the contract: `raise failure("refused", "…")`."""
    return Err(types.Error(code, message, False, []))


def context():
    return {pair.key: pair.value for pair in control.context()}


def copy(source, sink):
    """The host copies: nothing passes through Python. `finish` takes the sink over."""
    with source:
        pipe.splice(source, sink, None)
        return pipe.finish(sink, [])


def places(about):
    """Where the server looks for its data: with `appendonly yes` a dump alone would be ignored without a word."""
    name = about.get("appendfilename", "appendonly.aof")
    folder = about.get("appenddirname", "appendonlydir")
    base, manifest = f"{name}.1.base.rdb", f"{folder}/{name}.manifest"
    dumps = [] if about.get("appendonly") == "yes" else [about.get("dbfilename", DUMP)]
    if about.get("appendonly") == "no":
        return dumps, None
    return dumps + [f"{folder}/{base}"], (manifest, f"file {base} seq 1 type b\n")


class Method(exports.Method):
    def describe(self):
        return Info(
            name="@NAME@",
            version="0.1.0",
            summary="A server's dataset as one RDB file",
            parameters_schema=json.dumps(SCHEMA),
            requests=["?redis:replicate", "?files:write:**"],
            attributes=[attribute("targets", "directory"), attribute("reads", "@NAME@-rdb")],
        )

    def validate(self, parameters):
        # The host has held them against the schema already; here goes what a schema cannot say.
        json.loads(parameters)

    def plan(self):
        about = context()
        if about["run"] == "restore" and about.get("target") != "directory":
            raise failure("refused", "@NAME@ restores into a data directory only")
        return [attribute("way", "replication" if about["run"] == "capture" else "directory")]

    def capture(self):
        with redis.replicate(True) as link:
            log.write(log.Level.INFO, "snapshot begins", [attribute("offset", link.start_offset())])
            stored = copy(link.snapshot(), artifacts.create(DUMP, [attribute("type", "@NAME@-rdb")]))
            return [attribute("rdb-bytes", stored.size)]

    def restore(self):
        dumps, manifest = places(context())
        for path in dumps:
            copy(artifacts.open(DUMP), files.create(path))
        if manifest is not None:
            path, text = manifest
            sink = files.create(path)
            sink.write(text.encode())
            pipe.finish(sink, [])
        return [attribute("files", len(dumps) + (manifest is not None))]

    def verify(self):
        # The host compares every byte with its digest; here goes whether they make sense.
        with artifacts.open(DUMP) as source:
            if source.read(5) != b"REDIS":
                raise failure("damaged", f"{DUMP} does not begin as an RDB file does")
            return [attribute("rdb-bytes", source.size())]

    def inspect(self, query):
        return json.dumps({stored.name: stored.size for stored in artifacts.list()})
