//! Writes Events. kube's recorder remembers each for six minutes, to count one that comes again; of thousands of runs in that time it
//! would hold tens of megabytes, and look through all of them at each new one.

use std::sync::{Mutex, PoisonError};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, Recorder, Reporter};

/// After so many a recorder that remembers nothing takes over: one that comes again then is a new Event, once.
const REMEMBERED: usize = 256;

/// Writes Events in the name of one operator.
pub struct Events {
    client: Client,
    reporter: Reporter,
    current: Mutex<(Recorder, usize)>,
}

impl Events {
    /// Under the name of this reporter.
    pub fn new(client: Client, reporter: Reporter) -> Self {
        let current = Mutex::new((Recorder::new(client.clone(), reporter.clone()), 0));
        Self { client, reporter, current }
    }

    /// Writes one, or counts it with the same one of before.
    pub async fn publish(&self, event: &Event, about: &ObjectReference) -> Result<(), kube::Error> {
        self.recorder().publish(event, about).await
    }

    fn recorder(&self) -> Recorder {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let (recorder, count) = &mut *current;
        if *count == REMEMBERED {
            *recorder = Recorder::new(self.client.clone(), self.reporter.clone());
            *count = 0;
        }
        *count += 1;
        recorder.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeApi;
    use kube::runtime::events::EventType;

    #[tokio::test]
    async fn what_comes_again_is_counted_and_not_remembered_for_ever() {
        let fake = FakeApi::new();
        let events = Events::new(fake.client(), "redkeep".into());
        let about = ObjectReference {
            kind: Some("RedisBackup".to_owned()),
            namespace: Some("shop".to_owned()),
            name: Some("nightly".to_owned()),
            ..ObjectReference::default()
        };
        let event = Event {
            type_: EventType::Normal,
            reason: "Completed".to_owned(),
            note: None,
            action: "Backup".to_owned(),
            secondary: None,
        };
        let written = || fake.calls().iter().filter(|call| call.method == "POST").count();
        for _ in 0..REMEMBERED {
            events.publish(&event, &about).await.unwrap();
        }
        assert_eq!(written(), 1, "the others count it");
        events.publish(&event, &about).await.unwrap();
        assert_eq!(written(), 2);
    }
}
