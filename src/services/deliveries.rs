//! Notifications beyond the console: webhooks and e-mail, delivered by a job that tries again.

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use url::Url;
use uuid::Uuid;

use super::budgets::about;
use super::{Problems, ServiceError, Services};
use crate::access::actor::Actor;
use crate::access::policy::Action;
use crate::access::scope::Scope;
use crate::crypto::sealed::Binding;
use crate::crypto::secret::Secret;
use crate::crypto::signature;
use crate::domain::account::Tenant;
use crate::domain::audit::AuditAction;
use crate::domain::clock::{DAY, MINUTE, Moment, SECOND};
use crate::domain::delivery::{self, Attempt, Delivery, DeliveryState, Destination, MAX_WEBHOOKS, Webhook};
use crate::domain::ids::{DeliveryId, Owner, UserId, WebhookId};
use crate::domain::notice::{self, Notice};
use crate::outbound::{SendError, Trust};
use crate::providers::Outgoing;
use crate::storage::deliveries::{self, SealedWebhook};
use crate::storage::{keys, notifications, people};

/// How long a receiver may take for its answer.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);
/// Nobody else takes a delivery while one process is at it.
const LEASE: i64 = MINUTE;
const AT_ONCE: usize = 16;
/// Deliveries that the page lists.
const SHOWN: i64 = 50;

/// Where a tenant's notifications go, as its page shows it.
pub struct Destinations {
    pub webhooks: Vec<Webhook>,
    /// The latest deliveries, newest first, each with its receiver's URL or address.
    pub log: Vec<(Delivery, String)>,
    /// Whether the viewer is told by e-mail; `None` where they could not be.
    pub mail: Option<bool>,
}

fn binding(id: WebhookId, tenant: Owner, url: &str) -> Binding {
    Binding::new("webhook secret")
        .with(tenant.as_uuid().as_bytes())
        .with(id.0.as_bytes())
        .with(url.as_bytes())
}

impl Services {
    /// # Errors
    /// `Denied` to whoever may not see the tenant's usage.
    pub async fn destinations(
        &self,
        actor: &Actor,
        scope: &Scope,
        tenant: &Tenant,
    ) -> Result<Destinations, ServiceError> {
        self.permit(actor, Action::SeeUsage, Some(about(tenant)))?;
        let mut tx = self.db.read().await?;
        let webhooks = deliveries::webhooks(&mut tx, scope).await?;
        let mail = match self.mailer {
            Some(_) => deliveries::mail_choice(&mut tx, scope, actor.user_id).await?,
            None => None,
        };
        let mut log = Vec::new();
        for delivery in deliveries::latest(&mut tx, scope, SHOWN).await? {
            let receiver = match delivery.to {
                Destination::Webhook(id) => {
                    webhooks.iter().find(|known| known.id == id).map(|known| known.url.clone())
                }
                Destination::Mail(id) => people::find(&mut tx, id).await?.map(|user| user.email),
            };
            log.push((delivery, receiver.unwrap_or_default()));
        }
        Ok(Destinations { webhooks, log, mail })
    }

