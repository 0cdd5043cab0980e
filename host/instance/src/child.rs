//! Redis as a child process: started in a group of its own, reaped together with whatever else process 1 inherits.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use redkeep_core::secret::Secret;
use rustix::process::{Pid, Signal, WaitOptions};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::clock::{self, Moment};
use crate::error::InstanceError;
use crate::link::{Link, Password};
use crate::log::{self, Tail};
use crate::program::Program;
use crate::redis_conf::{self, Parts};
use crate::settings::Settings;
use crate::supervisor::Event;

/// How often Redis is asked how it is.
const ASK_EVERY: Duration = Duration::from_millis(200);
/// How long one answer may take.
const ASK_LIMIT: Duration = Duration::from_secs(1);

/// A running Redis.
pub(crate) struct Running {
    pub(crate) process: String,
    pub(crate) pid: Pid,
    pub(crate) started: Moment,
    /// For orders; readings of `INFO` have a connection of their own.
    pub(crate) link: Link,
    pub(crate) password: Password,
    pub(crate) tail: Tail,
    asking: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.asking.abort();
    }
}

impl Running {
    /// Writes the configuration and starts Redis.
    pub(crate) fn start(
        settings: &Settings,
        program: &Program,
        users: &[(String, String)],
        password: Option<Secret>,
        events: &mpsc::Sender<Event>,
    ) -> Result<Self, InstanceError> {
        let conf = settings.conf();
        write_conf(settings, users, password.as_ref(), &conf)?;
        // What a killed Redis left would be taken for the new one's.
        let _ = std::fs::remove_file(settings.socket());
        let mut command = Command::new(&program.path);
        command.arg(&conf).current_dir(&settings.data).process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Redis needs none of what the pod tells this program.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("REDKEEP_") {
                command.env_remove(name);
            }
        }
        let failed = |source| InstanceError::Start { program: program.path.clone(), source };
        let mut child = command.spawn().map_err(failed)?;
        let tail = Tail::default();
        if let Some(stream) = child.stdout.take() {
            log::pass_on(stream, tail.clone());
        }
        if let Some(stream) = child.stderr.take() {
            log::pass_on(stream, tail.clone());
        }
        let process = format!("{:032x}", rand::random::<u128>());
        let password = Password::new(password.into());
        let asked = Link::new(settings.socket(), Arc::clone(&password));
        Ok(Self {
            asking: tokio::spawn(ask(process.clone(), asked, events.clone())),
            process,
            pid: Pid::from_child(&child),
            started: clock::now(),
            link: Link::new(settings.socket(), Arc::clone(&password)),
            password,
            tail,
        })
    }

    /// Asks Redis to save and end.
    pub(crate) fn terminate(&self) {
        let _ = rustix::process::kill_process(self.pid, Signal::TERM);
    }

    /// Ends Redis and the children with which it saves.
    pub(crate) fn kill(&self) {
        let _ = rustix::process::kill_process_group(self.pid, Signal::KILL);
    }
}

fn write_conf(
    settings: &Settings,
    users: &[(String, String)],
    password: Option<&Secret>,
    path: &Path,
) -> Result<(), InstanceError> {
    let failed = |source| InstanceError::Write { path: path.to_path_buf(), source };
    let text = redis_conf::write(
        users,
        &Parts {
            data: &settings.data,
            socket: &settings.socket(),
            pidfile: &settings.pidfile(),
            port: settings.redis_port,
            bind: settings.redis_bind,
            pod_ip: settings.pod_ip,
            password: password.map(Secret::expose),
            tls: settings.tls()?,
            require_client_certificate: settings.require_client_certificate,
        },
    );
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&settings.run).map_err(failed)?;
    let _ = std::fs::remove_file(path);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)
}

/// Asks for `INFO` again and again, from a task of its own: a Redis that hangs must not hold the supervisor.
async fn ask(process: String, mut link: Link, events: mpsc::Sender<Event>) {
    loop {
        let at = clock::now();
        let answer = link.call(&["INFO"], ASK_LIMIT).await;
        let event = Event::Answered { process: process.clone(), at, answer };
        if events.send(event).await.is_err() {
            return;
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

/// Passes on that the program is to end, and that a child has ended.
pub(crate) fn watch_signals(events: mpsc::Sender<Event>) -> Result<JoinHandle<()>, InstanceError> {
    use tokio::signal::unix::{SignalKind, signal};
    let watch = |kind| signal(kind).map_err(|source| InstanceError::System { act: "watch signals", source });
    let mut terminate = watch(SignalKind::terminate())?;
    let mut interrupt = watch(SignalKind::interrupt())?;
    let mut child = watch(SignalKind::child())?;
    Ok(tokio::spawn(async move {
        // A signal can be missed while another is handled: look now and then too.
        let mut now_and_then = tokio::time::interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                _ = terminate.recv() => drop(events.send(Event::Terminate).await),
                _ = interrupt.recv() => drop(events.send(Event::Terminate).await),
                _ = child.recv() => reap(&events).await,
                _ = now_and_then.tick() => reap(&events).await,
            }
        }
    }))
}

/// Takes the status of every child that has ended; process 1 inherits those of others.
async fn reap(events: &mpsc::Sender<Event>) {
    while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
        let status = match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => format!("exit code {code}"),
            (_, Some(signal)) => format!("signal {signal}"),
            _ => continue,
        };
        let _ = events.send(Event::Ended { pid, status }).await;
    }
}
