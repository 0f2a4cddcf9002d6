//! The back end: products, orders, and load on demand.

use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::web::{self, Answer, Question};

/// The longest that one request may burn CPU.
const LOAD_MAX: Duration = Duration::from_secs(5);

/// Answers one request.
pub async fn answer(question: Question) -> Answer {
    match (&question.method, question.path.as_str()) {
        (_, "/healthz") => web::text(StatusCode::OK, "ok\n"),
        (&Method::GET, "/api/products") => web::json(&products()),
        (&Method::GET, "/api/orders") => orders(Method::GET, question).await,
        (&Method::POST, "/api/orders") => orders(Method::POST, question).await,
        (_, "/api/load") => load(&question).await,
        (_, "/api/crash") => {
            println!("asked to crash");
            std::process::exit(1)
        }
        _ => web::text(StatusCode::NOT_FOUND, "there is no such call\n"),
    }
}

/// The products of the ConfigMap, one `name=price` a line.
fn products() -> Value {
    let listed = std::env::var("SHOP_PRODUCTS").unwrap_or_else(|_| "Anchor=12 €\nRope=7 €".to_owned());
    let products: Vec<Value> = listed
        .lines()
        .filter_map(|l| l.split_once('='))
        .map(|(name, price)| json!({"name": name.trim(), "price": price.trim()}))
        .collect();
    json!({
        "greeting": std::env::var("SHOP_GREETING").unwrap_or_default(),
        "products": products,
        "signed": std::env::var("SHOP_KEY").is_ok_and(|k| !k.is_empty()),
        "pod": web::pod(),
        "node": web::node(),
        "version": web::version(),
    })
}

async fn orders(method: Method, question: Question) -> Answer {
    let path = if method == Method::POST { "append/orders" } else { "count/orders" };
    match web::send(method, &format!("{}/{path}", web::database()), question.body).await {
        Ok(answer) => web::reply(StatusCode::OK, "text/plain; charset=utf-8", answer),
        Err(error) => web::text(StatusCode::BAD_GATEWAY, format!("{error}\n")),
    }
}

/// Burns CPU for `?ms=`.
async fn load(question: &Question) -> Answer {
    let asked = question.query.split('&').find_map(|p| p.strip_prefix("ms=")).and_then(|v| v.parse().ok());
    let time = Duration::from_millis(asked.unwrap_or(200)).min(LOAD_MAX);
    let burnt = tokio::task::spawn_blocking(move || {
        let begin = Instant::now();
        let mut rounds = 0u64;
        while begin.elapsed() < time {
            rounds = std::hint::black_box(rounds.wrapping_add(1));
        }
        rounds
    });
    match burnt.await {
        Ok(rounds) => web::json(&json!({"pod": web::pod(), "rounds": rounds})),
        Err(_) => web::text(StatusCode::INTERNAL_SERVER_ERROR, "the load broke off\n"),
    }
}
