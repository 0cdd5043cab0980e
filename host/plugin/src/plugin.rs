//! A loaded plugin: every call in a store of its own, within its limits.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use redkeep_core::Attribute;
use redkeep_core::method::{Method, MethodError, MethodInfo, Run, code};
use wasmtime::{Engine, Store, Trap, UpdateDeadline};

use crate::bindings::exports::redkeep::plugin::method::Info;
use crate::bindings::redkeep::plugin::types;
use crate::bindings::{Everything, EverythingPre};
use crate::failure::{Stop, from_guest, from_trap, own_limit, wall_clock};
use crate::grants::Permissions;
use crate::limits::{CpuClock, Limits, TICK};
use crate::measured;
use crate::schema::Schema;
use crate::state::{Export, State, unique};
use crate::text::printable;

/// Facts that one call may return.
const MAX_FACTS: usize = 1000;
/// The longest value of a fact, in bytes.
const MAX_FACT: usize = 16 << 10;

type Answer<'call, T> = Pin<Box<dyn Future<Output = wasmtime::Result<T>> + Send + 'call>>;
type Facts = Result<Vec<types::Attribute>, types::Error>;

/// Why a call gave no answer.
pub(crate) enum Failure {
    /// The component's exports have other types than the contract's.
    Unfit(wasmtime::Error),
    /// What the user is told.
    Call(MethodError),
}

/// A component, linked and ready to be instantiated.
pub(crate) struct Plugin {
    engine: Engine,
    linked: EverythingPre<State>,
    limits: Limits,
    /// Its origin, until `describe` has said its name.
    name: Arc<str>,
    permissions: Arc<Permissions>,
}

/// A plugin that has described itself.
pub(crate) struct ReadyPlugin {
    plugin: Plugin,
    info: MethodInfo,
    digest: String,
    schema: Schema,
}

impl Plugin {
    pub(crate) fn new(engine: Engine, linked: EverythingPre<State>, limits: Limits, origin: &str) -> Self {
        Self { engine, linked, limits, name: printable(origin, 200).into(), permissions: Arc::default() }
    }

    pub(crate) fn ready(
        self,
        info: MethodInfo,
        digest: String,
        schema: Schema,
        permissions: Permissions,
    ) -> ReadyPlugin {
        let plugin = Self { name: info.name.as_str().into(), permissions: Arc::new(permissions), ..self };
        ReadyPlugin { plugin, info, digest, schema }
    }

    fn store(&self, state: State, limits: &Limits, clock: CpuClock) -> Store<State> {
        let mut store = Store::new(&self.engine, state);
        store.limiter(|state| &mut state.meter);
        store.set_hostcall_fuel(limits.hostcall_bytes);
        store.set_max_component_handles(limits.handles);
        store.set_epoch_deadline(1);
        let slice = limits.cpu_slice;
        let ticks = slice.as_millis().div_ceil(TICK.as_millis());
        store.epoch_deadline_callback(move |_| {
            if u128::from(clock.tick()) > ticks {
                return Err(Stop::CpuSlice { milliseconds: slice.as_millis() }.into());
            }
            // Other tasks get their turn, and the wall clock can strike.
            Ok(UpdateDeadline::Yield(1))
        });
        store
    }

    async fn call<T>(
        &self,
        export: Export,
        run: Option<Run>,
        parameters: Option<&str>,
        act: impl for<'call> FnOnce(&'call Everything, &'call mut Store<State>) -> Answer<'call, T> + Send,
    ) -> Result<T, MethodError> {
        self.try_call(export, run, parameters, act).await.map_err(|failure| match failure {
            Failure::Call(error) => error,
            // Seen at loading, when `describe` is called.
            Failure::Unfit(error) => from_trap(&self.name, export.name(), &error, None),
        })
    }