    /// Adds a webhook and gives its signing secret, which is shown now and never again. A form
    /// sent twice adds one.
    ///
    /// # Errors
    /// `Invalid` with the rule of the URL policy that the URL breaks.
    pub async fn add_webhook(
        &self,
        actor: &Actor,
        scope: &Scope,
        tenant: &Tenant,
        id: WebhookId,
        typed: &str,
    ) -> Result<(Webhook, Secret), ServiceError> {
        self.permit(actor, Action::ManageWebhooks, Some(about(tenant)))?;
        let invalid = |message: String| ServiceError::Invalid(Problems::field("url", message));
        let url = self.options.urls.webhook(typed).map_err(|rule| invalid(rule.to_string()))?;
        if Trust::of_webhook(&url, &self.options.urls) == Trust::Tenant {
            let host = Url::parse(&url).ok().and_then(|url| url.host_str().map(str::to_owned));
            let vetted = self.outbound.vet(&host.unwrap_or_default()).await;
            vetted.map_err(|rule| invalid(rule.to_string()))?;
        }
        let now = self.clock.now();
        let webhook = Webhook { id, url, created_at: now, created_by: actor.email.clone() };
        let secret = signature::generate();
        let mut tx = self.db.write().await?;
        let known = deliveries::webhooks(&mut tx, scope).await?;
        if known.iter().any(|known| known.id == id) {
            return Err(ServiceError::Conflict("That webhook was added already. Its secret was shown once."));
        }
        if known.iter().any(|known| known.url == webhook.url) {
            return Err(invalid("There is a webhook to that URL already.".to_owned()));
        }
        if known.len() >= MAX_WEBHOOKS {
            return Err(invalid(format!("A tenant has at most {MAX_WEBHOOKS} webhooks. Remove one first.")));
        }
        let bound = binding(id, scope.owner(), &webhook.url);
        let sealed = self.seal_bound(&mut tx, scope, &bound, &secret, now).await?;
        deliveries::insert_webhook(&mut tx, scope, &webhook, &sealed).await?;
        let detail = serde_json::json!({ "id": id });
        self.record(&mut tx, scope.owner(), actor, AuditAction::WebhookAdded, &webhook.url, detail).await?;
        tx.commit().await?;
        Ok((webhook, secret))
    }

    /// Removes a webhook, and with it what was still on its way there.
    ///
    /// # Errors
    /// `NotFound` when it is not the tenant's.
    pub async fn remove_webhook(
        &self,
        actor: &Actor,
        scope: &Scope,
        tenant: &Tenant,
        id: WebhookId,
    ) -> Result<(), ServiceError> {
        self.permit(actor, Action::ManageWebhooks, Some(about(tenant)))?;
        let mut tx = self.db.write().await?;
        let url = deliveries::delete_webhook(&mut tx, scope, id).await?.ok_or(ServiceError::NotFound)?;
        let detail = serde_json::json!({ "id": id });
        self.record(&mut tx, scope.owner(), actor, AuditAction::WebhookRemoved, &url, detail).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Sends a test to a webhook and waits for what becomes of it. It is not tried again.
    ///
    /// # Errors
    /// `NotFound` when it is not the tenant's.
    pub async fn test_webhook(
        &self,
        actor: &Actor,
        scope: &Scope,
        tenant: &Tenant,
        id: WebhookId,
    ) -> Result<Attempt, ServiceError> {
        self.permit(actor, Action::ManageWebhooks, Some(about(tenant)))?;
        let now = self.clock.now();
        let mut tx = self.db.write().await?;
        let known = deliveries::webhooks(&mut tx, scope).await?;
        let webhook = known.into_iter().find(|known| known.id == id).ok_or(ServiceError::NotFound)?;
        let to = Destination::Webhook(id);
        let test = notice::of_test(now);
        // Not due before the lease ends: this request delivers it, not the job.
        let made = deliveries::insert(&mut tx, tenant.id, to, Uuid::now_v7(), &test, now.plus(LEASE)).await?;
        let made = deliveries::find(&mut tx, made).await?.ok_or(ServiceError::NotFound)?;
        let detail = serde_json::json!({ "id": id });
        self.record(&mut tx, scope.owner(), actor, AuditAction::WebhookTested, &webhook.url, detail).await?;
        tx.commit().await?;
        let attempt = self.attempt(&made).await?.ok_or(ServiceError::NotFound)?;
        let attempt = Attempt { for_good: true, ..attempt };
        self.note_attempt(made, &attempt).await?;
        Ok(attempt)
    }

    /// Whether the person is told by e-mail of what happens at this tenant.
    ///
    /// # Errors
    /// `Denied` to whoever is no admin or billing admin of it.
    pub async fn choose_mail(
        &self,
        actor: &Actor,
        scope: &Scope,
        tenant: &Tenant,
        mail: bool,
    ) -> Result<(), ServiceError> {
        self.permit(actor, Action::SeeUsage, Some(about(tenant)))?;
        let mut tx = self.db.write().await?;
        if !deliveries::set_mail_choice(&mut tx, scope, actor.user_id, mail).await? {
            return Err(ServiceError::Denied);
        }
        let detail = serde_json::json!({ "mail": mail });
        self.record(&mut tx, scope.owner(), actor, AuditAction::MailChoiceChanged, &actor.email, detail)
            .await?;
        tx.commit().await?;
        Ok(())
    }

    /// Delivers what is due.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn deliver_due(&self) -> Result<(), ServiceError> {
        let now = self.clock.now();
        let mut tx = self.db.write().await?;
        let due = deliveries::take_due(&mut tx, now, now.plus(LEASE)).await?;
        if due.is_empty() {
            return Ok(());
        }
        tx.commit().await?;
        futures_util::stream::iter(due).for_each_concurrent(AT_ONCE, |one| self.deliver(one)).await;
        Ok(())
    }

