//! What happens to containers, found by comparing lists.
//!
//! Runtimes tell of events in different ways, and some lose them. So whatever they tell only wakes: containerd's own
//! events, CRI's, our own changes, or a timer. Then the lists are compared, and what is missing between two states
//! is filled in: a container that was not there and has ended was made, started and ended.

use super::call::RUNTIME;
use super::{Cri, wire};
use crate::config::Filter;
use crate::proto::now;
use crate::runtime::Error;
use crate::state::*;
use futures_util::StreamExt;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc};

/// Events that may wait for a slow receiver.
const EVENTS_MAX: usize = 4096;
/// Looks without being woken, when the runtime tells of its events and when it does not.
const SELDOM: Duration = Duration::from_secs(30);
const OFTEN: Duration = Duration::from_secs(1);
/// Events that come close together are looked at together.
const GATHER: Duration = Duration::from_millis(5);
/// After this time a stream of events that ended is asked for again.
const AGAIN: Duration = Duration::from_secs(10);
/// The runtime's own view may lag behind what it told: it is looked at again after these times.
const LAGS: [Duration; 3] = [GATHER, Duration::from_millis(50), Duration::from_millis(300)];

/// Wakes everyone who compares.
#[derive(Default)]
pub struct Hub {
    changed: tokio::sync::watch::Sender<()>,
}

impl Hub {
    /// Something was changed by us.
    pub fn look(&self) {
        self.changed.send_modify(|()| {});
    }
}

/// A container as it was when last looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    sandbox: String,
    state: ContainerState,
}

fn state(number: i32) -> ContainerState {
    match number {
        0 => ContainerState::Created,
        1 => ContainerState::Running,
        2 => ContainerState::Exited,
        _ => ContainerState::Unknown,
    }
}

/// What happened between two looks: container, its sandbox, and events in their order.
fn compare<'a>(
    old: &'a HashMap<String, Seen>,
    new: &'a HashMap<String, Seen>,
) -> Vec<(&'a str, &'a Seen, Vec<EventKind>)> {
    let mut found = vec![];
    for (id, seen) in new {
        let before = old.get(id).map(|s| s.state);
        if before == Some(seen.state) {
            continue;
        }
        let mut kinds = vec![];
        if before.is_none() {
            kinds.push(EventKind::Created);
        }
        let started = matches!(before, Some(ContainerState::Running | ContainerState::Exited));
        if !started && matches!(seen.state, ContainerState::Running | ContainerState::Exited) {
            kinds.push(EventKind::Started);
        }
        if seen.state == ContainerState::Exited {
            kinds.push(EventKind::Exited);
        }
        if !kinds.is_empty() {
            found.push((id.as_str(), seen, kinds));
        }
    }
    for (id, seen) in old.iter().filter(|(id, _)| !new.contains_key(*id)) {
        let ended = seen.state == ContainerState::Exited;
        let kinds =
            if ended { vec![EventKind::Deleted] } else { vec![EventKind::Exited, EventKind::Deleted] };
        found.push((id.as_str(), seen, kinds));
    }
    found
}

/// A request of which only the namespace in its headers matters.
#[derive(Clone, PartialEq, prost::Message)]
struct Subscribe {
    #[prost(string, repeated, tag = "1")]
    filters: Vec<String>,
}

/// Any stream of events; nothing in it is looked at.
type Told = tonic::Streaming<wire::Nothing>;

impl Cri {
    async fn look(&self) -> Result<HashMap<String, Seen>, Error> {
        let list = self.listed_containers(Filter::default()).await?;
        let seen = |c: wire::Container| (c.id, Seen { sandbox: c.pod_sandbox_id, state: state(c.state) });
        Ok(list.into_iter().map(seen).collect())
    }

    /// The runtime's stream of events, if it has one.
    async fn told(&self) -> Option<Told> {
        let filters = vec!["namespace==k8s.io,topic~=\"^/tasks/\"".to_owned()];
        let request = super::stuck::of_cri(Subscribe { filters });
        let peer = &self.inner.peer;
        if let Ok(own) = peer.stream("/containerd.services.events.v1.Events/", "Subscribe", request).await {
            return Some(own);
        }
        peer.stream(RUNTIME, "GetContainerEvents", tonic::Request::new(wire::Nothing {})).await.ok()
    }

    pub(super) async fn subscribe(&self) -> Result<mpsc::Receiver<Event>, Error> {
        let seen = self.look().await?;
        let (to, from) = mpsc::channel(EVENTS_MAX);
        tokio::spawn(follow(self.clone(), seen, to));
        Ok(from)
    }

