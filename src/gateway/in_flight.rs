//! What is under way, so that a process that stops can wait for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::mpsc;

/// Held by whatever is under way; it is over when all clones are dropped.
pub type Ticket = mpsc::Sender<()>;

pub struct InFlight {
    running: Ticket,
    over: mpsc::Receiver<()>,
    closed: Arc<AtomicBool>,
}

impl Default for InFlight {
    fn default() -> Self {
        let (running, over) = mpsc::channel(1);
        Self { running, over, closed: Arc::default() }
    }
}

impl InFlight {
    #[must_use]
    pub fn tickets(&self) -> Tickets {
        Tickets { running: self.running.downgrade(), closed: Arc::clone(&self.closed) }
    }

    /// Gives out no more tickets, and waits until those that were are back.
    pub async fn end(self) {
        let Self { running, mut over, closed } = self;
        closed.store(true, Ordering::SeqCst);
        drop(running);
        let _ = over.recv().await;
    }
}

/// Where tickets are to be had.
#[derive(Clone)]
pub struct Tickets {
    running: mpsc::WeakSender<()>,
    closed: Arc<AtomicBool>,
}

impl Tickets {
    /// `None` when the process is stopping.
    #[must_use]
    pub fn take(&self) -> Option<Ticket> {
        if self.closed.load(Ordering::SeqCst) { None } else { self.running.upgrade() }
    }
}
