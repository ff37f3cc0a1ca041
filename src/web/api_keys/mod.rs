//! Settings → API keys, for a tenant and for the platform's shared keys. `show` looks, `write`
//! takes pasted keys, `change` is everything done by one button, `scope` what a key is for; `words` says what states mean.

mod change;
mod detail;
mod scope;
pub mod show;
mod words;
mod write;

use actix_web::web::{self, ServiceConfig};

use super::place::Place;
use super::read;

pub use words::Words;

pub fn routes(cfg: &mut ServiceConfig, base: &str) {
    let key = |rest: &str| web::resource(format!("{base}/{{key}}{rest}"));
    cfg.service(web::resource(base).route(read().to(show::show)))
        .service(
            web::resource(format!("{base}/new"))
                .route(read().to(write::new))
                .route(web::post().to(write::create)),
        )
        .service(key("").route(read().to(detail::show)))
        .service(key("/rotate").route(read().to(write::rotation)).route(web::post().to(write::rotate)))
        .service(key("/remove").route(read().to(change::removal)).route(web::post().to(change::remove)))
        .service(key("/check").route(web::post().to(change::check)))
        .service(key("/undo").route(web::post().to(change::undo)))
        .service(key("/forget").route(web::post().to(change::forget)))
        .service(key("/default").route(web::post().to(change::make_default)))
        .service(key("/label").route(web::post().to(change::label)))
        .service(key("/scope").route(web::post().to(scope::change)))
        .service(key("/resume").route(web::post().to(change::resume)))
        .service(key("/disable").route(web::post().to(change::disable)))
        .service(key("/enable").route(web::post().to(change::enable)));
}

/// Where these pages are in a place.
pub fn base(place: &Place) -> String {
    match place.view() {
        Some(_) => format!("{}/settings/api-keys", place.root()),
        None => "/platform/shared-keys".to_owned(),
    }
}

/// What these pages are called in a place.
fn title(place: &Place) -> &'static str {
    if place.view().is_some() { "API keys" } else { "Shared keys" }
}
