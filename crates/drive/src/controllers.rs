//! All controllers: which objects wake which keys, and how each gathers its view.

use std::sync::Arc;

use client::Client;

use crate::lease::Election;
use crate::metrics::Metrics;
use crate::shell::{Controller, Settings, Shell};

mod autoscaler;
mod batch;
mod bootstrap;
mod certificates;
mod disruption;
mod lifecycle;
mod network;
mod nodes;
mod servicecidr;
mod sets;
mod storage;
mod workloads;

/// How the controllers are to run.
#[derive(Clone, Default)]
pub struct Options {
    /// Run only while leading this election.
    pub election: Option<Election>,
    /// Names of controllers that are not to run.
    pub disabled: Vec<String>,
    /// What they are to know of the cluster.
    pub settings: Settings,
    /// Where they count.
    pub metrics: Arc<Metrics>,
}

/// Every controller there is.
pub const ALL: &[Controller] = &[
    Controller { name: "deployment-controller", wire: workloads::deployment },
    Controller { name: "replicaset-controller", wire: workloads::replicaset },
    Controller { name: "replication-controller", wire: workloads::replication_controller },
    Controller { name: "statefulset-controller", wire: sets::statefulset },
    Controller { name: "daemonset-controller", wire: sets::daemonset },
    Controller { name: "job-controller", wire: batch::job },
    Controller { name: "cronjob-controller", wire: batch::cronjob },
    Controller { name: "ttl-after-finished-controller", wire: batch::ttl },
    Controller { name: "endpoint-controller", wire: network::endpoints },
    Controller { name: "endpoint-slice-controller", wire: network::endpointslice },
    Controller { name: "endpoint-slice-mirroring-controller", wire: network::mirror },
    Controller { name: "service-cidr-controller", wire: servicecidr::protect },
    Controller { name: "service-account-controller", wire: lifecycle::service_account },
    Controller { name: "serviceaccount-token-controller", wire: lifecycle::tokens },
    Controller { name: "root-ca-certificate-publisher", wire: lifecycle::root_ca },
    Controller { name: "bootstrap-signer-controller", wire: bootstrap::signer },
    Controller { name: "token-cleaner-controller", wire: bootstrap::cleaner },
    Controller { name: "disruption-controller", wire: disruption::budget },
    Controller { name: "horizontal-pod-autoscaler", wire: autoscaler::horizontal },
    Controller { name: "certificatesigningrequest-approving-controller", wire: certificates::approver },
    Controller { name: "certificatesigningrequest-signing-controller", wire: certificates::signer },
    Controller { name: "certificatesigningrequest-cleaner-controller", wire: certificates::cleaner },
    Controller { name: "node-controller", wire: nodes::lifecycle },
    Controller { name: "node-ipam-controller", wire: nodes::addresses },
    Controller { name: "taint-eviction-controller", wire: nodes::taint_eviction },
    Controller { name: "pod-garbage-collector", wire: nodes::pod_gc },
    Controller { name: "persistentvolume-controller", wire: storage::binder },
    Controller { name: "ephemeral_volume", wire: storage::ephemeral },
    Controller { name: "volume_expand", wire: storage::expand },
    Controller { name: controllers::volume::LOCAL_PROVISIONER, wire: storage::local },
    Controller { name: "pvc-protection-controller", wire: lifecycle::claim_protection },
    Controller { name: "pv-protection-controller", wire: lifecycle::volume_protection },
    Controller { name: "vac-protection-controller", wire: storage::attributes_protection },
    Controller { name: "clusterrole-aggregation-controller", wire: lifecycle::aggregation },
    Controller { name: "namespace-controller", wire: lifecycle::namespace },
    Controller { name: "garbage-collector", wire: lifecycle::garbage_collector },
];

/// The names of all controllers, as they can be disabled.
pub fn names() -> impl Iterator<Item = &'static str> {
    ALL.iter().map(|controller| controller.name)
}

/// Runs all controllers for as long as the future is polled; while it leads, if there is an election.
pub async fn run(client: Client, options: Options) {
    loop {
        if let Some(election) = &options.election {
            election.win(&client).await;
        }
        let mut shell = start(client.clone(), &options);
        match &options.election {
            None => return shell.wait().await,
            Some(election) => election.hold(&client).await,
        }
        tracing::warn!("the lease is lost, controllers stop");
    }
}

/// Starts all controllers; they stop when the shell is dropped.
#[must_use]
pub fn start(client: Client, options: &Options) -> Shell {
    let mut shell = Shell::new(client, options.metrics.clone(), options.settings.clone());
    for controller in ALL.iter().filter(|c| !options.disabled.iter().any(|d| d == c.name)) {
        shell.start(*controller);
    }
    shell
}
