//! Pasted keys: the forms for a new key and for a rotation. What was pasted never goes back into
//! a page; everything else that was typed does.

use actix_web::HttpResponse;
use actix_web::web::{Data, Path, Query};
use askama::Template;
use serde::Deserialize;

use super::detail::{KeyPath, changeable};
use super::words::KeyState;
use super::{base, title};
use crate::access::policy::Action;
use crate::crypto::secret::Secret;
use crate::domain::billing::UsageMode;
use crate::domain::provider_key::{KeySettings, Provider};
use crate::providers::{self, API_VERSION, Field, LOCATION, Need, STREAM_USAGE, Spec};
use crate::services::pasted::TypedKey;
use crate::services::provider_keys::{NewKey, Saved};
use crate::services::{Problems, ServiceError};
use crate::web::error::WebError;
use crate::web::form::{Failure, Posted};
use crate::web::page::{Answer, Chrome, Page, see_other};
use crate::web::place::Place;
use crate::web::{Console, confirm, session};

fn nothing() -> Secret {
    Secret::new(String::new())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewKeyForm {
    #[serde(default)]
    provider: String,
    #[serde(default = "nothing")]
    api_key: Secret,
    #[serde(default)]
    key_name: String,
    #[serde(default)]
    label: String,
    #[serde(default)]
    custom_url: String,
    #[serde(default)]
    location: String,
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    stream_usage: String,
    /// `yes`, or not there at all.
    #[serde(default)]
    switch_mode: Option<String>,
}

/// The fields of all providers, as a form sends them: those that stayed empty are none.
fn settings(location: &str, api_version: &str, stream_usage: &str) -> KeySettings {
    let typed = [(LOCATION, location), (API_VERSION, api_version), (STREAM_USAGE, stream_usage)];
    let given = typed.into_iter().filter(|(_, value)| !value.trim().is_empty());
    KeySettings(given.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}

/// A field of the provider's with what is in it.
struct FieldRow {
    spec: &'static Field,
    value: String,
}

fn fields(spec: &'static Spec, settings: &KeySettings) -> Vec<FieldRow> {
    let value = |field: &Field| settings.get(field.name).unwrap_or_default().to_owned();
    spec.fields.iter().map(|field| FieldRow { spec: field, value: value(field) }).collect()
}

#[derive(Deserialize)]
pub struct Which {
    #[serde(default)]
    provider: String,
}

#[derive(Template)]
#[template(path = "pages/api_keys/new.html")]
struct NewKeyPage {
    chrome: Chrome,
    base: String,
    section: &'static str,
    spec: &'static Spec,
    providers: &'static [Provider],
    key_label: &'static str,
    key_help: String,
    key_name: String,
    label: String,
    custom_url: String,
    /// Whether to say that the URL is sealed with the key.
    sealed_url: bool,
    fields: Vec<FieldRow>,
    /// `None` where there is nothing to switch.
    switch_mode: Option<bool>,
    asks_password: bool,
    problems: Problems,
}

impl NewKeyPage {
    async fn empty(console: &Console, place: &Place, provider: Provider) -> Result<Self, WebError> {
        // Asked of the database's view, not the page's: the mode may have been switched since.
        let managed = match place.view() {
            Some(_) => {
                console.services.standing(&place.holder.scope).await?.tenant.policy.mode == UsageMode::Managed
            }
            None => false,
        };
        let known = console.services.keys(place.holder).await?;
        let of_provider = known.iter().any(|key| key.provider == provider);
        let key_name = match known.iter().any(|key| key.name.as_str() == provider.as_str()) {
            _ if known.is_empty() => "production",
            false if !of_provider => provider.as_str(),
            _ => "",
        };
        let spec = providers::of(provider).spec();
        Ok(Self {
            chrome: place.chrome("Add key", &base(place)),
            base: base(place),
            section: title(place),
            spec,
            providers: Provider::ALL,
            key_label: spec.key_label,
            key_help: if spec.key_is_document {
                "Only what signs is kept, encrypted. Afterwards the last four characters of its key id are shown."
            } else {
                "Stored encrypted. Only its last four characters are shown afterwards."
            }
            .to_owned(),
            sealed_url: false,
            fields: fields(spec, &KeySettings::default()),
            key_name: key_name.to_owned(),
            label: String::new(),
            custom_url: String::new(),
            switch_mode: managed.then_some(true),
            asks_password: place.asks_password(),
            problems: Problems::default(),
        })
    }
}

pub async fn new(console: Data<Console>, place: Place, which: Query<Which>) -> Answer {
    place.demand(Action::ChangeKeys)?;
    let provider = Provider::parse(&which.provider).unwrap_or(Provider::Anthropic);
    Page::new(NewKeyPage::empty(&console, &place, provider).await?).answer()
}

pub async fn create(console: Data<Console>, mut place: Place, posted: Posted<NewKeyForm>) -> Answer {
    place.demand(Action::ChangeKeys)?;
    let form = posted.fields;
    let provider = match form.provider.as_str() {
        "" => Provider::Anthropic,
        word => Provider::parse(word).ok_or(WebError::BadForm)?,
    };
    let settings = settings(&form.location, &form.api_version, &form.stream_usage);
    let new = NewKey {
        provider,
        secret: form.api_key,
        name: form.key_name.clone(),
        label: form.label.clone(),
        custom_url: form.custom_url.clone(),
        settings: settings.clone(),
        switch_mode: place.view().is_some() && form.switch_mode.as_deref() == Some("yes"),
    };
    let holder = place.holder;
    let saved = confirm::act(&console, &mut place.viewer, posted.evidence, async |services, actor| {
        // Its page would be hidden behind the form of this name.
        if new.name.trim() == "new" {
            let taken = Problems::field("key_name", "Choose another name: this one means the form itself.");
            return Err(ServiceError::Invalid(taken));
        }
        services.add_key(actor, holder, new).await
    })
    .await;
    match saved {
        Ok(saved) => Ok(welcome(&place, &saved)),
        Err(error) => {
            let failure = Failure::of(error)?;
            let mut page = NewKeyPage::empty(&console, &place, provider).await?;
            page.fields = fields(page.spec, &settings);
            page.key_name = form.key_name;
            page.label = form.label;
            page.custom_url = form.custom_url;
            page.switch_mode = page.switch_mode.map(|_| form.switch_mode.as_deref() == Some("yes"));
            page.problems = not_saved(provider, failure.problems);
            Page::new(page).status(failure.status).retry_after(failure.retry_after).answer()
        }
    }
}

/// Whatever the reason is: what was pasted is not stored.
fn not_saved(provider: Provider, mut problems: Problems) -> Problems {
    problems.summary.get_or_insert_with(|| format!("Failed to save {} key.", provider.label()));
    // In the order in which the form has them.
    let fields = [
        "api_key",
        LOCATION,
        API_VERSION,
        STREAM_USAGE,
        "key_name",
        "label",
        "custom_url",
        "current_password",
        "current_code",
        "current_passkey",
    ];
    problems.fields.sort_by_key(|(name, _)| fields.iter().position(|field| field == name));
    problems
}

/// Back to the overview, where the banner tells the new truth.
fn welcome(place: &Place, saved: &Saved) -> HttpResponse {
    let (good, but) = but(saved, place.mode());
    session::notify(&place.viewer.session, good, format!("Key {} saved.{but}", saved.name));
    see_other(&base(place))
}

/// Whether all is well with a key that was saved, and what else is to be said: that requests use
/// it now, or why they do not. `mode` is the tenant's from before.
pub fn but(saved: &Saved, mode: Option<UsageMode>) -> (bool, &'static str) {
    match (saved.disabled, saved.state) {
        (true, _) => (false, " It stays disabled: no request uses it until it is enabled."),
        (_, KeyState::OutOfCredit) => (false, " It works, but its account is out of credit."),
        (_, KeyState::SpendLimit) => (false, " It works, but its spend limit is reached."),
        (_, KeyState::RateLimited) => (false, " It works, but its rate is limited just now."),
        _ if saved.switched_mode => (true, " Covered AI requests use it from now on."),
        _ if mode == Some(UsageMode::Managed) => {
            (true, " The usage mode is managed: only requests that name it use it.")
        }
        _ => (true, ""),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RotateForm {
    #[serde(default = "nothing")]
    api_key: Secret,
    #[serde(default)]
    custom_url: String,
    #[serde(default)]
    location: String,
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    stream_usage: String,
}

#[derive(Template)]
#[template(path = "pages/api_keys/rotate.html")]
struct RotatePage {
    chrome: Chrome,
    base: String,
    section: &'static str,
    this: String,
    spec: &'static Spec,
    name: String,
    key_label: String,
    key_help: String,
    version: i32,
    custom_url: String,
    sealed_url: bool,
    fields: Vec<FieldRow>,
    asks_password: bool,
    problems: Problems,
}

async fn rotate_page(console: &Console, place: &Place, name: &str) -> Result<RotatePage, WebError> {
    let key = changeable(console, place, name).await?.line.key;
    let spec = providers::of(key.provider).spec();
    Ok(RotatePage {
        chrome: place.chrome(&format!("Rotate {name}"), &base(place)),
        base: base(place),
        section: title(place),
        this: format!("{}/{name}", base(place)),
        spec,
        name: name.to_owned(),
        key_label: format!("New {}", spec.key_label),
        key_help: format!("Replaces {}.", key.current.hint),
        version: key.current.version,
        custom_url: key.current.custom_url.unwrap_or_default(),
        sealed_url: true,
        fields: fields(spec, &key.current.settings),
        asks_password: place.asks_password(),
        problems: Problems::default(),
    })
}

pub async fn rotation(console: Data<Console>, place: Place, path: Path<KeyPath>) -> Answer {
    Page::new(rotate_page(&console, &place, &path.key).await?).answer()
}

pub async fn rotate(
    console: Data<Console>,
    mut place: Place,
    path: Path<KeyPath>,
    posted: Posted<RotateForm>,
) -> Answer {
    place.demand(Action::ChangeKeys)?;
    let (form, name, holder) = (posted.fields, &path.key, place.holder);
    let custom_url = form.custom_url.clone();
    let settings = settings(&form.location, &form.api_version, &form.stream_usage);
    let saved = confirm::act(&console, &mut place.viewer, posted.evidence, async |services, actor| {
        let typed = TypedKey { secret: &form.api_key, custom_url: &custom_url, settings: &settings };
        services.rotate_key(actor, holder, name, &typed).await
    })
    .await;
    match saved {
        Ok(saved) => {
            let (good, but) = but(&saved, place.mode());
            let text = format!("Version {} of {} is saved and in place.{but}", saved.version, saved.name);
            session::notify(&place.viewer.session, good, text);
            Ok(see_other(&format!("{}/{name}", base(&place))))
        }
        Err(error) => {
            let failure = Failure::of(error)?;
            let mut page = rotate_page(&console, &place, name).await?;
            page.custom_url = form.custom_url;
            page.fields = fields(page.spec, &settings);
            page.problems = not_saved(page.spec.kind, failure.problems);
            Page::new(page).status(failure.status).retry_after(failure.retry_after).answer()
        }
    }
}
