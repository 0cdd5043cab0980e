//! Logins of other systems, done by the host inside a plugin's own byte stream, so that no plugin sees a credential
//! (docs/adr/0016). Sans-IO: what the plugin wrote goes in, what is sent comes out, and the other way.
//!
//! What the server says is held back until it has confirmed the login in its protocol's own form: a server that merely
//! echoes what it gets is found out before the plugin could read the credential from the echo.

use redkeep_core::secret::Secret;

/// The lengths of ZooKeeper's request for a session, without and with the flag for read-only servers.
const SESSION_REQUEST: std::ops::RangeInclusive<usize> = 44..=45;
/// Those of the answer.
const SESSION_ANSWER: std::ops::RangeInclusive<usize> = 36..=37;
/// Held back until the login is confirmed, at most.
const MAX_HELD: usize = 64 << 10;
/// The number that ZooKeeper's own client gives to this request, and the request's kind.
const AUTH_XID: i32 = -4;
const AUTH_REQUEST: i32 = 100;

/// Why a login did not succeed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LoginError {
    #[error("the server refused the login")]
    Refused,
    #[error("the plugin does not begin with a request for a session, so that the login has no place")]
    NoSessionRequest,
    #[error("the server does not answer the login as ZooKeeper does")]
    Strange,
    #[error("the server closed the connection before it had confirmed the login")]
    Closed,
}

/// Which login, and with what.
#[derive(Clone, Debug)]
pub(crate) enum Login {
    /// ZooKeeper's `addauth digest USER:PASSWORD`.
    ZookeeperDigest { credential: Secret },
}

impl Login {
    /// The names that an address may give.
    pub(crate) const NAMES: &'static str = "zookeeper-digest";

    pub(crate) fn new(name: &str, user: &str, password: &Secret) -> Option<Self> {
        let credential = || Secret::new(format!("{user}:{}", password.expose()));
        (name == "zookeeper-digest").then(|| Self::ZookeeperDigest { credential: credential() })
    }

    /// For one connection.
    pub(crate) fn begin(&self) -> PendingLogin {
        let Self::ZookeeperDigest { credential } = self;
        PendingLogin {
            request: auth_request(credential),
            outgoing: Vec::new(),
            held: Vec::new(),
            sent: false,
            done: false,
        }
    }
}

/// A login on its way.
pub(crate) struct PendingLogin {
    request: Vec<u8>,
    outgoing: Vec<u8>,
    held: Vec<u8>,
    sent: bool,
    done: bool,
}

impl PendingLogin {
    /// What is to be sent, after the plugin wrote this.
    pub(crate) fn outgoing(&mut self, data: &[u8]) -> Result<Vec<u8>, LoginError> {
        if self.sent {
            return Ok(data.to_vec());
        }
        self.outgoing.extend_from_slice(data);
        let Some((head, _)) = self.outgoing.split_first_chunk::<4>() else { return Ok(Vec::new()) };
        let length = usize::try_from(i32::from_be_bytes(*head)).unwrap_or(usize::MAX);
        if !SESSION_REQUEST.contains(&length) {
            return Err(LoginError::NoSessionRequest);
        }
        if self.outgoing.len() < 4 + length {
            return Ok(Vec::new());
        }
        let rest = self.outgoing.split_off(4 + length);
        let mut out = std::mem::take(&mut self.outgoing);
        // The server handles frames in their order: whatever the plugin asks from here on is asked by this user.
        out.append(&mut self.request);
        out.extend(rest);
        self.sent = true;
        Ok(out)
    }

    /// What the plugin may read, after this came; none while it is held back.
    pub(crate) fn incoming(&mut self, data: &[u8]) -> Result<Vec<u8>, LoginError> {
        if self.done {
            return Ok(data.to_vec());
        }
        self.held.extend_from_slice(data);
        let (mut at, mut is_first) = (0, true);
        while let Some((head, rest)) = self.held.get(at..).and_then(<[u8]>::split_first_chunk::<4>) {
            let length = usize::try_from(i32::from_be_bytes(*head)).unwrap_or(usize::MAX);
            if length > MAX_HELD || (is_first && !SESSION_ANSWER.contains(&length)) {
                return Err(LoginError::Strange);
            }
            let Some(frame) = rest.get(..length) else { break };
            if !is_first
                && let Some((xid, answer)) = frame.split_first_chunk::<4>()
                && i32::from_be_bytes(*xid) == AUTH_XID
            {
                // The transaction's number, and then nought for success.
                if answer.get(8..12) != Some(&[0; 4]) {
                    return Err(LoginError::Refused);
                }
                // The plugin did not ask, so it sees no answer.
                self.held.drain(at..at + 4 + length);
                self.done = true;
                return Ok(std::mem::take(&mut self.held));
            }
            is_first = false;
            at += 4 + length;
        }
        if self.held.len() > MAX_HELD { Err(LoginError::Strange) } else { Ok(Vec::new()) }
    }

