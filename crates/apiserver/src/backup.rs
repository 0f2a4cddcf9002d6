//! `/kutter/backup`: the whole store at one revision as a file, for whoever may read everything.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use http::Response;
use serve::Body;
use tokio::io::AsyncReadExt;

use crate::answer;
use crate::query::Query;
use crate::server::ApiServer;
use crate::status::Status;

/// Bytes that are read and sent at once.
const CHUNK: usize = 256 << 10;

/// Answers with the file. `?keys=false` leaves the keys out that open sealed values.
pub async fn answer(server: &Arc<ApiServer>, query: &Query) -> Result<Response<Body>, Status> {
    let Some((store, data)) = server.embedded.get() else {
        return Err(Status::new(
            501,
            "NotImplemented",
            "this server keeps its objects in etcd: back that up",
        ));
    };
    let directory = tempfile::tempdir_in(data).map_err(Status::internal)?;
    let path = directory.path().join("backup");
    let with_keys = query.text("keys") != "false";
    let info = store.backup(&path, with_keys).await.map_err(Status::internal)?;
    let file = tokio::fs::File::open(&path).await.map_err(Status::internal)?;
    // The name goes at once; the file lasts as long as it is open.
    drop(directory);
    tracing::info!(revision = info.revision, objects = info.objects, "a backup was taken");
    let chunks = stream::try_unfold(file, |mut file| async move {
        let mut chunk = Vec::with_capacity(CHUNK);
        let read = (&mut file).take(CHUNK as u64).read_to_end(&mut chunk).await?;
        Ok::<_, serve::BoxError>((read > 0).then(|| (Bytes::from(chunk), file)))
    });
    let mut response = answer::bytes(200, "application/octet-stream", "");
    *response.body_mut() = serve::streamed(chunks);
    Ok(response)
}
