//! The cache against a server that answers from a script: over a real socket, request by request.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use client::{Cache, Client, Config, Identity, ListOptions, ObjectKey};
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::ConfigMap;
use tokio::sync::mpsc;

/// One expected request, and its answer.
struct Turn {
    contains: &'static str,
    status: u16,
    lines: Vec<String>,
    /// Whether the answer stays open until the test ends.
    open: bool,
}

fn turn(contains: &'static str, status: u16, lines: &[&str], open: bool) -> Turn {
    Turn { contains, status, lines: lines.iter().map(|l| format!("{l}\n")).collect(), open }
}

type Log = Arc<Mutex<Vec<String>>>;
type Held = Arc<Mutex<Vec<mpsc::Sender<Result<Frame<Bytes>, Infallible>>>>>;

/// Serves the script on a free port; what was asked goes to the log.
async fn serve(script: Vec<Turn>) -> Result<(Client, Log), Box<dyn std::error::Error>> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = format!("http://{}", listener.local_addr()?);
    let (script, log, held) = (Arc::new(Mutex::new(VecDeque::from(script))), Log::default(), Held::default());
    let requests = log.clone();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let (script, log, held) = (script.clone(), requests.clone(), held.clone());
            let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
                let answer = answer(&request, &script, &log, &held);
                async move { Ok::<_, Infallible>(answer) }
            });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service),
            );
        }
    });
    Ok((Client::from_config(Config::new(vec![address], None, Identity::Anonymous))?, log))
}

fn answer(
    request: &hyper::Request<Incoming>,
    script: &Mutex<VecDeque<Turn>>,
    log: &Log,
    held: &Held,
) -> hyper::Response<UnsyncBoxBody<Bytes, Infallible>> {
    let uri = request.uri().to_string();
    log.lock().unwrap().push(uri.clone());
    let next = script.lock().unwrap().pop_front();
    let turn = next.unwrap_or_else(|| turn("", 500, &["{}"], false));
    assert!(uri.contains(turn.contains), "asked {uri}, the script has {}", turn.contains);
    let (sender, mut receiver) = mpsc::channel(turn.lines.len().max(1));
    for line in turn.lines {
        sender.try_send(Ok(Frame::data(Bytes::from(line)))).unwrap();
    }
    if turn.open {
        held.lock().unwrap().push(sender);
    }
    let stream = futures_util::stream::poll_fn(move |cx| receiver.poll_recv(cx));
    hyper::Response::builder().status(turn.status).body(StreamBody::new(stream).boxed_unsync()).unwrap()
}

fn event(kind: &str, name: &str, revision: u64) -> String {
    format!(
        r#"{{"type":"{kind}","object":{{"kind":"ConfigMap","apiVersion":"v1","metadata":{{"namespace":"n","name":"{name}","uid":"{name}","resourceVersion":"{revision}","managedFields":[{{"manager":"m"}}]}}}}}}"#
    )
}

