//! A Kubernetes API in memory for tests: objects are kept, conflicts, finalizers, selectors and terminating namespaces
//! behave as on a real server, calls are recorded, and any call can be made to fail. There are no watches.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};

use http::{Method, Request, Response};
use jiff::Timestamp;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

use crate::clock::Clock;
use crate::context::Context;
use crate::executor::{Executor, ExecutorError, TaskKey, TaskRequest, TaskState};
use crate::metrics::Metrics;
use crate::settings::Settings;

/// A call that was made.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) body: Value,
}

type Fault = Box<dyn Fn(&Call) -> Option<(u16, &'static str, String)> + Send>;
type Permission = Box<dyn Fn(&Value) -> bool + Send>;

#[derive(Default)]
struct State {
    objects: BTreeMap<Place, Value>,
    terminating: BTreeSet<String>,
    calls: Vec<Call>,
    faults: Vec<Fault>,
    permission: Option<Permission>,
    counter: u64,
    now: Timestamp,
}

/// `batch/v1/jobs`, namespace, name.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    collection: String,
    namespace: String,
    name: String,
}

/// The server.
#[derive(Clone, Default)]
pub(crate) struct FakeApi(Arc<Mutex<State>>);

impl FakeApi {
    pub(crate) fn new() -> Self {
        let fake = Self::default();
        fake.state().now = "2026-11-27T12:00:00Z".parse().unwrap();
        fake
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub(crate) fn client(&self) -> Client {
        let fake = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let fake = fake.clone();
            async move { Ok::<_, Infallible>(fake.answer(request).await) }
        });
        Client::new(service, "default")
    }

    /// A context on this server, with a clock that the test sets.
    pub(crate) fn context(&self, executor: Arc<dyn Executor>) -> (Arc<Context>, Arc<SettableClock>) {
        let clock = Arc::new(SettableClock(Mutex::new(self.state().now)));
        let metrics = Arc::new(Metrics::register(&mut prometheus_client::registry::Registry::default()));
        let settings = Settings::new("redkeep:test", "redkeep-system", "k8s:test");
        let context = Context::new(self.client(), Arc::clone(&clock) as Arc<dyn Clock>, executor, metrics, settings);
        (Arc::new(context), clock)
    }

    /// Puts an object there as it stands, status included; name, namespace and kind are read from it.
    pub(crate) fn put(&self, mut object: Value) {
        let mut state = self.state();
        let place = place_of(&object);
        state.stamp(&mut object, None);
        state.objects.insert(place, object);
    }

    /// The object of a kind, e.g. `("Job", "ns", "name")`.
    pub(crate) fn get(&self, kind: &str, namespace: &str, name: &str) -> Option<Value> {
        self.all(kind).into_iter().find(|object| {
            object["metadata"]["name"] == name && object["metadata"]["namespace"].as_str().unwrap_or("") == namespace
        })
    }

    /// All objects of a kind.
    pub(crate) fn all(&self, kind: &str) -> Vec<Value> {
        self.state().objects.values().filter(|object| object["kind"] == kind).cloned().collect()
    }

    /// Changes an object behind everybody's back, as kubelet or a user would.
    pub(crate) fn update(&self, kind: &str, namespace: &str, name: &str, change: impl FnOnce(&mut Value)) {
        let mut object = self.get(kind, namespace, name).unwrap_or_else(|| panic!("no {kind} {namespace}/{name}"));
        change(&mut object);
        self.put(object);
    }

    /// Takes an object away at once.
    pub(crate) fn remove(&self, kind: &str, namespace: &str, name: &str) {
        let object = self.get(kind, namespace, name).unwrap_or_else(|| panic!("no {kind} {namespace}/{name}"));
        self.state().objects.remove(&place_of(&object));
    }

    /// From now on nothing can be created in this namespace.
    pub(crate) fn terminate_namespace(&self, namespace: &str) {
        self.state().terminating.insert(namespace.to_owned());
    }

    /// Calls for which this says so fail with (code, reason, message).
    pub(crate) fn fail_when(&self, fault: impl Fn(&Call) -> Option<(u16, &'static str, String)> + Send + 'static) {
        self.state().faults.push(Box::new(fault));
    }

    /// Everything works again.
    pub(crate) fn heal(&self) {
        self.state().faults.clear();
    }

    /// What an access review answers, by its resource attributes.
    pub(crate) fn allow(&self, permission: impl Fn(&Value) -> bool + Send + 'static) {
        self.state().permission = Some(Box::new(permission));
    }

    /// Everything asked so far.
    pub(crate) fn calls(&self) -> Vec<Call> {
        self.state().calls.clone()
    }

    /// Everything that was to change something, without Events.
    pub(crate) fn writes(&self) -> Vec<Call> {
        let is_write = |call: &Call| call.method != Method::GET && !call.path.contains("/events");
        self.calls().into_iter().filter(is_write).collect()
    }

    /// Reasons of the Events written so far.
    pub(crate) fn events(&self) -> Vec<String> {
        let posted = |call: &Call| call.method == Method::POST && call.path.contains("/events");
        self.calls()
            .iter()
            .filter(|call| posted(call))
            .filter_map(|call| call.body["reason"].as_str().map(str::to_owned))
            .collect()
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let bytes = body.collect_bytes().await.unwrap();
        let body = if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).unwrap() };
        let header =
            |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        let call = Call {
            method: parts.method,
            path: parts.uri.path().to_owned(),
            query: decoded(parts.uri.query().unwrap_or_default()),
            body,
        };
        let mut state = self.state();
        state.calls.push(call.clone());
        let fault = state.faults.iter().find_map(|fault| fault(&call));
        let answer = match fault {
            Some((code, reason, message)) => Err(failure(code, reason, &message)),
            None => state.handle(&call, &header("content-type")),
        };
        let (code, mut value) = match answer {
            Ok(value) => (200, value),
            Err(status) => (u16::try_from(status["code"].as_u64().unwrap()).unwrap(), status),
        };
        if code == 200 && header("accept").contains("PartialObjectMetadata") {
            value = only_metadata(value);
        }
        Response::builder().status(code).body(Body::from(serde_json::to_vec(&value).unwrap())).unwrap()
    }
}

