//! Payment providers, by which tenants buy credits: a trait, the manual one, and Stripe beside it.
//! Pure like the others: requests are built and answers read here, and sent elsewhere.

use http::HeaderMap;

use super::Outgoing;
use crate::domain::clock::Moment;
use crate::domain::payment::{Order, PaymentEvent, PaymentMethod};

/// A page of the payment provider's, where an order is paid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkout {
    pub id: String,
    pub url: String,
}

/// Why a checkout could not be begun: the provider's stable code, never its words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the payment provider answered {status} ({code})")]
pub struct CheckoutError {
    pub status: u16,
    pub code: String,
}

/// Why a message is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    #[error("the signature is missing or does not fit")]
    Signature,
    #[error("the message is too old, or from the future")]
    Stale,
    #[error("the message is not what it should be")]
    Shape,
}

/// What a checkout is begun with.
#[derive(Clone, Copy, Debug)]
pub struct ForCheckout<'a> {
    pub order: &'a Order,
    /// What is bought, as the payer reads it.
    pub title: &'a str,
    /// Where the payer comes back to, whatever they did.
    pub back: &'a str,
}

pub trait Payments: Send + Sync {
    fn method(&self) -> PaymentMethod;

    /// The request that begins a checkout; `None` where people pay by themselves.
    fn checkout(&self, new: &ForCheckout<'_>) -> Option<Outgoing>;

    /// Reads the answer to it.
    ///
    /// # Errors
    /// The provider's code.
    fn read_checkout(&self, status: u16, body: &[u8]) -> Result<Checkout, CheckoutError>;

    /// Reads a message after checking that the provider sent it, lately.
    ///
    /// # Errors
    /// Why it is not taken.
    fn read_event(&self, headers: &HeaderMap, body: &[u8], now: Moment) -> Result<PaymentEvent, EventError>;

    /// How to pay, where people pay by themselves.
    fn instructions(&self) -> Option<&str>;
}

/// People pay as the operator says; a super admin enters what has arrived.
pub struct Manual {
    pub instructions: String,
}

impl Payments for Manual {
    fn method(&self) -> PaymentMethod {
        PaymentMethod::Manual
    }

    fn checkout(&self, _: &ForCheckout<'_>) -> Option<Outgoing> {
        None
    }

    fn read_checkout(&self, status: u16, _: &[u8]) -> Result<Checkout, CheckoutError> {
        Err(CheckoutError { status, code: "no_checkout".to_owned() })
    }

    fn read_event(&self, _: &HeaderMap, _: &[u8], _: Moment) -> Result<PaymentEvent, EventError> {
        Err(EventError::Signature)
    }

    fn instructions(&self) -> Option<&str> {
        Some(&self.instructions)
    }
}