fn bookmark(revision: u64, end: bool) -> String {
    let end = if end { r#","annotations":{"k8s.io/initial-events-end":"true"}"# } else { "" };
    format!(r#"{{"type":"BOOKMARK","object":{{"metadata":{{"resourceVersion":"{revision}"{end}}}}}}}"#)
}

const EXPIRED: &str =
    r#"{"type":"ERROR","object":{"status":"Failure","code":410,"reason":"Expired","message":"too old"}}"#;

fn names(cache: &Cache<ConfigMap>) -> String {
    cache.keys().iter().map(|k| k.name.to_string()).collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn streams_resumes_and_starts_over() -> Result<(), Box<dyn std::error::Error>> {
    let (client, log) = serve(vec![
        turn(
            "sendInitialEvents=true",
            200,
            &[&event("ADDED", "a", 1), &event("ADDED", "b", 2), &bookmark(5, true)],
            false,
        ),
        turn(
            "resourceVersion=5&",
            200,
            &[&event("MODIFIED", "b", 7), &event("DELETED", "a", 8), &bookmark(9, false)],
            false,
        ),
        turn("resourceVersion=9&", 200, &[EXPIRED], false),
        turn("sendInitialEvents=true", 200, &[&event("ADDED", "c", 11), &bookmark(12, true)], true),
    ])
    .await?;
    let cache = Cache::<ConfigMap>::builder(client)
        .options(ListOptions::default().label("app", "x"))
        .index("initial", |c| vec![c.metadata.name.iter().flat_map(|n| n.chars().take(1)).collect()])
        .start();
    let changes = Arc::new(Mutex::new(Vec::new()));
    let seen = changes.clone();
    cache.hook(move |c| {
        seen.lock().unwrap().push(format!("{} {}->{}", c.key, c.old.is_some() as u8, c.new.is_some() as u8));
    });
    let mut subscription = cache.subscribe();
    cache.synced().await;
    assert!(!subscription.next().await.is_empty());
    cache.wait_for(12).await;
    assert_eq!(names(&cache), "c");
    assert_eq!(cache.by_index("initial", "c").len(), 1);
    assert!(cache.by_index("initial", "b").is_empty());
    assert!(cache.get_key(&ObjectKey::new("n", "c")).is_some_and(|c| c.metadata.managed_fields.is_none()));
    let want = ["n/a 0->1", "n/b 0->1", "n/b 1->1", "n/a 1->0", "n/b 1->0", "n/c 0->1"];
    assert_eq!(*changes.lock().unwrap(), want);
    let log = log.lock().unwrap();
    assert!(log.iter().all(|u| u.contains("watch=true") && u.contains("labelSelector=app%3Dx")), "{log:?}");
    Ok(())
}

#[tokio::test]
async fn lists_in_pages_where_streaming_is_unknown() -> Result<(), Box<dyn std::error::Error>> {
    let invalid = r#"{"kind":"Status","status":"Failure","reason":"Invalid","code":422,"message":"no"}"#;
    let page = |name: &str, more: &str| {
        format!(
            r#"{{"metadata":{{"resourceVersion":"20","continue":"{more}"}},"items":[{{"metadata":{{"namespace":"n","name":"{name}","resourceVersion":"3"}}}}]}}"#
        )
    };
    let (client, _) = serve(vec![
        turn("sendInitialEvents=true", 422, &[invalid], false),
        turn("limit=500", 200, &[&page("a", "more")], false),
        turn("continue=more", 200, &[&page("b", "")], false),
        turn("resourceVersion=20&watch=true", 200, &[&event("ADDED", "c", 21)], true),
    ])
    .await?;
    let cache = Cache::<ConfigMap>::builder(client).start();
    cache.wait_for(21).await;
    assert_eq!(names(&cache), "a b c");
    Ok(())
}

#[tokio::test]
async fn refusals_are_errors_that_tell() -> Result<(), Box<dyn std::error::Error>> {
    let not_found = r#"{"kind":"Status","status":"Failure","reason":"NotFound","code":404,"message":"configmaps \"x\" not found"}"#;
    let exists =
        r#"{"kind":"Status","status":"Failure","reason":"AlreadyExists","code":409,"message":"there"}"#;
    let (client, _) = serve(vec![
        turn("/api/v1/namespaces/n/configmaps/x", 404, &[not_found], false),
        turn("/api/v1/namespaces/n/configmaps", 409, &[exists], false),
        turn("/api/v1/configmaps", 502, &["bad gateway"], false),
    ])
    .await?;
    assert!(client.find::<ConfigMap>("n", "x").await?.is_none());
    let mut object = ConfigMap::default();
    object.metadata.namespace = Some("n".to_owned());
    let error = client.create(&object).await.unwrap_err();
    assert!(error.is_already_exists() && !error.is_conflict());
    let error = client.list::<ConfigMap>("", &ListOptions::default()).await.unwrap_err();
    assert_eq!(error.api().map(client::ApiError::code), Some(502));
    assert_eq!(error.to_string(), "bad gateway");
    Ok(())
}