impl State {
    fn handle(&mut self, call: &Call, content_type: &str) -> Result<Value, Value> {
        let (mut place, subresource) = parse(&call.path);
        if place.collection.ends_with("/selfsubjectaccessreviews") {
            let attributes = &call.body["spec"]["resourceAttributes"];
            let allowed = self.permission.as_ref().is_none_or(|permission| permission(attributes));
            let mut answer = call.body.clone();
            answer["status"] = json!({"allowed": allowed});
            return Ok(answer);
        }
        if subresource.as_deref() == Some("token") {
            self.counter += 1;
            let token = format!("token-of-{}-{}", place.name, self.counter);
            let mut answer = call.body.clone();
            answer["metadata"] = json!({"name": place.name, "creationTimestamp": self.now.to_string()});
            let expires = self.now + std::time::Duration::from_secs(3600);
            answer["status"] = json!({"token": token, "expirationTimestamp": expires.to_string()});
            return Ok(answer);
        }
        match call.method {
            Method::GET if place.name.is_empty() => Ok(self.list(&place, &call.query)),
            Method::GET => self.find(&place).cloned(),
            Method::POST => {
                place.name = if let Some(name) = call.body["metadata"]["name"].as_str() {
                    name.to_owned()
                } else {
                    self.counter += 1;
                    format!("{}{}", call.body["metadata"]["generateName"].as_str().unwrap(), self.counter)
                };
                self.create(place, call.body.clone())
            }
            Method::PATCH => self.patch(place, subresource.as_deref(), call, content_type),
            Method::PUT => self.replace(&place, subresource.as_deref(), call.body.clone()),
            Method::DELETE => self.delete(&place, &call.body),
            _ => Err(failure(405, "MethodNotAllowed", "no such method")),
        }
    }

