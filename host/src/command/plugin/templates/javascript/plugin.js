// @NAME@: a server's dataset as one RDB file, and back into a data directory.
//
// What this toolchain (QuickJS) does to those who do not know it is wrapped in host.js: errors, numbers, handles.
import { artifacts, control, copy, failure, fails, files, info, pairs, redis, using, write } from "./host.js";

const DUMP = "dump.rdb";
const SCHEMA = { type: "object", additionalProperties: false, properties: {} };

function context() {
  return Object.fromEntries(control.context().map(({ key, value }) => [key, value]));
}

/// Where the server looks for its data: with `appendonly yes` a dump alone would be ignored without a word.
function places(about) {
  const name = about.appendfilename ?? "appendonly.aof";
  const folder = about.appenddirname ?? "appendonlydir";
  const base = `${name}.1.base.rdb`;
  const dumps = about.appendonly === "yes" ? [] : [about.dbfilename ?? DUMP];
  if (about.appendonly === "no") return { dumps, manifest: null };
  return {
    dumps: [...dumps, `${folder}/${base}`],
    manifest: { path: `${folder}/${name}.manifest`, text: `file ${base} seq 1 type b\n` },
  };
}

export const method = fails({
  describe() {
    return {
      name: "@NAME@",
      version: "0.1.0",
      summary: "A server's dataset as one RDB file",
      parametersSchema: JSON.stringify(SCHEMA),
      requests: ["?redis:replicate", "?files:write:**"],
      attributes: pairs({ targets: "directory", reads: "@NAME@-rdb" }),
    };
  },

  // The host has held them against the schema already; here goes what a schema cannot say.
  validate(parameters) {
    JSON.parse(parameters);
  },

  plan() {
    const about = context();
    if (about.run === "restore" && about.target !== "directory") {
      throw failure("refused", "@NAME@ restores into a data directory only");
    }
    return pairs({ way: about.run === "capture" ? "replication" : "directory" });
  },

  capture() {
    return using(redis.replicate(true), (link) => {
      info("snapshot begins", { offset: link.startOffset() });
      const stored = copy(link.snapshot(), artifacts.create(DUMP, pairs({ type: "@NAME@-rdb" })));
      return pairs({ "rdb-bytes": stored.size });
    });
  },

  restore() {
    const { dumps, manifest } = places(context());
    for (const path of dumps) copy(artifacts.open(DUMP), files.create(path));
    if (manifest) write(files.create(manifest.path), manifest.text);
    return pairs({ files: dumps.length + (manifest ? 1 : 0) });
  },

  // The host compares every byte with its digest; here goes whether they make sense.
  verify() {
    return using(artifacts.open(DUMP), (source) => {
      const begin = String.fromCharCode(...source.read(5));
      if (begin !== "REDIS") throw failure("damaged", `${DUMP} does not begin as an RDB file does`);
      return pairs({ "rdb-bytes": source.size() });
    });
  },

  inspect() {
    return JSON.stringify(Object.fromEntries(artifacts.list().map(({ name, size }) => [name, Number(size)])));
  },
});
