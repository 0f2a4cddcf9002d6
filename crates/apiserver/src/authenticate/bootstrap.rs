//! Bootstrap tokens: known by the secret of their name, as it is in the store now.

use base::bootstrap::{Facts, NAMESPACE, Token};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::Identity;
use crate::object::{self, at};
use crate::server::ApiServer;

/// The user a bootstrap token stands for; `None` for what is none, or is not let in.
pub fn identify(server: &ApiServer, text: &str) -> Option<Identity> {
    let token = Token::parse(text)?;
    let name = token.secret_name();
    let catalog = server.catalog();
    let found = server.store.get(&catalog.stored("", "secrets")?.key(NAMESPACE, &name))?;
    let secret: Value = serde_json::from_slice(&found.json).ok()?;
    let get = |key: &str| {
        let text = secret.get("data").and_then(|data| data.get(key)).and_then(Value::as_str).unwrap_or("");
        STANDARD.decode(text).ok().and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default()
    };
    let facts = Facts {
        kind: at(&secret, "type").and_then(Value::as_str).unwrap_or(""),
        deleting: object::is_deleting(&secret),
        get: &get,
    };
    match facts.admit(&token, jiff::Timestamp::now()) {
        Ok(groups) => Some(Identity::user(token.user(), groups)),
        Err(why) => {
            tracing::info!(secret = name, why, "bootstrap token refused");
            None
        }
    }
}
