//! ResourceQuota: charges requests to the quotas of their namespace, each by a compare-and-swap on its status.

use policy::quota::{Counted, Usage, charge};
use serde_json::{Map, Value};
use store::{Precondition, Range, StoreError, Write};

use super::{AdmissionContext, Admitted, Operation, Plugin};
use crate::object;
use crate::server::ApiServer;
use crate::status::Status;

/// How often a charge is tried when others change the quota meanwhile.
const TRIES: usize = 16;
const TABLE: &str = "core/resourcequotas";

/// The plugin.
pub struct Quota;

impl Plugin for Quota {
    fn name(&self) -> &'static str {
        "ResourceQuota"
    }

    fn validate<'a>(&'a self, object: &'a Value, context: &'a mut AdmissionContext<'_>) -> Admitted<'a> {
        Box::pin(admit(object, context))
    }
}

async fn admit(object: &Value, context: &mut AdmissionContext<'_>) -> Result<(), Status> {
    let def = &context.resource.def;
    let kind = Counted { group: &def.group, plural: &def.plural };
    let creates = context.operation == Operation::Create;
    let writes = creates || context.operation == Operation::Update;
    if !def.namespaced()
        || !writes
        || !object.is_object()
        || !kind.is_charged(context.subresource, context.old, object)
    {
        return Ok(());
    }
    for _ in 0..TRIES {
        let mut done = true;
        for (revision, quota) in quotas(context.server, context.namespace) {
            let now = jiff::Timestamp::now().as_second();
            let used = charge(&quota, kind, object, context.old, now)
                .map_err(|cause| Status::forbidden(&def.group, &def.plural, context.name, &cause))?;
            let Some(used) = used.filter(|_| !context.dry_run) else { continue };
            match write(context.server, quota, revision, &used).await {
                // The request may still fail; then the next count takes the charge back.
                Ok(()) => context.server.quotas.recount(context.namespace),
                Err(StoreError::Conflict { .. }) => {
                    done = false;
                    break;
                }
                Err(error) => return Err(Status::internal(error)),
            }
        }
        if done {
            return Ok(());
        }
    }
    Err(Status::conflict("", "resourcequotas", context.name, "the quota was changed too often; try again"))
}

/// The quotas of a namespace with their revisions.
pub fn quotas(server: &ApiServer, namespace: &str) -> Vec<(u64, Value)> {
    let snapshot = server.store.snapshot(TABLE);
    let objects = snapshot.iter(&Range { namespace: Some(namespace.into()), after: None });
    objects.filter_map(|object| Some((object.modified, serde_json::from_slice(&object.json).ok()?))).collect()
}

/// Stores the usage of a quota that has not changed since `revision`.
pub async fn write(
    server: &ApiServer,
    mut quota: Value,
    revision: u64,
    used: &Usage,
) -> Result<(), StoreError> {
    let catalog = server.catalog();
    let Some(resource) = catalog.stored("", "resourcequotas") else { return Ok(()) };
    let used: Map<String, Value> =
        used.iter().map(|(name, amount)| (name.clone(), amount.to_string().into())).collect();
    object::set_at(&mut quota, "status.used", used.into());
    let key = resource.key(object::meta_text(&quota, "namespace"), object::name(&quota));
    let value = Some(object::draft(resource, &quota));
    let precondition = Precondition::Revision(revision);
    server.store.write(Write { key, precondition, value, last: None }).await.map(drop)
}