    /// Calls one export in a fresh store, which is dropped whatever happened.
    async fn try_call<T>(
        &self,
        export: Export,
        run: Option<Run>,
        parameters: Option<&str>,
        act: impl for<'call> FnOnce(&'call Everything, &'call mut Store<State>) -> Answer<'call, T> + Send,
    ) -> Result<T, Failure> {
        let limits = match export {
            Export::Describe | Export::Validate => self.limits.sandbox(),
            _ => self.limits.clone(),
        };
        let clock = CpuClock::default();
        let permissions = Arc::clone(&self.permissions);
        let mut state = State::new(Arc::clone(&self.name), export, run, permissions, limits.clone(), clock.clone());
        if let Some(parameters) = parameters {
            state.parameters = parameters.to_owned();
        }
        let mut store = self.store(state, &limits, clock);
        let answer = tokio::time::timeout(limits.wall_clock, async {
            let instance = self.linked.instantiate_async(&mut store).await.map_err(|error| (error, true))?;
            act(&instance, &mut store).await.map_err(|error| (error, false))
        })
        .await;
        match answer {
            Ok(Ok(answer)) => Ok(answer),
            // Only now does wasmtime compare the types of the exports; instantiating also runs code, which may trap.
            Ok(Err((error, true))) if !error.is::<Trap>() && !error.is::<Stop>() && own_limit(&error).is_none() => {
                Err(Failure::Unfit(error))
            }
            Ok(Err((error, _))) => {
                tracing::debug!(plugin = %self.name, export = export.name(), ?error, "call of a plugin failed");
                Err(Failure::Call(from_trap(&self.name, export.name(), &error, store.data().panic.as_deref())))
            }
            Err(_) => Err(Failure::Call(wall_clock(&self.name, export.name(), limits.wall_clock))),
        }
    }

    pub(crate) async fn describe(&self) -> Result<MethodInfo, Failure> {
        let info = self
            .try_call(Export::Describe, None, None, |plugin, store| {
                Box::pin(plugin.redkeep_plugin_method().call_describe(store))
            })
            .await?;
        Ok(info.into())
    }
}

impl ReadyPlugin {
    async fn facts(
        &self,
        export: Export,
        run: Run,
        act: impl for<'call> FnOnce(&'call Everything, &'call mut Store<State>) -> Answer<'call, Facts> + Send,
    ) -> Result<Vec<Attribute>, MethodError> {
        let facts = self.plugin.call(export, Some(run), None, act).await?.map_err(from_guest)?;
        if facts.len() > MAX_FACTS {
            let message = format!("the plugin returned {} facts, and {MAX_FACTS} are the most", facts.len());
            return Err(MethodError::new(code::INTERNAL, message));
        }
        let facts = facts
            .into_iter()
            .map(|fact| Attribute { key: printable(&fact.key, 200), value: printable(&fact.value, MAX_FACT) });
        unique(facts.collect(), "its facts")
    }
}

#[async_trait]
impl Method for ReadyPlugin {
    fn info(&self) -> &MethodInfo {
        &self.info
    }

    fn digest(&self) -> &str {
        &self.digest
    }

    async fn validate(&self, parameters: &str) -> Result<(), MethodError> {
        self.schema.check(parameters)?;
        let text = parameters.to_owned();
        self.plugin
            .call(Export::Validate, None, Some(parameters), |plugin, store| {
                Box::pin(async move { plugin.redkeep_plugin_method().call_validate(store, &text).await })
            })
            .await?
            .map_err(from_guest)
    }

    async fn plan(&self, run: Run) -> Result<Vec<Attribute>, MethodError> {
        self.facts(Export::Plan, run, |plugin, store| Box::pin(plugin.redkeep_plugin_method().call_plan(store))).await
    }

    async fn capture(&self, run: Run) -> Result<Vec<Attribute>, MethodError> {
        let artifacts = Arc::clone(&run.artifacts);
        let facts = self
            .facts(Export::Capture, run, |plugin, store| Box::pin(plugin.redkeep_plugin_method().call_capture(store)))
            .await?;
        measured::check(&self.info.name, &facts, &artifacts.list().await?)?;
        Ok(facts)
    }

    async fn restore(&self, run: Run) -> Result<Vec<Attribute>, MethodError> {
        self.facts(Export::Restore, run, |plugin, store| Box::pin(plugin.redkeep_plugin_method().call_restore(store)))
            .await
    }

    async fn verify(&self, run: Run) -> Result<Vec<Attribute>, MethodError> {
        self.facts(Export::Verify, run, |plugin, store| Box::pin(plugin.redkeep_plugin_method().call_verify(store)))
            .await
    }

    async fn inspect(&self, run: Run, query: &str) -> Result<String, MethodError> {
        let query = query.to_owned();
        self.plugin
            .call(Export::Inspect, Some(run), None, |plugin, store| {
                Box::pin(async move { plugin.redkeep_plugin_method().call_inspect(store, &query).await })
            })
            .await?
            .map_err(from_guest)
    }
}

impl From<Info> for MethodInfo {
    fn from(info: Info) -> Self {
        Self {
            name: info.name,
            version: info.version,
            summary: info.summary,
            parameters_schema: info.parameters_schema,
            requests: info.requests,
            attributes: info.attributes.into_iter().map(Into::into).collect(),
        }
    }
}
