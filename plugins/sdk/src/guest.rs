//! The host as a component's imports, and the glue between the exports and a [`crate::Method`].

use std::any::Any;

use crate::attribute::Attribute;
use crate::bindings::exports::redkeep::plugin::method as exported;
use crate::bindings::redkeep::plugin as wit;
use crate::error::{Error, code};
use crate::host::{
    Artifact, Artifacts, Connection, Entry, Files, Host, Level, Redis, Replication, Sink, Socket, Source,
};

/// The imports of the component.
pub struct WasmHost;

/// Makes a panic's message reach the user: a guest that aborts leaves only a trap.
pub fn install_panic_hook() {
    std::panic::set_hook(Box::new(|panic| {
        wit::log::write(wit::log::Level::Error, &format!("plugin panicked: {panic}"), &[]);
    }));
}

fn attribute_in(attribute: wit::types::Attribute) -> Attribute {
    Attribute { key: attribute.key, value: attribute.value }
}

fn attributes_in(attributes: Vec<wit::types::Attribute>) -> Vec<Attribute> {
    attributes.into_iter().map(attribute_in).collect()
}

/// To the contract's form.
pub fn attributes_out(attributes: &[Attribute]) -> Vec<wit::types::Attribute> {
    attributes
        .iter()
        .map(|attribute| wit::types::Attribute { key: attribute.key.clone(), value: attribute.value.clone() })
        .collect()
}

fn error_in(error: wit::types::Error) -> Error {
    Error {
        code: error.code,
        message: error.message,
        retryable: error.retryable,
        details: attributes_in(error.details),
    }
}

/// To the contract's form.
pub fn error_out(error: Error) -> wit::types::Error {
    wit::types::Error {
        code: error.code,
        message: error.message,
        retryable: error.retryable,
        details: attributes_out(&error.details),
    }
}

/// To the contract's form.
pub fn info_out(info: crate::Info) -> exported::Info {
    exported::Info {
        name: info.name,
        version: info.version,
        summary: info.summary,
        parameters_schema: info.parameters_schema,
        requests: info.requests,
        attributes: attributes_out(&info.attributes),
    }
}

fn artifact_in(artifact: wit::types::Artifact) -> Artifact {
    Artifact {
        name: artifact.name,
        size: artifact.size,
        sha256: artifact.sha256,
        attributes: attributes_in(artifact.attributes),
    }
}

struct WasmSource(wit::pipe::Source);

fn source_in(source: wit::pipe::Source) -> Box<dyn Source> {
    Box::new(WasmSource(source))
}

impl Source for WasmSource {
    fn read(&mut self, max: u32) -> Result<Vec<u8>, Error> {
        self.0.read(max).map_err(error_in)
    }
    fn position(&self) -> u64 {
        self.0.position()
    }
    fn size(&self) -> Option<u64> {
        self.0.size()
    }
}

struct WasmSink(wit::pipe::Sink);

fn sink_in(sink: wit::pipe::Sink) -> Box<dyn Sink> {
    Box::new(WasmSink(sink))
}

impl Sink for WasmSink {
    fn write(&mut self, data: &[u8]) -> Result<(), Error> {
        self.0.write(data).map_err(error_in)
    }
    fn finish(self: Box<Self>, attributes: &[Attribute]) -> Result<Artifact, Error> {
        wit::pipe::finish(self.0, &attributes_out(attributes)).map(artifact_in).map_err(error_in)
    }
}

impl Host for WasmHost {
    fn log(&self, level: Level, message: &str, fields: &[Attribute]) {
        let level = match level {
            Level::Trace => wit::log::Level::Trace,
            Level::Debug => wit::log::Level::Debug,
            Level::Info => wit::log::Level::Info,
            Level::Warn => wit::log::Level::Warn,
            Level::Error => wit::log::Level::Error,
        };
        wit::log::write(level, message, &attributes_out(fields));
    }
    fn context(&self) -> Vec<Attribute> {
        attributes_in(wit::control::context())
    }
    fn parameters(&self) -> String {
        wit::control::parameters()
    }
    fn progress(&self, phase: &str, unit: &str, done: u64, total: Option<u64>) -> Result<(), Error> {
        wit::control::progress(phase, unit, done, total).map_err(error_in)
    }
    fn now_ms(&self) -> u64 {
        wit::control::now_ms()
    }
    fn sleep_ms(&self, duration: u32) -> Result<(), Error> {
        wit::control::sleep_ms(duration).map_err(error_in)
    }
    fn splice(&self, source: &mut dyn Source, sink: &mut dyn Sink, max: Option<u64>) -> Result<u64, Error> {
        let foreign = || Error::new(code::INTERNAL, "splice takes only handles of the host");
        let source = (source as &mut dyn Any).downcast_ref::<WasmSource>().ok_or_else(foreign)?;
        let sink = (sink as &mut dyn Any).downcast_ref::<WasmSink>().ok_or_else(foreign)?;
        wit::pipe::splice(&source.0, &sink.0, max).map_err(error_in)
    }
    fn artifacts(&self) -> &dyn Artifacts {
        self
    }
    fn redis(&self) -> &dyn Redis {
        self
    }
    fn files(&self) -> &dyn Files {
        self
    }
    fn socket(&self) -> &dyn Socket {
        self
    }
}

impl Artifacts for WasmHost {
    fn create(&self, name: &str, attributes: &[Attribute]) -> Result<Box<dyn Sink>, Error> {
        wit::artifacts::create(name, &attributes_out(attributes)).map(sink_in).map_err(error_in)
    }
    fn open(&self, name: &str) -> Result<Box<dyn Source>, Error> {
        wit::artifacts::open(name).map(source_in).map_err(error_in)
    }
    fn list(&self) -> Result<Vec<Artifact>, Error> {
        let artifacts = wit::artifacts::list().map_err(error_in)?;
        Ok(artifacts.into_iter().map(artifact_in).collect())
    }
    fn facts(&self) -> Result<Vec<Attribute>, Error> {
        wit::artifacts::facts().map(attributes_in).map_err(error_in)
    }
}