    fn find(&self, place: &Place) -> Result<&Value, Value> {
        let missing = || failure(404, "NotFound", &format!("{} {} not found", place.collection, place.name));
        self.objects.get(place).ok_or_else(missing)
    }

    fn list(&self, place: &Place, query: &str) -> Value {
        let parameters: HashMap<&str, &str> = query.split('&').filter_map(|pair| pair.split_once('=')).collect();
        let inside = |(at, _): &(&Place, &Value)| {
            at.collection == place.collection && (place.namespace.is_empty() || at.namespace == place.namespace)
        };
        let items: Vec<Value> = self
            .objects
            .iter()
            .filter(inside)
            .map(|(_, object)| object.clone())
            .filter(|object| labels_match(object, parameters.get("labelSelector").copied().unwrap_or_default()))
            .filter(|object| fields_match(object, parameters.get("fieldSelector").copied().unwrap_or_default()))
            .collect();
        let number = |key: &str| parameters.get(key).and_then(|text| text.parse::<usize>().ok());
        let from = number("continue").unwrap_or(0).min(items.len());
        let to = number("limit").map_or(items.len(), |limit| from.saturating_add(limit).min(items.len()));
        let mut metadata = json!({"resourceVersion": self.counter.to_string()});
        if to < items.len() {
            metadata["continue"] = json!(to.to_string());
        }
        json!({"apiVersion": "v1", "kind": "List", "metadata": metadata, "items": items[from..to]})
    }

    fn create(&mut self, place: Place, mut object: Value) -> Result<Value, Value> {
        if self.terminating.contains(&place.namespace) {
            let mut refused = failure(403, "Forbidden", "the namespace is being terminated");
            refused["details"] =
                json!({"causes": [{"reason": "NamespaceTerminating", "message": "", "field": "metadata.namespace"}]});
            return Err(refused);
        }
        if self.objects.contains_key(&place) {
            return Err(failure(409, "AlreadyExists", &format!("{} already exists", place.name)));
        }
        object["metadata"]["name"] = json!(place.name);
        if !place.namespace.is_empty() {
            object["metadata"]["namespace"] = json!(place.namespace);
        }
        if object.as_object().is_some_and(|object| object.contains_key("status")) {
            object["status"] = Value::Null;
        }
        self.stamp(&mut object, None);
        self.objects.insert(place, object.clone());
        Ok(object)
    }

    fn patch(
        &mut self,
        place: Place,
        subresource: Option<&str>,
        call: &Call,
        content_type: &str,
    ) -> Result<Value, Value> {
        let apply = content_type.contains("apply-patch");
        let Some(before) = self.objects.get(&place).cloned() else {
            if apply && subresource.is_none() {
                return self.create(place, call.body.clone());
            }
            return Err(failure(404, "NotFound", &format!("{} {} not found", place.collection, place.name)));
        };
        check_version(&before, &call.body)?;
        let mut after = before.clone();
        let mut patch = call.body.clone();
        if subresource == Some("status") {
            let status = patch["status"].take();
            if apply {
                after["status"] = status;
            } else {
                merge(&mut after["status"], &status);
            }
        } else {
            if let Some(fields) = patch.as_object_mut() {
                fields.remove("status");
            }
            merge(&mut after, &patch);
        }
        Ok(self.store(place, before, after))
    }

    fn replace(&mut self, place: &Place, subresource: Option<&str>, mut object: Value) -> Result<Value, Value> {
        let before = self.find(place)?.clone();
        check_version(&before, &object)?;
        if subresource == Some("status") {
            let status = object["status"].take();
            object = before.clone();
            object["status"] = status;
        } else {
            object["status"] = before["status"].clone();
        }
        Ok(self.store(place.clone(), before, object))
    }

