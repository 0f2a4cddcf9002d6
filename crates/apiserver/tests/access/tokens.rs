//! Tokens that are not what they seem: all are refused alike.

use apiserver::authenticate::token::{Bound, Claims, Private, Tokens};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;

use crate::harness::{Server, with_server};
use crate::{ACCOUNTS, POD, PODS};

const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    i64::try_from(since.as_secs()).expect("before 2262")
}

fn claims(uid: &str) -> Claims {
    Claims {
        aud: vec![ISSUER.into()],
        exp: now() + 3600,
        iat: now(),
        iss: ISSUER.into(),
        jti: "1".into(),
        nbf: now(),
        sub: "system:serviceaccount:default:a".into(),
        kubernetes: Private {
            namespace: "default".into(),
            node: None,
            pod: None,
            secret: None,
            serviceaccount: Bound { name: "a".into(), uid: uid.into() },
            warnafter: None,
        },
    }
}

async fn code(api: &Server, authorization: &str) -> u16 {
    let answer = api.send_anonymous("GET", "/version", &[("authorization", authorization)]).await;
    if answer.code == 401 {
        assert_eq!(answer.text("/message"), "Unauthorized", "nothing is told of why");
    }
    answer.code
}

#[test]
fn forged_expired_and_malformed_tokens_are_refused() {
    with_server(|api| async move {
        let account = api.post(ACCOUNTS, r#"{"metadata":{"name":"a"}}"#).await;
        let uid = account.text("/metadata/uid").to_owned();
        let tokens = api.server.tokens.get().expect("tokens");
        let sign = |claims: &Claims| tokens.sign(claims).expect("signed");
        let good = sign(&claims(&uid));
        assert_eq!(code(&api, &format!("Bearer {good}")).await, 200);
        assert_eq!(code(&api, &format!("bearer   {good} ")).await, 200);

        let stranger = tempfile::tempdir().expect("temporary directory");
        let stranger = Tokens::load_or_generate(stranger.path()).expect("another key");
        let mut parts = good.split('.');
        let [head, body, mark] = [(); 3].map(|()| parts.next().expect("part"));
        let encode = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let mut other = claims(&uid);
        other.kubernetes.serviceaccount.name = "b".into();
        let changed = encode(serde_json::to_value(&other).expect("claims"));
        let none = encode(json!({"alg": "none"}));
        let hmac = encode(json!({"alg": "HS256"}));
        let key = tokens.key_set()["keys"][0]["x"].as_str().unwrap_or_default().to_owned();
        let keyed = {
            let message = format!("{hmac}.{body}");
            let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, key.as_bytes());
            URL_SAFE_NO_PAD.encode(aws_lc_rs::hmac::sign(&key, message.as_bytes()).as_ref())
        };
        let with = |change: &dyn Fn(&mut Claims)| {
            let mut claims = claims(&uid);
            change(&mut claims);
            sign(&claims)
        };
        let wrong = [
            ("another key", stranger.sign(&claims(&uid)).expect("signed")),
            ("changed claims", format!("{head}.{changed}.{mark}")),
            ("no algorithm", format!("{none}.{body}.")),
            ("no algorithm, with a signature", format!("{none}.{body}.{mark}")),
            ("the public key as a secret", format!("{hmac}.{body}.{keyed}")),
            ("no signature", format!("{head}.{body}.")),
            ("half a signature", format!("{head}.{body}.{}", &mark[..mark.len() / 2])),
            ("too many parts", format!("{good}.{mark}")),
            ("too few parts", format!("{head}.{body}")),
            ("only dots", "..".to_owned()),
            ("no base64", "*.*.*".to_owned()),
            ("no JSON", format!("{head}.{}.{mark}", URL_SAFE_NO_PAD.encode("{"))),
            ("long", "x".repeat(6000)),
            ("ended", with(&|c| c.exp = now() - 3600)),
            ("not begun", with(&|c| c.nbf = now() + 3600)),
            ("for others", with(&|c| c.aud = vec!["https://example.com".into()])),
            ("for nobody", with(&|c| c.aud = Vec::new())),
            ("of another issuer", with(&|c| c.iss = "https://example.com".into())),
            ("of an earlier account", with(&|c| c.kubernetes.serviceaccount.uid = "old".into())),
            ("of no account", with(&|c| c.kubernetes.serviceaccount.name = "gone".into())),
        ];
        for (what, token) in wrong {
            assert_eq!(code(&api, &format!("Bearer {token}")).await, 401, "{what}");
        }
        for header in ["Bearer", "Bearer ", "Basic YTpi", "Negotiate x", &good] {
            assert_eq!(code(&api, header).await, 401, "{header:?}");
        }
        // A wrong token is not forgiven for what comes with it.
        let both = [("authorization", "Bearer a.b.c"), ("impersonate-user", "x")];
        assert_eq!(api.send_anonymous("GET", "/version", &both).await.code, 401);
        api.delete(&format!("{ACCOUNTS}/a"), "").await;
        assert_eq!(code(&api, &format!("Bearer {good}")).await, 401);
    });
}

