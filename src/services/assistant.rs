//! Having a model write something that a page asks for. The gateway does it, as it does any request:
//! through the resolver, on the tenant's key or the shared one, and onto the bill.

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use serde_json::Value;
use tokio::sync::mpsc;

use crate::domain::ids::{RequestId, TenantId};

pub struct Assignment {
    /// The id of its usage row.
    pub id: RequestId,
    pub tenant: TenantId,
    pub feature: &'static str,
    /// The prompt's label.
    pub prompt: &'static str,
    /// A request in the Anthropic dialect, to be streamed.
    pub body: Value,
}

/// What is being written.
pub struct Draft {
    /// `name@version` of the key that it runs on.
    pub key: String,
    /// The text as it comes.
    pub pieces: BoxStream<'static, Result<String, NotWritten>>,
    /// A process that stops waits until this is dropped.
    pub ticket: mpsc::Sender<()>,
}

/// Why nothing was written, in a sentence or two, and where something can be done about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotWritten {
    pub reason: String,
    /// A page of the provider's, or nothing.
    pub link: &'static str,
}

impl NotWritten {
    #[must_use]
    pub fn of(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), link: "" }
    }
}

pub trait Assistant: Send + Sync {
    /// Begins to write; ready when the first of it may come.
    fn write(&self, assignment: Assignment) -> BoxFuture<'static, Result<Draft, NotWritten>>;
}