    fn store(&mut self, place: Place, before: Value, mut after: Value) -> Value {
        self.stamp(&mut after, Some(&before));
        let finalizers = after["metadata"]["finalizers"].as_array().is_some_and(|list| !list.is_empty());
        if after["metadata"]["deletionTimestamp"].is_string() && !finalizers {
            self.objects.remove(&place);
        } else {
            self.objects.insert(place, after.clone());
        }
        after
    }

    fn delete(&mut self, place: &Place, options: &Value) -> Result<Value, Value> {
        let mut object = self.find(place)?.clone();
        if let Some(uid) = options["preconditions"]["uid"].as_str()
            && object["metadata"]["uid"] != uid
        {
            return Err(failure(409, "Conflict", "the uid in the precondition differs"));
        }
        if object["metadata"]["finalizers"].as_array().is_some_and(|list| !list.is_empty()) {
            if object["metadata"]["deletionTimestamp"].is_null() {
                object["metadata"]["deletionTimestamp"] = json!(self.now);
            }
            self.objects.insert(place.clone(), object.clone());
        } else {
            self.objects.remove(place);
        }
        Ok(object)
    }

    /// What a server fills in: uid, version, generation, time.
    fn stamp(&mut self, object: &mut Value, before: Option<&Value>) {
        self.counter += 1;
        let metadata = &mut object["metadata"];
        if metadata["uid"].is_null() {
            metadata["uid"] = json!(format!("{:08x}-0000-4000-8000-000000000000", self.counter));
        }
        metadata["resourceVersion"] = json!(self.counter.to_string());
        if metadata["creationTimestamp"].is_null() {
            metadata["creationTimestamp"] = json!(self.now);
        }
        let generation = metadata["generation"].as_i64().unwrap_or(0);
        let changed = before.is_none_or(|before| before["spec"] != object["spec"]);
        object["metadata"]["generation"] = json!(if changed { generation + 1 } else { generation });
    }
}

fn check_version(before: &Value, given: &Value) -> Result<(), Value> {
    let version = &given["metadata"]["resourceVersion"];
    if version.is_string() && *version != before["metadata"]["resourceVersion"] {
        return Err(failure(409, "Conflict", "the object has been modified"));
    }
    Ok(())
}

fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in fields {
        if value.is_null() {
            target.as_object_mut().unwrap().remove(key);
        } else {
            merge(&mut target[key.as_str()], value);
        }
    }
}

fn failure(code: u16, reason: &str, message: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message})
}

fn only_metadata(value: Value) -> Value {
    let one = |object: &Value| json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": object["metadata"]});
    match value["items"].as_array() {
        Some(items) => {
            let items: Vec<Value> = items.iter().map(one).collect();
            json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadataList", "metadata": value["metadata"], "items": items})
        }
        None => one(&value),
    }
}

fn labels_match(object: &Value, selector: &str) -> bool {
    let labels = &object["metadata"]["labels"];
    selector.split(',').filter(|term| !term.is_empty()).all(|term| {
        if let Some(key) = term.strip_prefix('!') {
            labels[key].is_null()
        } else if let Some((key, value)) = term.split_once("!=") {
            labels[key] != value
        } else if let Some((key, value)) = term.split_once('=') {
            labels[key] == value.trim_start_matches('=')
        } else {
            !labels[term].is_null()
        }
    })
}

fn fields_match(object: &Value, selector: &str) -> bool {
    selector.split(',').filter_map(|term| term.split_once('=')).all(|(path, value)| {
        let pointer = format!("/{}", path.replace('.', "/"));
        object.pointer(&pointer).is_some_and(|found| found == value)
    })
}

fn decoded(query: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = query.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits: Vec<u8> = rest.by_ref().take(2).collect();
            bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap());
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).unwrap()
}

fn parse(path: &str) -> (Place, Option<String>) {
    let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
    let (version, rest) = if segments[0] == "api" {
        (segments[1].to_owned(), &segments[2..])
    } else {
        (format!("{}/{}", segments[1], segments[2]), &segments[3..])
    };
    let (namespace, rest) = match rest {
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => ((*namespace).to_owned(), rest),
        rest => (String::new(), rest),
    };
    let collection = format!("{version}/{}", rest[0]);
    let name = rest.get(1).copied().unwrap_or_default().to_owned();
    (Place { collection, namespace, name }, rest.get(2).map(|text| (*text).to_owned()))
}

