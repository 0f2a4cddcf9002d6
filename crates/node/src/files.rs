//! `/logs/`: the folder of the node's logs, to look through and to read, as upstream's kubelet shows `/var/log`.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use http::{Response, StatusCode, header};
use serve::{Body, streamed};
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use crate::server::text;

/// Bytes read at once.
const CHUNK: usize = 64 << 10;

/// A folder as links, or a file from its beginning; `rest` are the path's parts below `root`. `HEAD` and ranges are
/// not known.
pub async fn answer(root: &Path, rest: &[&str]) -> Response<Body> {
    let Some(path) = below(root, rest) else {
        return text(StatusCode::BAD_REQUEST, "a path of plain names is needed\n");
    };
    let Ok(about) = tokio::fs::symlink_metadata(&path).await else {
        return text(StatusCode::NOT_FOUND, "404 page not found\n");
    };
    if about.is_dir() {
        return listing(&path).await;
    }
    // What links lead to is not of this folder.
    if !about.is_file() {
        return text(StatusCode::FORBIDDEN, "this is no plain file\n");
    }
    match tokio::fs::File::open(&path).await {
        Ok(file) => contents(file).await,
        Err(cause) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("open {}: {cause}\n", path.display())),
    }
}

/// The path below the root, unless it leads elsewhere.
fn below(root: &Path, rest: &[&str]) -> Option<PathBuf> {
    let mut path = root.to_path_buf();
    for part in rest.iter().filter(|part| !part.is_empty()) {
        if matches!(*part, "." | "..") || part.contains(['/', '\0']) {
            return None;
        }
        path.push(part);
        // Links within the folder could lead out of it.
        if path.is_symlink() {
            return None;
        }
    }
    Some(path)
}

async fn listing(path: &Path) -> Response<Body> {
    let mut names = Vec::new();
    if let Ok(mut entries) = tokio::fs::read_dir(path).await {
        while let Ok(Some(entry)) = entries.next_entry().await {
            let folder = entry.file_type().await.is_ok_and(|kind| kind.is_dir());
            names.push(format!("{}{}", entry.file_name().to_string_lossy(), if folder { "/" } else { "" }));
        }
    }
    names.sort();
    let escape = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&#34;");
    let links: String = names
        .iter()
        .map(|name| escape(name))
        .map(|name| format!("<a href=\"{name}\">{name}</a>\n"))
        .collect();
    let mut response = text(StatusCode::OK, format!("<!doctype html>\n<pre>\n{links}</pre>\n"));
    let kind = header::HeaderValue::from_static("text/html; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// As much as the file holds now; one that is written to goes on without us.
async fn contents(mut file: tokio::fs::File) -> Response<Body> {
    let length = file.seek(std::io::SeekFrom::End(0)).await.unwrap_or(0);
    if length == 0 || file.rewind().await.is_err() {
        return text(StatusCode::OK, "");
    }
    let chunks = futures_util::stream::unfold((file, length), |(mut file, left)| async move {
        if left == 0 {
            return None;
        }
        let mut chunk = vec![0; CHUNK.min(usize::try_from(left).unwrap_or(CHUNK))];
        match file.read(&mut chunk).await {
            Ok(0) | Err(_) => None,
            Ok(read) => {
                chunk.truncate(read);
                Some((Ok(Bytes::from(chunk)), (file, left - read as u64)))
            }
        }
    });
    let mut response = Response::new(streamed(chunks));
    let kind = header::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_below() {
        let root = Path::new("/var/log");
        assert_eq!(below(root, &["pods", "a", "0.log"]), Some(PathBuf::from("/var/log/pods/a/0.log")));
        assert_eq!(below(root, &[""]), Some(PathBuf::from("/var/log")));
        for parts in [&[".."][..], &["a", "..", "b"], &["a/b"], &["."]] {
            assert_eq!(below(root, parts), None, "{parts:?}");
        }
    }
}
