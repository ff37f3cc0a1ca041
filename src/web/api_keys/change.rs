//! Changes to a key that are one button: check, undo, forget, default, label, resume, disable;
//! and removing, whose page names the consequences first.

use actix_web::HttpRequest;
use actix_web::web::{Data, Path};
use askama::Template;
use serde::Deserialize;

use super::detail::{KeyPath, changeable, with_label};
use super::words::{KeyState, Words};
use super::write::but;
use super::{base, title};
use crate::access::actor::Actor;
use crate::access::policy::Action;
use crate::domain::billing::UsageMode;
use crate::domain::provider_key::Keys;
use crate::domain::provider_key::{Provider, ProviderKey, Verdict};
use crate::domain::resolve::{Situation, resolve};
use crate::services::checks::Checked;
use crate::services::overview::{Standing, ask};
use crate::services::{Problems, ServiceError, Services};
use crate::web::error::WebError;
use crate::web::figures::counted;
use crate::web::form::{Failure, Nothing, Posted};
use crate::web::page::{Answer, Chrome, Page, see_other};
use crate::web::place::Place;
use crate::web::{Console, confirm, session};

/// What every button here goes through: step-up, work, a notice, and back to the key's page.
async fn press<T>(
    console: &Console,
    mut place: Place,
    request: &HttpRequest,
    key: &str,
    intent: &str,
    posted: Posted<T>,
    work: impl AsyncFnOnce(&Services, &Actor) -> Result<(bool, String), ServiceError>,
) -> Answer {
    let this = format!("{}/{key}", base(&place));
    let chrome = place.chrome("Confirm it's you", &base(&place));
    confirm::press(console, &mut place.viewer, request, (chrome, intent, &this), posted.split().1, work).await
}

pub async fn check(
    console: Data<Console>,
    place: Place,
    request: HttpRequest,
    path: Path<KeyPath>,
    posted: Posted<Nothing>,
) -> Answer {
    let (holder, key) = (place.holder, path.key.as_str());
    press(&console, place, &request, key, "Check now", posted, async |services, actor| {
        let (provider, state, found) = services.check_key(actor, holder, key).await?;
        Ok(checked(key, provider, state, &found))
    })
    .await
}

fn checked(key: &str, provider: Provider, state: KeyState, found: &Checked) -> (bool, String) {
    match state {
        _ if found.verdict == Verdict::Doubtful => {
            let code = found.code.as_deref().unwrap_or("403");
            let provider = provider.label();
            (false, format!("{provider} knows {key}, but lets it do nothing that was tried ({code})."))
        }
        KeyState::Valid => (true, format!("{key} was checked just now and works.")),
        KeyState::Unreachable => {
            (false, format!("{key} could not be checked: {} did not answer.", provider.label()))
        }
        state => {
            (false, format!("{key} was checked just now: {}.", Words::plain(state, provider.label()).badge))
        }
    }
}

pub async fn undo(
    console: Data<Console>,
    place: Place,
    request: HttpRequest,
    path: Path<KeyPath>,
    posted: Posted<Nothing>,
) -> Answer {
    let (holder, mode, key) = (place.holder, place.mode(), path.key.as_str());
    press(&console, place, &request, key, "Undo rotation", posted, async |services, actor| {
        let saved = services.undo_rotation(actor, holder, key).await?;
        let (good, but) = but(&saved, mode);
        Ok((good, format!("Version {} of {key} was checked and is back in place.{but}", saved.version)))
    })
    .await
}

pub async fn forget(
    console: Data<Console>,
    place: Place,
    request: HttpRequest,
    path: Path<KeyPath>,
    posted: Posted<Nothing>,
) -> Answer {
    let (holder, key) = (place.holder, path.key.as_str());
    press(&console, place, &request, key, "Forget now", posted, async |services, actor| {
        services.forget_replaced(actor, holder, key).await?;
        Ok((true, format!("Replaced versions of {key} are destroyed.")))
    })
    .await
}