#[test]
fn a_token_in_a_secret_is_good_while_it_is_there() {
    with_server(|api| async move {
        let secrets = "/api/v1/namespaces/default/secrets";
        let uid = api.post(ACCOUNTS, r#"{"metadata":{"name":"a"}}"#).await.text("/metadata/uid").to_owned();
        let secret = json!({"metadata": {"name": "s", "annotations": {"kubernetes.io/service-account.name": "a"}},
            "type": "kubernetes.io/service-account-token"});
        let made = api.post(secrets, &secret.to_string()).await;
        assert_eq!(made.code, 201, "{}", made.body);
        let mut claims = claims(&uid);
        let secret = Bound { name: "s".into(), uid: made.text("/metadata/uid").into() };
        claims.kubernetes.secret = Some(secret);
        let token = api.server.tokens.get().expect("tokens").sign(&claims).expect("signed");
        let header = format!("Bearer {token}");
        assert_eq!(code(&api, &header).await, 401, "the secret does not hold it");
        let path = format!("{secrets}/s");
        let hold = json!({"stringData": {"token": token}}).to_string();
        assert_eq!(api.patch("merge", &path, &hold).await.code, 200);
        assert_eq!(code(&api, &header).await, 200);
        let mark = r#"{"metadata":{"labels":{"kubernetes.io/legacy-token-invalid-since":"2026-01-01"}}}"#;
        api.patch("merge", &path, mark).await;
        assert_eq!(code(&api, &header).await, 401, "it is marked");
        let unmark = r#"{"metadata":{"labels":null}}"#;
        api.patch("merge", &path, unmark).await;
        assert_eq!(code(&api, &header).await, 200);
        api.delete(&path, "").await;
        assert_eq!(code(&api, &header).await, 401, "the secret is gone");
    });
}

#[test]
fn components_are_listed() {
    with_server(|api| async move {
        api.server.components.write().push("scheduler");
        let list = api.get("/api/v1/componentstatuses").await;
        assert_eq!((list.code, list.text("/kind")), (200, "ComponentStatusList"));
        assert_eq!(list.text("/items/0/metadata/name"), "scheduler");
        let healthy = json!([{"type": "Healthy", "status": "True", "message": "ok"}]);
        assert_eq!(list.body["items"][1]["conditions"], healthy);
        assert_eq!(api.get("/api/v1/componentstatuses/etcd-0").await.code, 200);
        let absent = api.get("/api/v1/componentstatuses/x").await;
        assert_eq!((absent.code, absent.text("/message")), (404, "componentstatus \"x\" not found"));
        let accept = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
        let table = api.send("GET", "/api/v1/componentstatuses", &accept, "").await;
        assert_eq!(table.body["rows"][1]["cells"], json!(["etcd-0", "Healthy", "ok", ""]));
    });
}

#[test]
fn tokens_are_known_while_what_they_are_bound_to_exists() {
    with_server(|api| async move {
        let post = |path: String, body: &'static str| {
            let api = &api;
            async move { api.post(&path, body).await }
        };
        let refused = api.post(PODS, POD).await;
        let message = r#"pods "p" is forbidden: error looking up service account default/default: serviceaccount "default" not found"#;
        assert_eq!((refused.code, refused.text("/message")), (403, message));
        api.post(ACCOUNTS, r#"{"metadata":{"name":"default"}}"#).await;
        assert_eq!(api.post(PODS, POD).await.code, 201);
        let short = post(format!("{ACCOUNTS}/default/token"), r#"{"spec":{"expirationSeconds":599}}"#).await;
        let message = r#"TokenRequest.authentication.k8s.io "" is invalid: spec.expirationSeconds: Invalid value: 599: may not specify a duration less than 10 minutes"#;
        assert_eq!((short.code, short.text("/message")), (422, message));
        let body = r#"{"spec":{"boundObjectRef":{"apiVersion":"v1","kind":"Pod","name":"p"}}}"#;
        let made = post(format!("{ACCOUNTS}/default/token"), body).await;
        assert_eq!(made.code, 201, "{}", made.body);
        let bearer = format!("Bearer {}", made.text("/status/token"));
        let headers = [("authorization", bearer.as_str())];
        assert_eq!(api.send_anonymous("GET", PODS, &[("authorization", "Bearer a.b.c")]).await.code, 401);
        assert_eq!(api.send_anonymous("GET", "/version", &headers).await.code, 200);
        let listed = api.send_anonymous("GET", PODS, &headers).await;
        let message = r#"pods is forbidden: User "system:serviceaccount:default:default" cannot list resource "pods" in API group "" in the namespace "default""#;
        assert_eq!((listed.code, listed.text("/message")), (403, message));
        let binding = r#"{"metadata":{"name":"b"},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"system:aggregate-to-view"},"subjects":[{"kind":"ServiceAccount","name":"default","namespace":"default"}]}"#;
        let bindings = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings";
        let bound = api.post(bindings, binding).await;
        assert_eq!(bound.code, 201, "{}", bound.body);
        let mut tries = 0;
        while api.send_anonymous("GET", PODS, &headers).await.code != 200 {
            tries += 1;
            assert!(tries < 500, "the binding has no effect");
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        assert_eq!(api.send_anonymous("GET", "/api/v1/nodes", &headers).await.code, 403);
        let review = serde_json::json!({"spec": {"token": made.text("/status/token")}}).to_string();
        let review = api.post("/apis/authentication.k8s.io/v1/tokenreviews", &review).await;
        assert_eq!(review.text("/status/user/username"), "system:serviceaccount:default:default");
        let groups = serde_json::json!([
            "system:serviceaccounts",
            "system:serviceaccounts:default",
            "system:authenticated"
        ]);
        assert_eq!(review.body["status"]["user"]["groups"], groups);
        api.delete(&format!("{PODS}/p"), r#"{"gracePeriodSeconds":0}"#).await;
        assert_eq!(api.send_anonymous("GET", "/version", &headers).await.code, 401);
        let keys = api.get("/openid/v1/jwks").await;
        assert_eq!(keys.text("/keys/0/alg"), "ES256");
    });
}
