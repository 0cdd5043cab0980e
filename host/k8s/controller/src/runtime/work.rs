//! Turns what asks for looks into looks: the watch and everybody else is heard at any time, so many looks are made at once, and
//! never two at the same object.

use std::pin::pin;

use futures::stream::{FuturesUnordered, Stream, StreamExt};
use kube::runtime::watcher;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::queue::Queue;
use super::{Action, ObjectKey};

/// How a controller works through its queue.
pub(super) struct Work<'a> {
    /// In logs.
    pub(super) controller: &'static str,
    /// Looks at once; 0: as many as there are.
    pub(super) at_once: u16,
    /// After that no look begins, and those that were begun are made to their end.
    pub(super) shutdown: &'a CancellationToken,
}

impl Work<'_> {
    /// Until it is cancelled. Before `ready` things are noted, and nothing is looked at. `look`: `None` for what is not there.
    pub(super) async fn run<Running: Future<Output = Action>>(
        self,
        watched: impl Stream<Item = Result<ObjectKey, watcher::Error>>,
        mut asked: UnboundedReceiver<ObjectKey>,
        ready: impl Future<Output = ()>,
        look: impl Fn(&ObjectKey) -> Option<Running>,
    ) {
        let at_once = if self.at_once == 0 { usize::MAX } else { self.at_once.into() };
        let (mut watched, mut ready) = (pin!(watched.fuse()), pin!(ready));
        let (mut queue, mut running, mut is_ready) = (Queue::default(), FuturesUnordered::new(), false);
        while !self.shutdown.is_cancelled() {
            queue.advance(Instant::now());
            while is_ready
                && running.len() < at_once
                && let Some(key) = queue.take()
            {
                match look(&key) {
                    Some(looking) => running.push(async move { (key, looking.await) }),
                    // Gone, or not of this controller.
                    None => queue.done(key, None),
                }
            }
            tokio::select! {
                () = self.shutdown.cancelled() => {}
                () = &mut ready, if !is_ready => is_ready = true,
                Some(event) = watched.next() => match event {
                    Ok(key) => queue.ask(key),
                    Err(error) => tracing::warn!(controller = self.controller, error = %error, "unable to watch"),
                },
                Some(key) = asked.recv() => queue.ask(key),
                Some((key, action)) = running.next() => queue.done(key, time_of(action)),
                () = until(queue.next_time()) => {}
            }
        }
        while running.next().await.is_some() {}
    }
}