    async fn deliver(&self, delivery: Delivery) {
        let id = delivery.id;
        let delivered = async {
            match self.attempt(&delivery).await? {
                Some(attempt) => self.note_attempt(delivery, &attempt).await,
                None => self.forget_delivery(id).await,
            }
        };
        // One that cannot be delivered must not keep the others.
        if let Err(error) = delivered.await {
            tracing::error!(error = &error as &dyn std::error::Error, delivery = %id, "a notification could not be delivered");
        }
    }

    async fn note_attempt(&self, mut delivery: Delivery, attempt: &Attempt) -> Result<(), ServiceError> {
        let now = self.clock.now();
        delivery.attempts += 1;
        (delivery.state, delivery.next_at) = delivery::after(attempt, delivery.attempts, now);
        delivery.outcome.clone_from(&attempt.outcome);
        delivery.tried_at = Some(now);
        let mut tx = self.db.write().await?;
        deliveries::note(&mut tx, &delivery).await?;
        tx.commit().await?;
        if delivery.state == DeliveryState::GivenUp {
            tracing::warn!(delivery = %delivery.id, outcome = %delivery.outcome, "a notification was given up");
        }
        Ok(())
    }

    async fn forget_delivery(&self, id: DeliveryId) -> Result<(), ServiceError> {
        let mut tx = self.db.write().await?;
        deliveries::delete(&mut tx, id).await?;
        tx.commit().await?;
        Ok(())
    }

    /// `None` where nobody wants it any longer, or could be told.
    async fn attempt(&self, delivery: &Delivery) -> Result<Option<Attempt>, ServiceError> {
        match delivery.to {
            Destination::Webhook(id) => self.post_to_webhook(delivery, id).await,
            Destination::Mail(user) => self.mail_to(delivery, user).await,
        }
    }