struct WasmReplication(wit::redis::Replication);

impl Replication for WasmReplication {
    fn id(&self) -> String {
        self.0.id()
    }
    fn start_offset(&self) -> u64 {
        self.0.start_offset()
    }
    fn snapshot(&mut self) -> Result<Box<dyn Source>, Error> {
        self.0.snapshot().map(source_in).map_err(error_in)
    }
    fn commands(&mut self, until: Option<u64>, within_ms: Option<u32>) -> Result<Box<dyn Source>, Error> {
        self.0.commands(until, within_ms).map(source_in).map_err(error_in)
    }
    fn offset(&self) -> u64 {
        self.0.offset()
    }
}

impl Redis for WasmHost {
    fn info(&self, section: Option<&str>) -> Result<Vec<Attribute>, Error> {
        wit::redis::info(section).map(attributes_in).map_err(error_in)
    }
    fn command(&self, arguments: &[&[u8]]) -> Result<Vec<u8>, Error> {
        let arguments: Vec<Vec<u8>> = arguments.iter().map(|argument| argument.to_vec()).collect();
        wit::redis::command(&arguments).map_err(error_in)
    }
    fn pipeline(&self, commands: &[Vec<Vec<u8>>]) -> Result<Box<dyn Source>, Error> {
        wit::redis::pipeline(commands).map(source_in).map_err(error_in)
    }
    fn replicate(&self, snapshot_only: bool) -> Result<Box<dyn Replication>, Error> {
        let link = wit::redis::replicate(snapshot_only).map_err(error_in)?;
        Ok(Box::new(WasmReplication(link)))
    }
    fn resume(&self, id: &str, offset: u64) -> Result<Box<dyn Replication>, Error> {
        let link = wit::redis::resume(id, offset).map_err(error_in)?;
        Ok(Box::new(WasmReplication(link)))
    }
    fn load(&self, options: &[Attribute]) -> Result<Box<dyn Sink>, Error> {
        wit::redis::load(&attributes_out(options)).map(sink_in).map_err(error_in)
    }
}

impl Files for WasmHost {
    fn list_directory(&self, path: &str) -> Result<Vec<Entry>, Error> {
        let entries = wit::files::list_directory(path).map_err(error_in)?;
        Ok(entries
            .into_iter()
            .map(|entry| Entry {
                path: entry.path,
                size: entry.size,
                modified_ms: entry.modified_ms,
                directory: entry.directory,
                attributes: attributes_in(entry.attributes),
            })
            .collect())
    }
    fn open(&self, path: &str) -> Result<Box<dyn Source>, Error> {
        wit::files::open(path).map(source_in).map_err(error_in)
    }
    fn create(&self, path: &str) -> Result<Box<dyn Sink>, Error> {
        wit::files::create(path).map(sink_in).map_err(error_in)
    }
    fn remove(&self, path: &str) -> Result<(), Error> {
        wit::files::remove(path).map_err(error_in)
    }
}

struct WasmConnection(wit::socket::Connection);

impl Connection for WasmConnection {
    fn read(&mut self, max: u32, within_ms: Option<u32>) -> Result<Vec<u8>, Error> {
        self.0.read(max, within_ms).map_err(error_in)
    }
    fn write(&mut self, data: &[u8]) -> Result<(), Error> {
        self.0.write(data).map_err(error_in)
    }
}

impl Socket for WasmHost {
    fn connect(&self) -> Result<Box<dyn Connection>, Error> {
        let connection = wit::socket::connect().map_err(error_in)?;
        Ok(Box::new(WasmConnection(connection)))
    }
}

/// Implements the contract's `Guest` for a component by a method; used by [`crate::export!`].
#[doc(hidden)]
#[macro_export]
macro_rules! guest_of {
    ($component:ident, $method:ty) => {
        impl $crate::bindings::exports::redkeep::plugin::method::Guest for $component {
            fn describe() -> $crate::bindings::exports::redkeep::plugin::method::Info {
                $crate::guest::install_panic_hook();
                $crate::guest::info_out(<$method as $crate::Method>::describe())
            }
            fn validate(parameters: String) -> Result<(), $crate::bindings::redkeep::plugin::types::Error> {
                $crate::guest::install_panic_hook();
                <$method as $crate::Method>::validate(&parameters).map_err($crate::guest::error_out)
            }
            $crate::guest_of!(@facts $method, plan);
            $crate::guest_of!(@facts $method, capture);
            $crate::guest_of!(@facts $method, restore);
            $crate::guest_of!(@facts $method, verify);
            fn inspect(query: String) -> Result<String, $crate::bindings::redkeep::plugin::types::Error> {
                $crate::guest::install_panic_hook();
                <$method as $crate::Method>::inspect(&$crate::guest::WasmHost, &query).map_err($crate::guest::error_out)
            }
        }
    };
    (@facts $method:ty, $call:ident) => {
        fn $call() -> Result<
            Vec<$crate::bindings::redkeep::plugin::types::Attribute>,
            $crate::bindings::redkeep::plugin::types::Error,
        > {
            $crate::guest::install_panic_hook();
            <$method as $crate::Method>::$call(&$crate::guest::WasmHost)
                .map(|facts| $crate::guest::attributes_out(facts.as_slice()))
                .map_err($crate::guest::error_out)
        }
    };
}
