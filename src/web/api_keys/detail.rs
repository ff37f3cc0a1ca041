//! The page of one key: what is known of it, its versions, and what can be done with it.

use actix_web::http::StatusCode;
use actix_web::web::{Data, Path};
use askama::Template;
use serde::Deserialize;

use super::scope::ScopePanel;
use super::show::{KeyCard, card, fingerprint, may_switch};
use super::{base, title};
use crate::access::policy::Action;
use crate::domain::provider_key::{DisabledBy, KeyScope, KeyVersion, ProviderKey};
use crate::services::overview::KeyDetail;
use crate::services::provider_keys::UNDO_FOR;
use crate::services::{Problems, ServiceError};
use crate::web::Console;
use crate::web::error::WebError;
use crate::web::page::{Answer, Chrome, Page};
use crate::web::place::Place;
use crate::web::prose::Prose;
use crate::web::time::When;

/// The key's name in the address; the tenant beside it is the place's business.
#[derive(Deserialize)]
pub struct KeyPath {
    pub key: String,
}

#[derive(Template)]
#[template(path = "pages/api_keys/detail.html")]
struct KeyPage {
    chrome: Chrome,
    base: String,
    section: &'static str,
    /// `{base}/{name}`.
    this: String,
    card: KeyCard,
    label: String,
    is_default: bool,
    disabled: bool,
    undo: Option<Undo>,
    versions: Vec<VersionRow>,
    may_change: bool,
    /// Also what the tenant disabled, if the person is the operator's: the tenant could not enable it again then.
    may_disable: bool,
    by_operator: bool,
    /// Where there is one and the person may change it.
    scope: Option<ScopePanel>,
    problems: Problems,
}

struct Undo {
    current: i32,
    replaced: i32,
    at: When,
    until: When,
}

struct VersionRow {
    version: i32,
    hint: String,
    fingerprint: String,
    custom_url: Option<String>,
    added: Prose,
    state: Prose,
    current: bool,
}

pub async fn show(console: Data<Console>, place: Place, path: Path<KeyPath>) -> Answer {
    place.demand(Action::SeeKeyDetails)?;
    Page::new(key_page(&console, &place, &path.key).await?).answer()
}

/// The page again, with what was typed as the label and what is wrong with it.
pub async fn with_label(
    console: &Console,
    place: &Place,
    name: &str,
    typed: String,
    problems: Problems,
) -> Answer {
    let page = KeyPage { label: typed, problems, ..key_page(console, place, name).await? };
    Page::new(page).status(StatusCode::UNPROCESSABLE_ENTITY).answer()
}

/// The page again, with what was chosen as the key's use and what is wrong with it.
pub async fn with_scope(
    console: &Console,
    place: &Place,
    name: &str,
    chosen: &KeyScope,
    problems: Problems,
) -> Answer {
    let mut page = key_page(console, place, name).await?;
    let provider = find(console, place, name).await?.line.key.provider;
    let platform = console.services.directory.platform().await.map_err(ServiceError::from)?;
    page.scope = Some(ScopePanel::of(chosen, provider, &platform.features));
    page.problems = problems;
    Page::new(page).status(StatusCode::UNPROCESSABLE_ENTITY).answer()
}

async fn key_page(console: &Console, place: &Place, name: &str) -> Result<KeyPage, WebError> {
    let services = &console.services;
    let detail = find(console, place, name).await?;
    let standing = match place.view() {
        Some(_) => Some(services.standing(&place.holder.scope).await?),
        None => None,
    };
    let mode = standing.as_ref().map(|standing| standing.tenant.policy.mode);
    let may_change = place.may(Action::ChangeKeys);
    let by_operator = place.viewer.actor.is_super_admin();
    let key = &detail.line.key;
    let scope = standing
        .as_ref()
        .filter(|_| may_change)
        .map(|standing| ScopePanel::of(&key.scope, key.provider, &standing.platform.features));
    Ok(KeyPage {
        chrome: place.chrome(key.name.as_str(), &base(place)),
        base: base(place),
        section: title(place),
        this: format!("{}/{}", base(place), key.name),
        card: card(place, &detail.line, mode, &services.options.product, true),
        label: key.label.clone().unwrap_or_default(),
        is_default: key.is_default,
        disabled: key.disabled.is_some(),
        undo: undo(place, &detail),
        versions: detail.versions.iter().map(|version| row(place, version, key)).collect(),
        may_change,
        may_disable: may_switch(place, key)
            && match key.disabled {
                None => true,
                Some(by) => by_operator && by != DisabledBy::Operator,
            },
        by_operator,
        scope,
        problems: Problems::default(),
    })
}

fn undo(place: &Place, detail: &KeyDetail) -> Option<Undo> {
    let previous = detail.undo.as_ref()?;
    let replaced_at = previous.replaced_at?;
    let until = previous.destroy_at.unwrap_or(replaced_at.plus(UNDO_FOR));
    Some(Undo {
        current: detail.line.key.current.version,
        replaced: previous.version,
        at: place.times().when(replaced_at),
        until: place.times().when(until),
    })
}

fn row(place: &Place, version: &KeyVersion, key: &ProviderKey) -> VersionRow {
    let times = place.times();
    let current = key.current.version;
    let state = match (version.version == current, version.replaced_at, version.destroy_at) {
        (true, ..) if key.disabled.is_some() => Prose::of("Disabled"),
        (true, ..) => Prose::of("In use"),
        (false, Some(_), Some(at)) if at > times.now => {
            Prose::of("Replaced; sealed copy destroyed ").when(&times.when(at))
        }
        (false, Some(at), _) => Prose::of("Replaced ").when(&times.when(at)).text(" and destroyed"),
        (false, None, _) => Prose::of("Not in use"),
    };
    VersionRow {
        version: version.version,
        hint: version.hint.clone(),
        fingerprint: fingerprint(&version.fingerprint),
        custom_url: version.custom_url.clone(),
        added: Prose::default()
            .when(&times.when(version.created_at))
            .text(format!(" by {}", version.created_by_name)),
        state,
        current: version.version == current,
    }
}

/// The detail of a key for a page that leads to a change of it.
///
/// # Errors
/// `Denied` to whoever may not change it, `NoKey` when there is none of that name.
pub async fn changeable(console: &Console, place: &Place, name: &str) -> Result<KeyDetail, WebError> {
    place.demand(Action::ChangeKeys)?;
    find(console, place, name).await
}

async fn find(console: &Console, place: &Place, name: &str) -> Result<KeyDetail, WebError> {
    match console.services.key_detail(place.holder, name).await {
        Err(ServiceError::NotFound) => Err(WebError::NoKey { keys: base(place) }),
        found => Ok(found?),
    }
}