    /// What happened to one container, with what an event says besides.
    async fn tell(
        &self,
        to: &mpsc::Sender<Event>,
        uids: &mut HashMap<String, String>,
        (id, seen, kinds): (&str, &Seen, Vec<EventKind>),
    ) -> Result<(), ()> {
        if !uids.contains_key(&seen.sandbox)
            && let Ok(list) = self.sandboxes(Filter::default()).await
        {
            *uids = list.into_iter().map(|(s, _)| (s.id, s.metadata.uid)).collect();
        }
        let pod_uid = uids.get(&seen.sandbox).cloned().unwrap_or_default();
        for kind in kinds {
            let mut event = Event {
                kind,
                container: id.to_owned(),
                sandbox: seen.sandbox.clone(),
                at: now(),
                pod_uid: pod_uid.clone(),
                exit_code: 0,
            };
            if kind == EventKind::Exited
                && let Ok(status) = self.status_in(&seen.sandbox, id).await
            {
                event.exit_code = status.exit_code;
                event.at = status.finished_at;
                if status.reason == "OOMKilled" {
                    to.try_send(Event { kind: EventKind::Oom, ..event.clone() }).map_err(drop)?;
                }
            }
            to.try_send(event).map_err(drop)?;
        }
        Ok(())
    }
}

/// Compares until the receiver goes away, lags, or the runtime does not answer: then the channel closes.
async fn follow(cri: Cri, mut seen: HashMap<String, Seen>, to: mpsc::Sender<Event>) {
    let mut uids = HashMap::new();
    let mut own = cri.inner.events.changed.subscribe();
    let wake = Arc::new(Notify::new());
    let (told_from, mut told) = tokio::sync::watch::channel(false);
    // Ends with this task.
    let mut listener = tokio::task::JoinSet::new();
    listener.spawn(listen(cri.clone(), wake.clone(), told_from));
    let mut again = LAGS.len();
    loop {
        let limit = match LAGS.get(again) {
            Some(lag) => *lag,
            None if *told.borrow_and_update() => SELDOM,
            None => OFTEN,
        };
        let woken = tokio::select! {
            () = to.closed() => return,
            _ = own.changed() => true,
            () = wake.notified() => true,
            Ok(()) = told.changed() => false,
            () = tokio::time::sleep(limit) => false,
        };
        if woken {
            again = 0;
            tokio::time::sleep(GATHER).await;
        } else {
            again = (again + 1).min(LAGS.len());
        }
        let Ok(new) = cri.look().await else { return };
        for happened in compare(&seen, &new) {
            if cri.tell(&to, &mut uids, happened).await.is_err() {
                return;
            }
        }
        seen = new;
    }
}

/// Wakes for everything the runtime tells, as long as it tells anything.
async fn listen(cri: Cri, wake: Arc<Notify>, tells: tokio::sync::watch::Sender<bool>) {
    loop {
        if let Some(mut stream) = cri.told().await {
            tells.send_replace(true);
            while let Some(Ok(_)) = stream.next().await {
                wake.notify_one();
            }
            tells.send_replace(false);
            wake.notify_one();
        }
        tokio::time::sleep(AGAIN).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_between_looks() {
        use ContainerState::{Created, Exited, Running};
        let at = |state: Option<ContainerState>| -> HashMap<String, Seen> {
            state.into_iter().map(|state| ("c".to_owned(), Seen { sandbox: "s".into(), state })).collect()
        };
        let cases: [(Option<ContainerState>, Option<ContainerState>, &[EventKind]); 8] = [
            (None, Some(Created), &[EventKind::Created]),
            (None, Some(Exited), &[EventKind::Created, EventKind::Started, EventKind::Exited]),
            (Some(Created), Some(Running), &[EventKind::Started]),
            (Some(Created), Some(Exited), &[EventKind::Started, EventKind::Exited]),
            (Some(Running), Some(Running), &[]),
            (Some(Running), Some(Exited), &[EventKind::Exited]),
            (Some(Running), None, &[EventKind::Exited, EventKind::Deleted]),
            (Some(Exited), None, &[EventKind::Deleted]),
        ];
        for (old, new, want) in cases {
            let (before, after) = (at(old), at(new));
            let got: Vec<EventKind> = compare(&before, &after).into_iter().flat_map(|(_, _, k)| k).collect();
            assert_eq!(got, want, "{old:?} to {new:?}");
        }
    }
}
