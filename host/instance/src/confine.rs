//! Takes from this process, and from all that it starts, what a throw-away server never needs: the network, and a hand on
//! other processes. Containers of a pod share its network, and with it metadata services that hand credentials out.

use std::collections::BTreeMap;

use rustix::process::{DumpableBehavior, Pid, Signal};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

/// For good. An error says in one sentence why it cannot be done.
pub(crate) fn confine() -> Result<(), String> {
    let failed =
        |error: &dyn std::fmt::Display| format!("failed to take the network from the throw-away server: {error}");
    // A server of the same user must not look into this process, nor change it.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(|error| failed(&error))?;
    let filter = filter().map_err(|error| failed(&error))?;
    seccompiler::apply_filter(&filter).map_err(|error| failed(&error))
}

fn filter() -> Result<BpfProgram, seccompiler::BackendError> {
    let not_unix =
        SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, u64::from(libc::AF_UNIX.unsigned_abs()))?;
    let rules = BTreeMap::from([
        (libc::SYS_socket, vec![SeccompRule::new(vec![not_unix])?]),
        // It makes sockets without that call.
        (libc::SYS_io_uring_setup, Vec::new()),
        (libc::SYS_ptrace, Vec::new()),
    ]);
    let rules: BTreeMap<i64, Vec<SeccompRule>> =
        rules.iter().flat_map(|(number, rules)| [(*number, rules.clone()), (x32(*number), rules.clone())]).collect();
    let architecture = TargetArch::try_from(std::env::consts::ARCH)?;
    let denied = SeccompAction::Errno(libc::EACCES.unsigned_abs());
    SeccompFilter::new(rules, SeccompAction::Allow, denied, architecture)?.try_into()
}

/// The same call of the x32 ABI, which a kernel may have beside that of x86-64 under one name of an architecture; elsewhere a
/// number that no call has (linux `arch/x86/entry/syscalls/syscall_64.tbl`).
fn x32(number: i64) -> i64 {
    let own = if number == libc::SYS_ptrace { 521 } else { number };
    own | 0x4000_0000
}

/// Ends what a server left behind, so that nothing of it meets the next one's data. Only as process 1 of a container: there,
/// everybody else is one of its children.
pub(crate) fn end_others() {
    if rustix::process::getpid() == Pid::INIT {
        // The group of process 1 means: all but the caller.
        let _ = rustix::process::kill_process_group(Pid::INIT, Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_confined_thread_has_sockets_of_files_and_no_others() {
        // A thread of its own: what is taken is taken for good.
        let outcome = std::thread::spawn(|| {
            confine().unwrap();
            let folder = tempfile::tempdir().unwrap();
            let local = std::os::unix::net::UnixListener::bind(folder.path().join("s")).map(drop);
            let v4 = std::net::TcpListener::bind("127.0.0.1:0").map(drop);
            let v6 = std::net::UdpSocket::bind("[::1]:0").map(drop);
            let child = std::process::Command::new("/bin/sh").args(["-c", "exec 3<>/dev/null"]).status().unwrap();
            (local, v4.map_err(|error| error.kind()), v6.map_err(|error| error.kind()), child.success())
        });
        let (local, v4, v6, child) = outcome.join().unwrap();
        local.unwrap();
        let denied = Err(std::io::ErrorKind::PermissionDenied);
        assert_eq!((v4, v6, child), (denied, denied, true));
    }
}
