// The host, and what QuickJS needs around it:
// - only the contract's error record may leave an export: `throw new Error()` would trap, so `fails` turns it into one;
// - what an import fails with arrives as `error.payload`;
// - 64-bit numbers may be BigInt or Number: `Number(…)` before arithmetic and JSON;
// - handles are kept until they are disposed: `using` and `copy` do it.
import * as artifacts from "redkeep:plugin/artifacts@0.1.0";
import * as control from "redkeep:plugin/control@0.1.0";
import * as files from "redkeep:plugin/files@0.1.0";
import * as log from "redkeep:plugin/log@0.1.0";
import * as pipe from "redkeep:plugin/pipe@0.1.0";
import * as redis from "redkeep:plugin/redis@0.1.0";

export { artifacts, control, files, log, pipe, redis };

/// `{ key: value }` as the contract's attributes.
export function pairs(values) {
  return Object.entries(values).map(([key, value]) => ({ key, value: String(value) }));
}

/// An error of the contract: `throw failure("refused", "…")`.
export function failure(code, message) {
  return { code, message, retryable: false, details: [] };
}

function isFailure(error) {
  return typeof error === "object" && error !== null && typeof error.code === "string" && Array.isArray(error.details);
}

/// Whatever was thrown, as the contract's error.
function asFailure(error) {
  if (isFailure(error)) return error;
  if (isFailure(error?.payload)) return error.payload;
  return failure("internal", String(error?.stack ? `${error}: ${error.stack}` : error));
}

/// Exports whose errors are always the contract's.
export function fails(exports) {
  const wrap = (call) => (...given) => {
    try {
      return call(...given);
    } catch (error) {
      throw asFailure(error);
    }
  };
  return Object.fromEntries(Object.entries(exports).map(([name, call]) => [name, wrap(call)]));
}

function dispose(handle) {
  handle[Symbol.dispose ?? Symbol.for("dispose")]?.();
}

/// Runs `work` with a handle and lets go of it, whatever happens.
export function using(handle, work) {
  try {
    return work(handle);
  } finally {
    dispose(handle);
  }
}

/// Fills a sink and finishes it, which takes it over; a sink that could not be filled is let go of.
function filled(sink, fill) {
  try {
    fill(sink);
  } catch (error) {
    dispose(sink);
    throw error;
  }
  return pipe.finish(sink, []);
}

/// The host copies all of it: nothing passes through JavaScript.
export function copy(source, sink) {
  return using(source, () => filled(sink, () => pipe.splice(source, sink, undefined)));
}

/// A short text as the whole of a sink.
export function write(sink, text) {
  const bytes = Uint8Array.from(unescape(encodeURIComponent(text)), (letter) => letter.charCodeAt(0));
  return filled(sink, () => sink.write(bytes));
}

export function info(message, fields = {}) {
  log.write("info", message, pairs(fields));
}
