//! The front end: one page that shows who answered and what the back end sells.

use http::StatusCode;
use serde_json::Value;

use crate::web::{self, Answer, Question};

/// Answers one request.
pub async fn answer(question: Question) -> Answer {
    match question.path.as_str() {
        "/healthz" => web::text(StatusCode::OK, "ok\n"),
        "/" => page().await,
        _ => web::text(StatusCode::NOT_FOUND, "there is no such page\n"),
    }
}

async fn page() -> Answer {
    let products = web::get(&format!("{}/api/products", web::backend())).await;
    let (status, list) = match products {
        Ok(bytes) => (StatusCode::OK, listed(&serde_json::from_slice(&bytes).unwrap_or_default())),
        Err(error) => {
            (StatusCode::OK, format!("<p>The back end is away: {}</p>", escape(&error.to_string())))
        }
    };
    let html = format!(
        "<!doctype html><meta charset=utf-8><title>Kutter shop</title>\
         <style>body{{font:16px system-ui;max-width:40em;margin:3em auto}}small{{color:#666}}</style>\
         <h1>Kutter shop <small>v{}</small></h1>{list}\
         <p><small>Page by pod <b>{}</b> on node <b>{}</b>.</small></p>\n",
        escape(&web::version()),
        escape(&web::pod()),
        escape(&web::node()),
    );
    web::reply(status, "text/html; charset=utf-8", html)
}

fn listed(answer: &Value) -> String {
    let text = |v: &Value| escape(v.as_str().unwrap_or_default());
    let items: String = answer["products"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|p| format!("<li>{} <small>{}</small></li>", text(&p["name"]), text(&p["price"])))
        .collect();
    format!(
        "<p>{}</p><ul>{items}</ul><p><small>Products by pod <b>{}</b> on node <b>{}</b>.</small></p>",
        text(&answer["greeting"]),
        text(&answer["pod"]),
        text(&answer["node"])
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_back_end_says_cannot_become_markup() {
        let answer = serde_json::json!({"products": [{"name": "<script>", "price": "1 & 2"}]});
        let html = listed(&answer);
        assert!(html.contains("<li>&lt;script&gt; <small>1 &amp; 2</small></li>"), "{html}");
    }
}
