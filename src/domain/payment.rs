//! Buying credits: an order, what a payment provider says of it, and what follows.

use super::clock::Moment;
use super::ids::{OrderId, TenantId};
use super::money::Nanos;
use super::words;

/// The least and the most that is bought at once.
pub const LEAST: Nanos = Nanos(5_000_000_000);
pub const MOST: Nanos = Nanos(10_000 * 1_000_000_000);

words! {
    pub enum PaymentMethod {
        Manual = "manual",
        Stripe = "stripe",
    }
}

words! {
    pub enum OrderState {
        /// Not paid yet.
        Open = "open",
        /// Paid in a way that takes days; word of it will come.
        Processing = "processing",
        Paid = "paid",
        /// The payment was refused after all.
        Failed = "failed",
        /// Nobody paid in time.
        Expired = "expired",
        Cancelled = "cancelled",
    }
}

/// Credits that somebody set out to buy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    pub id: OrderId,
    pub tenant: TenantId,
    pub method: PaymentMethod,
    pub amount: Nanos,
    pub state: OrderState,
    /// The provider's id of the checkout, once it was begun, and where to pay.
    pub checkout: Option<String>,
    pub url: Option<String>,
    /// The provider's id of the payment, by which refunds find the order.
    pub payment: Option<String>,
    pub refunded: Nanos,
    pub created_at: Moment,
    pub created_by: String,
    pub settled_at: Option<Moment>,
    pub settled_by: Option<String>,
}

impl Order {
    /// What a person writes on a transfer: short, and different for any two orders of a tenant.
    #[must_use]
    pub fn reference(&self) -> String {
        let id = self.id.0.simple().to_string().to_uppercase();
        format!("KW-{}-{}", &id[20..26], &id[26..32])
    }
}

/// A message of a payment provider that proved to be its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PaymentEvent {
    /// The provider's id: a message that comes twice counts once.
    pub id: String,
    pub news: PaymentNews,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PaymentNews {
    Paid {
        order: OrderId,
        cents: i64,
        /// Lower case, such as `usd`.
        currency: String,
        payment: Option<String>,
    },
    /// Paid in a way that takes days.
    Processing {
        order: OrderId,
    },
    Failed {
        order: OrderId,
    },
    Expired {
        order: OrderId,
    },
    /// So much of a payment was given back in all.
    Refunded {
        payment: String,
        cents: i64,
        currency: String,
    },
    /// About something that Keyward does not look after.
    Other,
}

/// Why a payment is not what was ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("what was paid is not what was ordered")]
pub struct WrongAmount;

/// Whether a payment settles an order: `Ok(false)` when it was settled before.
///
/// # Errors
/// When another amount or currency was paid.
pub fn settles(order: &Order, cents: i64, currency: &str) -> Result<bool, WrongAmount> {
    if currency != "usd" || Nanos::of_cents(cents) != Some(order.amount) {
        return Err(WrongAmount);
    }
    // Paid is paid, whatever was said before: messages overtake each other.
    Ok(order.state != OrderState::Paid)
}

/// What more was refunded than is entered already; never more than was bought.
#[must_use]
pub fn still_to_refund(order: &Order, cents: i64, currency: &str) -> Nanos {
    if currency != "usd" || order.state != OrderState::Paid {
        return Nanos::ZERO;
    }
    let all = Nanos::of_cents(cents.max(0)).map_or(order.amount, |all| all.min(order.amount));
    Nanos((all.0 - order.refunded.0).max(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(state: OrderState, refunded: i64) -> Order {
        Order {
            id: OrderId::new(),
            tenant: TenantId::new(),
            method: PaymentMethod::Stripe,
            amount: Nanos(50_000_000_000),
            state,
            checkout: None,
            url: None,
            payment: None,
            refunded: Nanos(refunded),
            created_at: Moment(0),
            created_by: String::new(),
            settled_at: None,
            settled_by: None,
        }
    }

    #[test]
    fn only_the_ordered_amount_settles_and_only_once() {
        for state in [OrderState::Open, OrderState::Failed, OrderState::Expired, OrderState::Cancelled] {
            assert_eq!(settles(&order(state, 0), 5_000, "usd"), Ok(true), "{state}");
        }
        assert_eq!(settles(&order(OrderState::Paid, 0), 5_000, "usd"), Ok(false));
        for (cents, currency) in [(4_999, "usd"), (5_000, "eur"), (-5_000, "usd"), (i64::MAX, "usd")] {
            assert_eq!(settles(&order(OrderState::Open, 0), cents, currency), Err(WrongAmount));
        }
    }

    #[test]
    fn refunds_are_running_totals() {
        let paid = |refunded| order(OrderState::Paid, refunded);
        assert_eq!(still_to_refund(&paid(0), 1_000, "usd"), Nanos(10_000_000_000));
        assert_eq!(still_to_refund(&paid(10_000_000_000), 1_000, "usd"), Nanos::ZERO);
        assert_eq!(still_to_refund(&paid(10_000_000_000), 5_000, "usd"), Nanos(40_000_000_000));
        // An older message that comes late takes nothing back; more than was bought cannot be.
        assert_eq!(still_to_refund(&paid(20_000_000_000), 1_000, "usd"), Nanos::ZERO);
        assert_eq!(still_to_refund(&paid(0), i64::MAX, "usd"), Nanos(50_000_000_000));
        assert_eq!(still_to_refund(&paid(0), -1, "usd"), Nanos::ZERO);
        assert_eq!(still_to_refund(&order(OrderState::Open, 0), 1_000, "usd"), Nanos::ZERO);
        assert_eq!(still_to_refund(&paid(0), 1_000, "eur"), Nanos::ZERO);
    }

    #[test]
    fn references_are_short() {
        let order = order(OrderState::Open, 0);
        assert_eq!(order.reference().len(), 16);
        assert!(order.reference().starts_with("KW-"));
    }
}