/// One so far away that there is no such time is none.
fn time_of(action: Action) -> Option<Instant> {
    Instant::now().checked_add(action.again_after?)
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use futures::future::BoxFuture;
    use futures::stream;
    use std::collections::HashMap;
    use std::sync::{Arc, Mutex};
    use std::time::Duration;
    use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
    use tokio::sync::oneshot;

    fn key(name: &str) -> ObjectKey {
        ObjectKey { namespace: "ns".to_owned(), name: name.to_owned() }
    }

    /// Looks that last until the test ends them, and what is heard of them.
    #[derive(Clone, Default)]
    struct Looks(Arc<Mutex<Seen>>);

    #[derive(Default)]
    struct Seen {
        begun: Vec<String>,
        going: HashMap<String, oneshot::Sender<Action>>,
    }

    impl Looks {
        fn begin(&self, key: &ObjectKey) -> Option<BoxFuture<'static, Action>> {
            if key.name == "gone" {
                return None;
            }
            let (sender, receiver) = oneshot::channel();
            let mut seen = self.0.lock().unwrap();
            seen.begun.push(key.name.clone());
            assert!(seen.going.insert(key.name.clone(), sender).is_none(), "two looks at {key:?} at once");
            Some(async move { receiver.await.unwrap() }.boxed())
        }

        fn end(&self, name: &str, action: Action) {
            self.0.lock().unwrap().going.remove(name).unwrap().send(action).unwrap();
        }

        /// What has begun since the last call, once everything that can happen has.
        async fn begun(&self) -> Vec<String> {
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
            std::mem::take(&mut self.0.lock().unwrap().begun)
        }
    }

    /// A controller with this much room, whose list has come back.
    async fn working(
        at_once: u16,
        test: impl AsyncFnOnce(&Looks, &UnboundedSender<ObjectKey>, &UnboundedSender<ObjectKey>, &CancellationToken),
    ) {
        let (looks, shutdown) = (Looks::default(), CancellationToken::new());
        let (changed, receiver) = unbounded_channel();
        let (ask, asked) = unbounded_channel();
        let watched =
            stream::unfold(receiver, |mut receiver| async move { Some((Ok(receiver.recv().await?), receiver)) });
        let work = Work { controller: "test", at_once, shutdown: &shutdown };
        let run = work.run(watched, asked, std::future::ready(()), |key| looks.begin(key));
        tokio::join!(run, async {
            test(&looks, &changed, &ask, &shutdown).await;
            shutdown.cancel();
        });
    }

    #[tokio::test]
    async fn no_more_looks_at_once_than_allowed_and_in_the_order_in_which_they_were_asked_for() {
        working(2, async |looks, changed, ask, _| {
            for name in ["d", "c", "b", "a", "c"] {
                changed.send(key(name)).unwrap();
                looks.begun().await;
            }
            ask.send(key("e")).unwrap();
            looks.begun().await;
            let mut order = Vec::new();
            for name in ["c", "d", "b", "a", "e"] {
                looks.end(name, Action::await_change());
                order.extend(looks.begun().await);
            }
            assert_eq!(order, ["b", "a", "e", "c"], "c had changed while it was looked at");
            looks.end("c", Action::await_change());
        })
        .await;
    }

    #[tokio::test]
    async fn a_change_during_a_look_leads_to_another_one_and_never_to_two_at_once() {
        working(8, async |looks, changed, _, _| {
            changed.send(key("a")).unwrap();
            assert_eq!(looks.begun().await, ["a"]);
            for _ in 0..3 {
                changed.send(key("a")).unwrap();
            }
            assert!(looks.begun().await.is_empty());
            looks.end("a", Action::requeue(Duration::from_secs(3600)));
            assert_eq!(looks.begun().await, ["a"], "three changes, one look");
            looks.end("a", Action::await_change());
            assert!(looks.begun().await.is_empty());
        })
        .await;
    }

    #[tokio::test]
    async fn a_look_comes_again_when_it_said_so() {
        working(1, async |looks, changed, _, _| {
            changed.send(key("gone")).unwrap();
            changed.send(key("a")).unwrap();
            assert_eq!(looks.begun().await, ["a"], "what is not there holds nobody up");
            looks.end("a", Action::requeue(Duration::from_millis(400)));
            assert!(looks.begun().await.is_empty());
            tokio::time::sleep(Duration::from_millis(500)).await;
            assert_eq!(looks.begun().await, ["a"]);
            looks.end("a", Action::await_change());
        })
        .await;
    }

    #[tokio::test]
    async fn a_stop_begins_nothing_and_lets_what_goes_on_end() {
        working(1, async |looks, changed, _, shutdown| {
            changed.send(key("a")).unwrap();
            changed.send(key("b")).unwrap();
            assert_eq!(looks.begun().await, ["a"]);
            shutdown.cancel();
            assert!(looks.begun().await.is_empty());
            looks.end("a", Action::await_change());
            assert!(looks.begun().await.is_empty(), "b is left to the next operator");
        })
        .await;
    }

    #[tokio::test]
    async fn nothing_is_looked_at_before_the_first_list_is_whole_nor_after_an_error_of_the_watch_less() {
        let (looks, shutdown) = (Looks::default(), CancellationToken::new());
        let (is_whole, whole) = oneshot::channel();
        let (_ask, asked) = unbounded_channel();
        let events = [Ok(key("a")), Err(watcher::Error::NoResourceVersion), Ok(key("b"))];
        let work = Work { controller: "test", at_once: 0, shutdown: &shutdown };
        let ready = async { whole.await.unwrap() };
        tokio::join!(work.run(stream::iter(events), asked, ready, |key| looks.begin(key)), async {
            assert!(looks.begun().await.is_empty());
            is_whole.send(()).unwrap();
            assert_eq!(looks.begun().await, ["a", "b"], "a watch that ended or failed stops nothing");
            looks.end("a", Action::await_change());
            looks.end("b", Action::await_change());
            shutdown.cancel();
        });
    }
}