pub async fn make_default(
    console: Data<Console>,
    place: Place,
    request: HttpRequest,
    path: Path<KeyPath>,
    posted: Posted<Nothing>,
) -> Answer {
    let (holder, key) = (place.holder, path.key.as_str());
    press(&console, place, &request, key, "Make default", posted, async |services, actor| {
        services.set_default_key(actor, holder, key).await?;
        Ok((true, format!("{key} is the default key now.")))
    })
    .await
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LabelForm {
    label: String,
}

pub async fn label(
    console: Data<Console>,
    mut place: Place,
    request: HttpRequest,
    path: Path<KeyPath>,
    mut posted: Posted<LabelForm>,
) -> Answer {
    let (holder, key, label) = (place.holder, path.key.as_str(), posted.fields.label.clone());
    let this = format!("{}/{key}", base(&place));
    let password = posted.evidence.take();
    let saved = confirm::act(&console, &mut place.viewer, password, async |services, actor| {
        services.label_key(actor, holder, key, &label).await
    });
    match saved.await {
        Ok(()) => {
            session::notify(&place.viewer.session, true, "Label saved.");
            Ok(see_other(&this))
        }
        Err(ServiceError::Invalid(problems)) if problems.of("label").is_some() => {
            let typed = label.chars().take(200).collect();
            with_label(&console, &place, key, typed, problems).await
        }
        Err(error) => {
            let chrome = place.chrome("Confirm it's you", &base(&place));
            confirm::ask(error, &request, chrome, "Save label", this, &posted)
        }
    }
}

pub async fn resume(
    console: Data<Console>,
    place: Place,
    request: HttpRequest,
    path: Path<KeyPath>,
    posted: Posted<Nothing>,
) -> Answer {
    let (holder, key) = (place.holder, path.key.as_str());
    press(&console, place, &request, key, "Resume now", posted, async |services, actor| {
        services.resume_key(actor, holder, key).await?;
        Ok((true, format!("{key} is in use again. If the limit still holds, the next answer pauses it.")))
    })
    .await
}

pub async fn disable(
    console: Data<Console>,
    place: Place,
    request: HttpRequest,
    path: Path<KeyPath>,
    posted: Posted<Nothing>,
) -> Answer {
    let (holder, key) = (place.holder, path.key.as_str());
    press(&console, place, &request, key, "Disable key", posted, async |services, actor| {
        services.set_key_disabled(actor, holder, key, true).await?;
        Ok((true, format!("{key} is disabled.")))
    })
    .await
}

pub async fn enable(
    console: Data<Console>,
    place: Place,
    request: HttpRequest,
    path: Path<KeyPath>,
    posted: Posted<Nothing>,
) -> Answer {
    let (holder, key) = (place.holder, path.key.as_str());
    press(&console, place, &request, key, "Enable key", posted, async |services, actor| {
        services.set_key_disabled(actor, holder, key, false).await?;
        Ok((true, format!("{key} is enabled again.")))
    })
    .await
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RemoveForm {
    confirm_name: String,
}

#[derive(Template)]
#[template(path = "pages/api_keys/remove.html")]
struct RemovePage {
    chrome: Chrome,
    base: String,
    section: &'static str,
    this: String,
    name: String,
    hint: String,
    consequences: Vec<String>,
    confirm_name: String,
    asks_password: bool,
    problems: Problems,
}

async fn remove_page(console: &Console, place: &Place, name: &str) -> Result<RemovePage, WebError> {
    let detail = changeable(console, place, name).await?;
    let key = detail.line.key;
    let standing = match place.view() {
        Some(_) => Some(console.services.standing(&place.holder.scope).await?),
        None => None,
    };
    let product = &console.services.options.product;
    Ok(RemovePage {
        chrome: place.chrome(&format!("Remove {name}"), &base(place)),
        base: base(place),
        section: title(place),
        this: format!("{}/{name}", base(place)),
        name: name.to_owned(),
        hint: key.current.hint.clone(),
        consequences: consequences(&key, standing.as_ref(), detail.other_keys, product),
        confirm_name: String::new(),
        asks_password: place.asks_password(),
        problems: Problems::default(),
    })
}

/// What removing this key does, found by deciding every feature with and without it.
fn consequences(
    key: &ProviderKey,
    standing: Option<&Standing>,
    other_keys: usize,
    product: &str,
) -> Vec<String> {
    let named = format!("Requests that name {} are refused.", key.name);
    let Some(standing) = standing else {
        let managed = if key.is_default {
            "Managed requests of all tenants stop until another shared key is the default one."
        } else {
            "Managed requests of tenants go on with the default shared key."
        };
        return vec![managed.to_owned(), named];
    };
    let mut lines = Vec::new();
    if key.is_default && standing.tenant.policy.mode == UsageMode::Byok {
        let rest = standing.tenant.keys.views.iter().filter(|view| view.id != key.id).cloned();
        let rest = Keys::new(rest.collect());
        let without = Situation { keys: &rest, ..standing.situation() };
        let (mut managed, mut stopped) = (0, 0);
        for (feature, before) in standing.features() {
            let uses_it = before.outcome.as_ref().is_ok_and(|chosen| chosen.key.id == key.id);
            if !uses_it {
                continue;
            }
            let ask = ask(key.provider, Some(feature.slug.as_str()));
            if resolve(&ask, &without).outcome.is_ok() { managed += 1 } else { stopped += 1 }
        }
        let count = |number, verb_one: &str, verb_many: &str, rest: &str| {
            let verb = if number == 1 { verb_one } else { verb_many };
            format!("{} {verb} {rest}", counted(number, "AI feature", "AI features"))
        };
        if managed > 0 {
            lines.push(count(
                managed,
                "goes",
                "go",
                &format!("back to managed use on {product}'s shared account."),
            ));
        }
        if stopped > 0 {
            lines.push(count(stopped, "stops", "stop", "until another key is the default one."));
        }
        let unnamed = if resolve(&ask(key.provider, None), &without).outcome.is_ok() {
            format!(
                "Requests to {} that name no key run on {product}'s shared account.",
                key.provider.label()
            )
        } else {
            format!("Requests to {} that name no key are refused.", key.provider.label())
        };
        lines.push(unnamed);
        if other_keys > 0 {
            lines.push("No other key takes its place by itself: make one the default first to stay on your own account.".to_owned());
        }
    }
    lines.push(named);
    lines
}

pub async fn removal(console: Data<Console>, place: Place, path: Path<KeyPath>) -> Answer {
    Page::new(remove_page(&console, &place, &path.key).await?).answer()
}

pub async fn remove(
    console: Data<Console>,
    mut place: Place,
    path: Path<KeyPath>,
    posted: Posted<RemoveForm>,
) -> Answer {
    place.demand(Action::ChangeKeys)?;
    let (form, name, holder) = (posted.fields, &path.key, place.holder);
    let removed = confirm::act(&console, &mut place.viewer, posted.evidence, async |services, actor| {
        services.remove_key(actor, holder, name, &form.confirm_name).await
    })
    .await;
    match removed {
        Ok(()) => {
            session::notify(&place.viewer.session, true, format!("Key {name} removed."));
            Ok(see_other(&base(&place)))
        }
        Err(error) => {
            let failure = Failure::of(error)?;
            let mut page = remove_page(&console, &place, name).await?;
            page.confirm_name = form.confirm_name.chars().take(80).collect();
            page.problems = failure.problems;
            Page::new(page).status(failure.status).retry_after(failure.retry_after).answer()
        }
    }
}
