//! Leader election: one holder of a Lease at a time.

use std::time::Duration;

use client::{Client, Error};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use tokio::time::Instant;

/// Who wants to lead what.
#[derive(Clone, Debug)]
pub struct Election {
    /// The Lease's namespace.
    pub namespace: String,
    /// The Lease's name.
    pub name: String,
    /// What tells this candidate from others.
    pub identity: String,
    /// How long a leader that is not heard of still counts.
    pub duration: Duration,
    /// How often candidates try, and the leader renews.
    pub period: Duration,
}

impl Election {
    /// An election with upstream's times: 15 seconds, tried every 2.
    #[must_use]
    pub fn new(name: &str, identity: String) -> Self {
        let (duration, period) = (Duration::from_secs(15), Duration::from_secs(2));
        Self { namespace: "kube-system".to_owned(), name: name.to_owned(), identity, duration, period }
    }

    /// Waits until this candidate leads.
    pub async fn win(&self, client: &Client) {
        let mut seen = Seen::default();
        loop {
            match self.attempt(client, &mut seen).await {
                Ok(true) => {
                    tracing::info!(lease = self.name, identity = self.identity, "leading");
                    return;
                }
                Ok(false) => {}
                Err(error) => {
                    tracing::debug!(lease = self.name, error = %error.chain(), "cannot take the lease")
                }
            }
            tokio::time::sleep(self.period).await;
        }
    }

    /// Renews until that has failed for too long, or another leads.
    pub async fn hold(&self, client: &Client) {
        let mut renewed = Instant::now();
        let mut seen = Seen::default();
        let patience = self.duration.mul_f64(2.0 / 3.0);
        loop {
            tokio::time::sleep(self.period).await;
            match tokio::time::timeout(patience, self.attempt(client, &mut seen)).await {
                Ok(Ok(true)) => renewed = Instant::now(),
                Ok(Ok(false)) => return,
                _ if renewed.elapsed() > patience => return,
                _ => {}
            }
        }
    }

    /// Takes or renews the lease if that is possible; whether this candidate leads.
    async fn attempt(&self, client: &Client, seen: &mut Seen) -> Result<bool, Error> {
        let Some(mut lease) = client.find::<Lease>(&self.namespace, &self.name).await? else {
            let metadata = ObjectMeta {
                name: Some(self.name.clone()),
                namespace: Some(self.namespace.clone()),
                ..ObjectMeta::default()
            };
            let created = client.create(&Lease { metadata, spec: Some(self.spec(None)) }).await;
            return lost_race(created);
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.clone().unwrap_or_default();
        let duration =
            Duration::from_secs(u64::try_from(spec.lease_duration_seconds.unwrap_or(0)).unwrap_or(0));
        // Other machines' clocks are not trusted: the time counts from when a renewal was seen here.
        let expired = seen.since(&spec) >= duration;
        if !holder.is_empty() && holder != self.identity && !expired {
            return Ok(false);
        }
        lease.spec = Some(self.spec(Some(spec)));
        lost_race(client.update(&lease).await)
    }

    fn spec(&self, old: Option<LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let mut spec = old.unwrap_or_default();
        if spec.holder_identity.as_deref() != Some(&self.identity) {
            let transitions = spec.lease_transitions.map_or(0, |n| n + 1);
            spec.lease_transitions = Some(transitions);
            spec.acquire_time = Some(now.clone());
            spec.holder_identity = Some(self.identity.clone());
        }
        spec.renew_time = Some(now);
        spec.lease_duration_seconds = i32::try_from(self.duration.as_secs()).ok();
        spec
    }
}

fn lost_race(result: Result<Lease, Error>) -> Result<bool, Error> {
    match result {
        Ok(_) => Ok(true),
        Err(error) if error.is_conflict() || error.is_already_exists() => Ok(false),
        Err(error) => Err(error),
    }
}

/// The last renewal that was seen, and when.
#[derive(Default)]
struct Seen {
    renewal: Option<(LeaseSpec, Instant)>,
}

impl Seen {
    fn since(&mut self, spec: &LeaseSpec) -> Duration {
        match &self.renewal {
            Some((known, at)) if known == spec => at.elapsed(),
            _ => {
                self.renewal = Some((spec.clone(), Instant::now()));
                Duration::ZERO
            }
        }
    }
}