fn place_of(object: &Value) -> Place {
    let kind = object["kind"].as_str().unwrap().to_ascii_lowercase();
    let plural = match kind.strip_suffix('y') {
        Some(stem) => format!("{stem}ies"),
        None if kind.ends_with('s') => format!("{kind}es"),
        None => format!("{kind}s"),
    };
    Place {
        collection: format!("{}/{plural}", object["apiVersion"].as_str().unwrap()),
        namespace: object["metadata"]["namespace"].as_str().unwrap_or_default().to_owned(),
        name: object["metadata"]["name"].as_str().unwrap().to_owned(),
    }
}

/// A clock that stands until it is set.
pub(crate) struct SettableClock(Mutex<Timestamp>);

impl SettableClock {
    pub(crate) fn at(now: &str) -> Self {
        Self(Mutex::new(now.parse().unwrap()))
    }

    pub(crate) fn set(&self, now: &str) {
        *self.0.lock().unwrap() = now.parse().unwrap();
    }

    pub(crate) fn advance(&self, duration: std::time::Duration) {
        let mut now = self.0.lock().unwrap();
        *now += duration;
    }
}

impl Clock for SettableClock {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap()
    }
}

/// An executor whose tasks stand as the test says.
#[derive(Default)]
pub(crate) struct ScriptedExecutor {
    pub(crate) started: Mutex<Vec<TaskRequest>>,
    pub(crate) cancelled: Mutex<Vec<TaskKey>>,
    pub(crate) forgotten: Mutex<Vec<TaskKey>>,
    pub(crate) states: Mutex<HashMap<String, TaskState>>,
    pub(crate) failures: Mutex<HashMap<String, Timestamp>>,
    pub(crate) refuse: Mutex<Option<&'static str>>,
}

impl ScriptedExecutor {
    /// How the task of this name stands from now on.
    pub(crate) fn set(&self, name: &str, state: TaskState) {
        self.states.lock().unwrap().insert(name.to_owned(), state);
    }

    /// When the task of this name failed.
    pub(crate) fn fails_at(&self, name: &str, at: &str) {
        self.failures.lock().unwrap().insert(name.to_owned(), at.parse().unwrap());
    }

    /// Names of the tasks started so far, each once however often it was asked for.
    pub(crate) fn names(&self) -> Vec<String> {
        self.started.lock().unwrap().iter().map(|request| request.key.name.clone()).collect()
    }
}

#[async_trait::async_trait]
impl Executor for ScriptedExecutor {
    async fn start(&self, request: &TaskRequest) -> Result<(), ExecutorError> {
        if let Some(reason) = *self.refuse.lock().unwrap() {
            let key = request.key.clone();
            return Err(ExecutorError::Refused { key, reason, message: "as the test says".into() });
        }
        let mut started = self.started.lock().unwrap();
        if !started.iter().any(|one| one.key == request.key) {
            started.push(request.clone());
        }
        Ok(())
    }

    async fn observe(&self, key: &TaskKey) -> Result<TaskState, ExecutorError> {
        let states = self.states.lock().unwrap();
        Ok(states.get(&key.name).cloned().unwrap_or(TaskState::Missing))
    }

    async fn failed_at(&self, key: &TaskKey) -> Result<Option<Timestamp>, ExecutorError> {
        Ok(self.failures.lock().unwrap().get(&key.name).copied())
    }

    async fn cancel(&self, key: &TaskKey) -> Result<(), ExecutorError> {
        self.cancelled.lock().unwrap().push(key.clone());
        self.states.lock().unwrap().remove(&key.name);
        Ok(())
    }

    async fn forget(&self, key: &TaskKey) -> Result<(), ExecutorError> {
        self.forgotten.lock().unwrap().push(key.clone());
        Ok(())
    }
}
