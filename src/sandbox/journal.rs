//! The last requests that arrived, without their secrets, so that anyone can prove which key was
//! injected. Writing is cheap, because a benchmark writes too; hashes become text only when read.

use std::collections::VecDeque;
use std::sync::Mutex;

use actix_web::HttpRequest;
use actix_web::http::Method;
use actix_web::http::header::{HeaderMap, HeaderName};
use serde_json::{Value, json};

use super::state::{Hash, lock, sha256};
use crate::domain::clock::Moment;

const CAPACITY: usize = 10_000;

/// Larger bodies are counted but not hashed, so that they cost no time.
const LARGEST_HASHED_BODY: usize = 64 * 1024;

/// The headers whose values may be shown; of the others only the name is kept.
const SHOWN_HEADERS: [&str; 5] =
    ["anthropic-version", "anthropic-beta", "accept-encoding", "content-type", "user-agent"];

#[derive(Default)]
pub struct Journal {
    records: Mutex<VecDeque<Record>>,
}

impl Journal {
    pub fn write(&self, record: Record) {
        let mut records = lock(&self.records);
        if records.len() == CAPACITY {
            records.pop_front();
        }
        records.push_back(record);
    }

    /// The newest `limit` records, newest first.
    pub fn newest(&self, limit: usize) -> Vec<Value> {
        lock(&self.records).iter().rev().take(limit).map(Record::json).collect()
    }

    pub fn clear(&self) {
        lock(&self.records).clear();
    }
}

pub struct Record {
    at: Moment,
    method: Method,
    path: String,
    credential: Option<(&'static str, Hash)>,
    shown: [Option<String>; SHOWN_HEADERS.len()],
    header_names: Vec<HeaderName>,
    pub model: Option<String>,
    pub stream: bool,
    body_sha256: Option<Hash>,
    body_bytes: usize,
    /// `None` while no answer was given: the key hangs.
    pub status: Option<u16>,
}

impl Record {
    /// `body` may be shorter than `body_bytes` if the rest was thrown away.
    pub fn new(at: Moment, request: &HttpRequest, body: &[u8], body_bytes: usize) -> Self {
        let headers = request.headers();
        Self {
            at,
            method: request.method().clone(),
            path: request.path().to_owned(),
            credential: credential(headers),
            shown: SHOWN_HEADERS.map(|name| Some(headers.get(name)?.to_str().ok()?.to_owned())),
            header_names: headers.keys().cloned().collect(),
            model: None,
            stream: false,
            body_sha256: (1..LARGEST_HASHED_BODY).contains(&body_bytes).then(|| sha256(body)),
            body_bytes,
            status: None,
        }
    }

    fn json(&self) -> Value {
        let headers: serde_json::Map<String, Value> = SHOWN_HEADERS
            .iter()
            .zip(&self.shown)
            .filter_map(|(name, value)| Some(((*name).to_owned(), value.as_deref()?.into())))
            .collect();
        let mut names: Vec<&str> = self.header_names.iter().map(HeaderName::as_str).collect();
        names.sort_unstable();
        json!({
            "at": self.at.timestamp().to_string(),
            "method": self.method.as_str(),
            "path": self.path,
            "credential_header": self.credential.map(|(header, _)| header),
            "credential_sha256": self.credential.map(|(_, hash)| hex::encode(hash)),
            "headers": headers,
            "header_names": names,
            "model": self.model,
            "stream": self.stream,
            "body_sha256": self.body_sha256.map(hex::encode),
            "body_bytes": self.body_bytes,
            "status": self.status,
        })
    }
}

/// The header that carried a credential and the credential's hash. A client that sent several is
/// told by the first of these.
fn credential(headers: &HeaderMap) -> Option<(&'static str, Hash)> {
    for name in ["x-api-key", "x-goog-api-key", "api-key"] {
        if let Some(key) = headers.get(name) {
            return Some((name, sha256(key.as_bytes())));
        }
    }
    let value = headers.get("authorization")?.as_bytes();
    Some(("authorization", sha256(value.strip_prefix(b"Bearer ").unwrap_or(value))))
}
