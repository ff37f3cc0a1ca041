//! Buying credits: an order is made, paid at a payment provider or by hand, and entered once.

use http::HeaderMap;

use super::budgets::about;
use super::credits::NOT_DOLLARS;
use super::{Problems, ServiceError, Services};
use crate::access::actor::Actor;
use crate::access::policy::Action;
use crate::access::scope::Scope;
use crate::domain::account::Tenant;
use crate::domain::audit::{AuditAction, AuditActor, AuditEvent};
use crate::domain::billing::EntryKind;
use crate::domain::ids::{OrderId, Owner};
use crate::domain::money::Nanos;
use crate::domain::payment::{self, LEAST, MOST, Order, OrderState, PaymentMethod, PaymentNews, WrongAmount};
use crate::outbound::Trust;
use crate::providers::payment::{Checkout, EventError, ForCheckout};
use crate::storage::credits::{self, NewEntry};
use crate::storage::{Tx, audit, purchases};

/// How long a payment provider may take to begin a checkout.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(15);
const MAX_ANSWER: usize = 256 * 1_024;
/// Orders that a tenant may leave unpaid.
const MOST_OPEN: i64 = 20;
/// Orders that pages list.
const SHOWN: i64 = 20;

/// Why a payment provider's message is not taken.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    #[error("this installation takes no such messages")]
    NoPayments,
    #[error(transparent)]
    Event(#[from] EventError),
    #[error(transparent)]
    Amount(#[from] WrongAmount),
    #[error(transparent)]
    Service(#[from] ServiceError),
}

impl From<crate::storage::StorageError> for TakeError {
    fn from(error: crate::storage::StorageError) -> Self {
        Self::Service(error.into())
    }
}

impl Services {
    /// Makes an order and begins its checkout. The same order asked for twice is made once.
    ///
    /// # Errors
    /// `Invalid` with the reason at its field.
    pub async fn order_credits(
        &self,
        actor: &Actor,
        scope: &Scope,
        tenant: &Tenant,
        id: OrderId,
        typed: &str,
    ) -> Result<Order, ServiceError> {
        self.permit(actor, Action::ChangeBilling, Some(about(tenant)))?;
        let payments = self.payments.as_ref().ok_or(ServiceError::NotFound)?;
        let invalid = |message: String| ServiceError::Invalid(Problems::field("amount", message));
        let amount = Nanos::parse_dollars(typed).ok_or_else(|| invalid(NOT_DOLLARS.to_owned()))?;
        if amount < LEAST || amount > MOST {
            let (least, most) = (LEAST.dollars(), MOST.dollars());
            return Err(invalid(format!("Buy at least {least} and at most {most} at once.")));
        }
        let mut tx = self.db.write().await?;
        if let Some(known) = purchases::find(&mut tx, scope, id).await? {
            tx.rollback().await?;
            if known.amount != amount {
                let begun = known.amount.dollars();
                return Err(invalid(format!(
                    "This form began a purchase of {begun} already. Send it again for another."
                )));
            }
            return self.begin_checkout(tenant, known).await;
        }
        if purchases::count_open(&mut tx, tenant.id).await? >= MOST_OPEN {
            return Err(invalid("Too many purchases are unpaid. Pay or cancel one first.".to_owned()));
        }
        let order = Order {
            id,
            tenant: tenant.id,
            method: payments.method(),
            amount,
            state: OrderState::Open,
            checkout: None,
            url: None,
            payment: None,
            refunded: Nanos::ZERO,
            created_at: self.clock.now(),
            created_by: actor.email.clone(),
            settled_at: None,
            settled_by: None,
        };
        purchases::insert(&mut tx, &order).await.map_err(|error| {
            // Somebody else's order has this id.
            if error.is_conflict() { ServiceError::NotFound } else { error.into() }
        })?;
        let detail = serde_json::json!({ "amount": amount.exact(), "method": order.method });
        let target = order.reference();
        self.record(&mut tx, scope.owner(), actor, AuditAction::CreditsOrdered, &target, detail).await?;
        tx.commit().await?;
        self.begin_checkout(tenant, order).await
    }

    async fn begin_checkout(&self, tenant: &Tenant, order: Order) -> Result<Order, ServiceError> {
        let payments = self.payments.as_ref().filter(|payments| payments.method() == order.method);
        let (Some(payments), OrderState::Open, None) = (payments, order.state, &order.url) else {
            return Ok(order);
        };
        let title = format!("{} credits for {}", self.options.product, tenant.name);
        let back =
            format!("{}/t/{}/billing/credits/orders/{}", self.options.public_url, tenant.slug, order.id);
        let asked = payments.checkout(&ForCheckout { order: &order, title: &title, back: &back });
        let Some(outgoing) = asked else { return Ok(order) };
        let answered = async {
            let mut answer = self.outbound.ask(outgoing, Trust::Operator, PATIENCE).await.ok()?;
            let body = answer.body(MAX_ANSWER).await.ok()??;
            let begun = payments.read_checkout(answer.status, &body);
            begun.inspect_err(|error| {
                tracing::error!(error = error as &dyn std::error::Error, order = %order.id, "a checkout could not be begun");
            }).ok()
        };
        let begun = answered.await;
        let mut tx = self.db.write().await?;
        // What happened meanwhile is not overwritten.
        let order = purchases::lock(&mut tx, order.id).await?.ok_or(ServiceError::NotFound)?;
        let Some(Checkout { id, url }) = begun else {
            // Another attempt is another order: payment providers remember what they answered to this one.
            if order.state == OrderState::Open && order.url.is_none() {
                let (state, settled_at) = (OrderState::Failed, Some(self.clock.now()));
                purchases::update(&mut tx, &Order { state, settled_at, ..order }).await?;
                tx.commit().await?;
            }
            return Err(ServiceError::Invalid(Problems::field(
                "amount",
                "The payment provider could not be reached. Nothing was charged; try again.",
            )));
        };
        let order = Order { checkout: Some(id), url: Some(url), ..order };
        purchases::update(&mut tx, &order).await?;
        tx.commit().await?;
        Ok(order)
    }

    /// # Errors
    /// `NotFound` when it is not the tenant's; `Denied` to whoever may not see its usage.
    pub async fn order(
        &self,
        actor: &Actor,
        scope: &Scope,
        tenant: &Tenant,
        id: OrderId,
    ) -> Result<Order, ServiceError> {
        self.permit(actor, Action::SeeUsage, Some(about(tenant)))?;
        let mut tx = self.db.read().await?;
        purchases::find(&mut tx, scope, id).await?.ok_or(ServiceError::NotFound)
    }

    /// The tenant's latest orders, newest first.
    ///
    /// # Errors
    /// `Denied` to whoever may not see the tenant's usage.
    pub async fn orders(
        &self,
        actor: &Actor,
        scope: &Scope,
        tenant: &Tenant,
    ) -> Result<Vec<Order>, ServiceError> {
        self.permit(actor, Action::SeeUsage, Some(about(tenant)))?;
        let mut tx = self.db.read().await?;
        Ok(purchases::latest(&mut tx, scope, SHOWN).await?)
    }

    /// The tenant's orders that are paid by hand and wait for word that the payment has arrived.
    ///
    /// # Errors
    /// `Denied` to all but super admins.
    pub async fn waiting_orders(&self, actor: &Actor, scope: &Scope) -> Result<Vec<Order>, ServiceError> {
        self.permit(actor, Action::SeePlatform, None)?;
        let mut tx = self.db.read().await?;
        Ok(purchases::waiting(&mut tx, scope).await?)
    }

    /// Tenants whose purchases wait for word that their payment has arrived: slug, name, and how many.
    ///
    /// # Errors
    /// `Denied` to all but super admins.
    pub async fn tenants_waiting(&self, actor: &Actor) -> Result<Vec<(String, String, i64)>, ServiceError> {
        self.permit(actor, Action::SeePlatform, None)?;
        let mut tx = self.db.read().await?;
        Ok(purchases::tenants_waiting(&mut tx).await?)
    }

    /// Cancels an order that is paid by hand and was not paid. (A checkout ends by itself.)
    ///
    /// # Errors
    /// `Conflict` when it is settled already.
    pub async fn cancel_order(
        &self,
        actor: &Actor,
        scope: &Scope,
        tenant: &Tenant,
        id: OrderId,
    ) -> Result<(), ServiceError> {
        self.permit(actor, Action::ChangeBilling, Some(about(tenant)))?;
        let mut tx = self.db.write().await?;
        let order = manual(&mut tx, scope, id).await?;
        let order = Order {
            state: OrderState::Cancelled,
            settled_at: Some(self.clock.now()),
            settled_by: Some(actor.email.clone()),
            ..order
        };
        purchases::update(&mut tx, &order).await?;
        let detail = serde_json::json!({ "amount": order.amount.exact() });
        let target = order.reference();
        self.record(&mut tx, scope.owner(), actor, AuditAction::OrderCancelled, &target, detail).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Enters that an order that is paid by hand was paid.
    ///
    /// # Errors
    /// `Denied` to all but super admins, `Conflict` when it is settled already.
    pub async fn confirm_order(
        &self,
        actor: &Actor,
        scope: &Scope,
        id: OrderId,
    ) -> Result<Order, ServiceError> {
        self.permit(actor, Action::ManagePlatform, None)?;
        let mut tx = self.db.write().await?;
        let order = manual(&mut tx, scope, id).await?;
        let by = AuditActor { ..actor.for_audit() };
        let order = self.enter_purchase(&mut tx, order, None, by).await?;
        tx.commit().await?;
        Ok(order)
    }

    /// Takes a message of the payment provider: checked, counted once, and whatever follows from it
    /// in one transaction.
    ///
    /// # Errors
    /// Why it is not taken; then nothing was written.
    pub async fn take_payment_event(
        &self,
        method: PaymentMethod,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<(), TakeError> {
        let payments = self.payments.as_ref().filter(|payments| payments.method() == method);
        let payments = payments.ok_or(TakeError::NoPayments)?;
        let now = self.clock.now();
        let event = payments.read_event(headers, body, now)?;
        if event.news == PaymentNews::Other {
            return Ok(());
        }
        let refund = match &event.news {
            PaymentNews::Refunded { payment, cents, currency } if currency == "usd" => {
                Some((payment.as_str(), *cents))
            }
            _ => None,
        };
        let mut tx = self.db.write().await?;
        if !purchases::take_event(&mut tx, method, &event.id, now, refund).await? {
            return Ok(());
        }
        match event.news {
            PaymentNews::Paid { order: id, cents, currency, payment } => {
                if let Some(payment) = &payment {
                    purchases::lock_payment(&mut tx, method, payment, now).await?;
                }
                let Some(order) = purchases::lock(&mut tx, id).await? else {
                    tracing::warn!(order = %id, "a payment is for an order that is not here");
                    return Ok(());
                };
                if payment::settles(&order, cents, &currency)? {
                    let order = self.enter_purchase(&mut tx, order, payment, by(method)).await?;
                    self.enter_refunds(&mut tx, order).await?;
                }
            }
            PaymentNews::Processing { order } => {
                self.end_order(&mut tx, order, OrderState::Processing, method).await?;
            }
            PaymentNews::Failed { order } => {
                self.end_order(&mut tx, order, OrderState::Failed, method).await?;
            }
            PaymentNews::Expired { order } => {
                self.end_order(&mut tx, order, OrderState::Expired, method).await?;
            }
            PaymentNews::Refunded { payment, .. } => {
                purchases::lock_payment(&mut tx, method, &payment, now).await?;
                // Unknown, it may be of a payment that is told of later.
                if let Some(order) = purchases::lock_by_payment(&mut tx, &payment).await? {
                    self.enter_refunds(&mut tx, order).await?;
                }
            }
            PaymentNews::Other => {}
        }
        tx.commit().await?;
        Ok(())
    }

    async fn end_order(
        &self,
        tx: &mut Tx,
        id: OrderId,
        state: OrderState,
        method: PaymentMethod,
    ) -> Result<(), ServiceError> {
        // Paid is paid, whichever message comes last.
        let unsettled = |order: &Order| matches!(order.state, OrderState::Open | OrderState::Processing);
        let Some(order) = purchases::lock(tx, id).await?.filter(unsettled) else {
            return Ok(());
        };
        let (settled_at, settled_by) = (Some(self.clock.now()), Some(by(method).name));
        Ok(purchases::update(tx, &Order { state, settled_at, settled_by, ..order }).await?)
    }

    async fn enter_purchase(
        &self,
        tx: &mut Tx,
        order: Order,
        payment: Option<String>,
        by: AuditActor,
    ) -> Result<Order, ServiceError> {
        let now = self.clock.now();
        let reference = format!("order:{}", order.id);
        let note = order.reference();
        let entry = NewEntry {
            at: now,
            kind: EntryKind::Purchase,
            amount: order.amount,
            reference: Some(&reference),
            note: &note,
            entered_by: &by.name,
        };
        let balance = credits::enter(tx, order.tenant, &entry).await?;
        let order = Order {
            state: OrderState::Paid,
            payment,
            settled_at: Some(now),
            settled_by: Some(by.name.clone()),
            ..order
        };
        purchases::update(tx, &order).await?;
        let detail = serde_json::json!({
            "amount": order.amount.exact(), "balance": balance.exact(), "method": order.method,
        });
        self.record_payment(tx, &order, AuditAction::CreditsBought, by, detail).await?;
        Ok(order)
    }

    /// Takes back what was refunded and is not entered yet.
    async fn enter_refunds(&self, tx: &mut Tx, order: Order) -> Result<(), ServiceError> {
        let Some(payment) = order.payment.clone() else { return Ok(()) };
        let cents = purchases::refunded_of(tx, &payment).await?;
        let more = payment::still_to_refund(&order, cents, "usd");
        if more == Nanos::ZERO {
            return Ok(());
        }
        let (now, by) = (self.clock.now(), by(order.method));
        let note = format!("Refund of {}", order.reference());
        let entry = NewEntry {
            at: now,
            kind: EntryKind::Adjust,
            amount: Nanos(-more.0),
            reference: None,
            note: &note,
            entered_by: &by.name,
        };
        let balance = credits::enter(tx, order.tenant, &entry).await?;
        let order = Order { refunded: order.refunded.saturating_add(more), ..order };
        purchases::update(tx, &order).await?;
        let detail = serde_json::json!({ "amount": more.exact(), "balance": balance.exact() });
        self.record_payment(tx, &order, AuditAction::CreditsRefunded, by, detail).await
    }

    async fn record_payment(
        &self,
        tx: &mut Tx,
        order: &Order,
        action: AuditAction,
        actor: AuditActor,
        detail: serde_json::Value,
    ) -> Result<(), ServiceError> {
        let event = AuditEvent { at: self.clock.now(), actor, action, target: order.reference(), detail };
        Ok(audit::append(tx, &self.root, Owner::Tenant(order.tenant), &event).await?)
    }
}

/// The tenant's order that is paid by hand and still open, locked.
async fn manual(tx: &mut Tx, scope: &Scope, id: OrderId) -> Result<Order, ServiceError> {
    let order = purchases::lock(tx, id).await?;
    let order = order.filter(|order| Some(order.tenant) == scope.tenant()).ok_or(ServiceError::NotFound)?;
    if order.state != OrderState::Open || order.method != PaymentMethod::Manual {
        return Err(ServiceError::Conflict("That purchase is settled already, or settles by itself."));
    }
    Ok(order)
}

fn by(method: PaymentMethod) -> AuditActor {
    AuditActor::system(method.as_str())
}