    /// The server closed the connection.
    pub(crate) fn closed(&self) -> Result<(), LoginError> {
        if self.done { Ok(()) } else { Err(LoginError::Closed) }
    }
}

/// One frame: header, kind 0, scheme and credential.
fn auth_request(credential: &Secret) -> Vec<u8> {
    let number = |value: usize| i32::try_from(value).unwrap_or(i32::MAX).to_be_bytes();
    let (scheme, credential) = (b"digest", credential.expose().as_bytes());
    let mut body = [AUTH_XID.to_be_bytes(), AUTH_REQUEST.to_be_bytes(), [0; 4]].concat();
    for text in [&scheme[..], credential] {
        body.extend(number(text.len()));
        body.extend_from_slice(text);
    }
    [&number(body.len())[..], &body].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn frame(body: &[u8]) -> Vec<u8> {
        [&i32::try_from(body.len()).unwrap().to_be_bytes()[..], body].concat()
    }

    fn session_request() -> Vec<u8> {
        frame(&[7; 45])
    }

    fn session_answer() -> Vec<u8> {
        frame(&[8; 37])
    }

    fn answer(xid: i32, error: i32) -> Vec<u8> {
        frame(&[&xid.to_be_bytes()[..], &9i64.to_be_bytes(), &error.to_be_bytes()].concat())
    }

    fn login() -> PendingLogin {
        Login::new("zookeeper-digest", "bob", &Secret::new("hunter2")).unwrap().begin()
    }

    fn pass(login: &mut PendingLogin, bytes: &[u8], chunk: usize, out: bool) -> Result<Vec<u8>, LoginError> {
        let parts = bytes.chunks(chunk).map(|part| if out { login.outgoing(part) } else { login.incoming(part) });
        parts.collect::<Result<Vec<_>, _>>().map(|parts| parts.concat())
    }

    proptest! {
        #[test]
        fn the_login_goes_in_after_the_first_frame_and_its_answer_comes_out_of_the_stream(
            chunk in 1usize..120,
            after: Vec<u8>,
            late in any::<bool>(),
        ) {
            let mut login = login();
            let sent = pass(&mut login, &[session_request(), after.clone()].concat(), chunk, true).unwrap();
            let request = auth_request(&Secret::new("bob:hunter2"));
            prop_assert_eq!(sent, [session_request(), request, after.clone()].concat());
            let event = if late { answer(-1, 0) } else { Vec::new() };
            let came = [session_answer(), event.clone(), answer(-4, 0), after.clone()].concat();
            let read = pass(&mut login, &came, chunk, false).unwrap();
            prop_assert_eq!(read, [session_answer(), event, after].concat());
            prop_assert_eq!(login.closed(), Ok(()));
        }

        #[test]
        fn nothing_of_an_echo_reaches_the_plugin(chunk in 1usize..120, after: Vec<u8>) {
            let mut login = login();
            let sent = pass(&mut login, &[session_request(), after].concat(), chunk, true).unwrap();
            let read = pass(&mut login, &sent, chunk, false);
            prop_assert!(read.is_err() || read == Ok(Vec::new()));
        }
    }

    #[test]
    fn the_request_is_the_one_that_zookeepers_client_sends() {
        let expected = b"\0\0\0\x25\xff\xff\xff\xfc\0\0\0\x64\0\0\0\0\0\0\0\x06digest\0\0\0\x0bbob:hunter2";
        assert_eq!(auth_request(&Secret::new("bob:hunter2")), expected);
    }

    #[rstest]
    #[case(answer(-4, -115), LoginError::Refused)]
    #[case(frame(&(-4i32).to_be_bytes()), LoginError::Refused)]
    #[case(frame(&vec![0; 65537]), LoginError::Strange)]
    #[case(b"-ERR unknown command 'bob:hunter2'\r\n".to_vec(), LoginError::Strange)]
    #[case((0..5000).flat_map(|_| answer(-1, 0)).collect(), LoginError::Strange)]
    fn a_login_that_is_not_confirmed_ends_the_connection(#[case] then: Vec<u8>, #[case] expected: LoginError) {
        let mut login = login();
        login.outgoing(&session_request()).unwrap();
        assert_eq!(login.incoming(&[session_answer(), then].concat()), Err(expected));
        assert_eq!(login.closed(), Err(LoginError::Closed));
    }

    #[test]
    fn a_plugin_that_begins_otherwise_sends_nothing() {
        for begin in [&b"GET / HTTP/1.1"[..], &frame(&[0; 12]), &[0xff; 8]] {
            assert_eq!(login().outgoing(begin), Err(LoginError::NoSessionRequest));
        }
        assert!(Login::new("kerberos", "bob", &Secret::new("x")).is_none());
    }
}
