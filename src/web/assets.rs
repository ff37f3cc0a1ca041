//! Style sheets, scripts and the icon: embedded, named by a hash of them all, kept by browsers
//! for good. All style sheets are one file; scripts stay apart, since they import each other.

use std::collections::HashMap;
use std::sync::LazyLock;

use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use actix_web::web::{self, Bytes, Path};
use actix_web::{HttpResponse, Resource};
use rust_embed::RustEmbed;
use sha2::{Digest, Sha256};

use super::error::WebError;
use super::page::Answer;
use super::read;

#[derive(RustEmbed)]
#[folder = "static/"]
struct Files;

struct Assets {
    /// `/assets/…` without a final slash.
    base: String,
    version: String,
    files: HashMap<String, (&'static str, Bytes)>,
}

static ASSETS: LazyLock<Assets> = LazyLock::new(|| {
    let mut names: Vec<String> = Files::iter().map(std::borrow::Cow::into_owned).collect();
    // `_tokens.css` fixes the order of the layers and sorts first by its underscore.
    names.sort();
    let mut sheet = Vec::new();
    let mut files = HashMap::new();
    let mut digest = Sha256::new();
    for name in names {
        let Some(file) = Files::get(&name) else { continue };
        digest.update(name.as_bytes());
        digest.update(&file.data);
        match name.rsplit_once('.') {
            Some((_, "css")) => sheet.extend_from_slice(&file.data),
            Some((_, "js")) => {
                let body = Bytes::from(file.data.into_owned());
                files.insert(name, ("text/javascript; charset=utf-8", body));
            }
            Some((_, "svg")) => {
                files.insert(name, ("image/svg+xml", Bytes::from(file.data.into_owned())));
            }
            _ => {}
        }
    }
    files.insert("css/keyward.css".to_owned(), ("text/css; charset=utf-8", Bytes::from(sheet)));
    let version = hex::encode(&digest.finalize()[..6]);
    Assets { base: format!("/assets/{version}"), version, files }
});

/// Where this version's assets are.
pub fn base() -> &'static str {
    &ASSETS.base
}

pub fn route() -> Resource {
    web::resource("/{version}/{name:.*}").route(read().to(show))
}

async fn show(path: Path<(String, String)>) -> Answer {
    let (version, name) = path.into_inner();
    let (kind, body) = ASSETS.files.get(&name).ok_or(WebError::NotFound)?;
    // A page of the version before may still ask during an update: it gets today's file, unkept.
    let keep = if version == ASSETS.version { "public, max-age=31536000, immutable" } else { "no-store" };
    Ok(HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, *kind))
        .insert_header((CACHE_CONTROL, keep))
        .body(body.clone()))
}
