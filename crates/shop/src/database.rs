//! The database: lists of lines in files, on a volume that outlives the pod.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use http::{Method, StatusCode};

use crate::ShopError;
use crate::web::{self, Answer, Question};

/// Bytes that one list may have.
const LIST_MAX: u64 = 64 << 20;

/// Serves the lists in `dir`.
pub async fn serve(port: u16, dir: PathBuf) -> Result<(), ShopError> {
    std::fs::create_dir_all(&dir)
        .map_err(|source| ShopError::Io { what: format!("create {}", dir.display()), source })?;
    let dir = Arc::new(Mutex::new(dir));
    web::serve(port, move |question| {
        let dir = Arc::clone(&dir);
        async move {
            let work = tokio::task::spawn_blocking(move || {
                // One at a time: lines never mix.
                let dir = dir.lock().unwrap_or_else(PoisonError::into_inner);
                answer(&dir, &question)
            });
            work.await.unwrap_or_else(|_| web::text(StatusCode::INTERNAL_SERVER_ERROR, "broke off\n"))
        }
    })
    .await
}

fn answer(dir: &Path, question: &Question) -> Answer {
    let (call, list) = question.path.trim_start_matches('/').split_once('/').unwrap_or_default();
    let named = !list.is_empty() && list.len() < 64 && list.bytes().all(|b| b.is_ascii_alphanumeric());
    let done = match (&question.method, call) {
        _ if question.path == "/healthz" => return web::text(StatusCode::OK, "ok\n"),
        _ if !named => return web::text(StatusCode::NOT_FOUND, "there is no such list\n"),
        (&Method::POST, "append") => append(&dir.join(list), &question.body),
        (&Method::GET, "count") => count(&dir.join(list)),
        _ => return web::text(StatusCode::NOT_FOUND, "there is no such call\n"),
    };
    match done {
        Ok(lines) => web::text(StatusCode::OK, lines.to_string()),
        Err(error) => web::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{list}: {error}\n")),
    }
}

/// Adds a line and gives their number; the line is on the disk when this returns.
fn append(path: &Path, body: &[u8]) -> std::io::Result<usize> {
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
    if file.metadata()?.len() + body.len() as u64 > LIST_MAX {
        return Err(std::io::Error::other("the list is full"));
    }
    let mut line: Vec<u8> = body.iter().map(|b| if *b == b'\n' { b' ' } else { *b }).collect();
    line.push(b'\n');
    file.write_all(&line)?;
    file.sync_data()?;
    count(path)
}

fn count(path: &Path) -> std::io::Result<usize> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(bytes.iter().filter(|b| **b == b'\n').count()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(0),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_stay_and_names_cannot_lead_out() {
        let dir = tempfile::tempdir().expect("dir");
        let ask = |method: Method, path: &str| {
            let (path, query) = (path.to_owned(), String::new());
            answer(dir.path(), &Question { method, path, query, body: "a\nb".into() }).status()
        };
        assert_eq!(ask(Method::POST, "/append/orders"), StatusCode::OK);
        assert_eq!(ask(Method::POST, "/append/orders"), StatusCode::OK);
        assert_eq!(count(&dir.path().join("orders")).expect("count"), 2);
        assert_eq!(ask(Method::POST, "/append/../orders"), StatusCode::NOT_FOUND);
        assert_eq!(ask(Method::GET, "/append/orders"), StatusCode::NOT_FOUND);
    }
}
