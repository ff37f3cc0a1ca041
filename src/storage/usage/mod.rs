//! Usage rows and their rollups.

mod read;
mod write;

pub use read::{find, latest, orphans, page, settled_among, unpriced};
pub(super) use write::{AccountChange, Charge, record_paid};
pub use write::{record, roll_up, upsert};