    async fn post_to_webhook(
        &self,
        delivery: &Delivery,
        id: WebhookId,
    ) -> Result<Option<Attempt>, ServiceError> {
        let scope = Scope::of_system(Owner::Tenant(delivery.tenant));
        let mut tx = self.db.read().await?;
        let found = deliveries::find_webhook(&mut tx, id).await?;
        let Some(SealedWebhook { tenant, webhook, sealed }) = found else { return Ok(None) };
        let bound = binding(id, Owner::Tenant(tenant), &webhook.url);
        let secret = self.open_bound(&mut tx, &scope, &bound, &sealed).await?;
        tx.rollback().await?;
        let Some(view) = self.directory.tenant(&scope).await? else { return Ok(None) };
        let console = &self.options.public_url;
        let body = delivery::webhook_body(&delivery.notice, view.tenant.slug.as_str(), console);
        // Rules may have changed since it was saved.
        let Ok(Ok(url)) = self.options.urls.webhook(&webhook.url).map(|url| Url::parse(&url)) else {
            return Ok(Some(Attempt::failed("The URL is refused by policy")));
        };
        let message = delivery::message_id(delivery.message);
        let seconds = self.clock.now().0 / SECOND;
        let signed = signature::standard(&secret, &message, seconds, &body);
        let headers = webhook_headers(&message, seconds, signed.as_deref().unwrap_or_default());
        let trust = Trust::of_webhook(url.as_str(), &self.options.urls);
        let outgoing =
            Outgoing { method: Method::POST, url, headers, body: Bytes::from(body), hides_usage: false };
        Ok(Some(match self.outbound.send(outgoing, trust, PATIENCE).await {
            // What it says beyond its status is nothing to Keyward.
            Ok(answer) => Attempt::of_status(answer.status),
            Err(SendError::Timeout) => Attempt::failed("No answer within 10 seconds"),
            Err(SendError::Refused) => Attempt::failed("The address is refused by policy"),
            Err(SendError::Unreachable | SendError::NotTaken | SendError::Broken) => {
                Attempt::failed("Could not be reached")
            }
        }))
    }

    async fn mail_to(&self, delivery: &Delivery, user: UserId) -> Result<Option<Attempt>, ServiceError> {
        let Some(mailer) = &self.mailer else { return Ok(None) };
        let scope = Scope::of_system(Owner::Tenant(delivery.tenant));
        let mut tx = self.db.read().await?;
        let wanted = deliveries::mail_choice(&mut tx, &scope, user).await? == Some(true);
        let person = people::find(&mut tx, user).await?.filter(|person| person.disabled_at.is_none());
        tx.rollback().await?;
        let (Some(person), true) = (person, wanted) else { return Ok(None) };
        let Some(view) = self.directory.tenant(&scope).await? else { return Ok(None) };
        let (slug, console) = (view.tenant.slug.as_str(), &self.options.public_url);
        let subject = format!("{}: {}", view.tenant.name, delivery.notice.kind.label());
        let text = format!(
            "{}\n\n{}\n\nTo stop these e-mails: {console}/t/{slug}/settings/notifications\n",
            delivery.notice.text,
            delivery::page_url(&delivery.notice, slug, console),
        );
        let id = delivery.id.to_string();
        Ok(Some(match mailer.send(&person.email, &id, &subject, &text).await {
            Ok(()) => Attempt { delivered: true, for_good: false, outcome: "Sent".to_owned() },
            Err(failure) => Attempt { delivered: false, for_good: failure.for_good, outcome: failure.text },
        }))
    }

    /// Tells once of each key version that has been in use for long.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn tell_of_age(&self) -> Result<(), ServiceError> {
        let now = self.clock.now();
        let mut tx = self.db.read().await?;
        let old = keys::due_for_rotation(&mut tx, now).await?;
        tx.rollback().await?;
        for key in old {
            let reference = format!("rotation:{}:{}", key.key, key.version);
            let mut tx = self.db.read().await?;
            if notifications::was_told_of(&mut tx, key.owner, &reference, Moment(0)).await? {
                continue;
            }
            tx.rollback().await?;
            let news = notice::of_age(&key.name, now.since(key.pasted_at) / DAY, now);
            let Owner::Tenant(tenant) = key.owner else {
                let news = Notice { page: format!("shared-keys/{}/rotate", key.name), ..news };
                self.tell_operator(&news, Some(&reference)).await?;
                continue;
            };
            let mut tx = self.db.write().await?;
            notifications::insert_once(&mut tx, tenant, &news, Some(&reference)).await?;
            tx.commit().await?;
        }
        Ok(())
    }
}

fn webhook_headers(message: &str, seconds: i64, signed: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let mut put = |name: &'static str, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    };
    put("content-type", "application/json");
    put("webhook-id", message);
    put("webhook-timestamp", &seconds.to_string());
    put("webhook-signature", signed);
    headers
}
