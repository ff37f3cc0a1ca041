//! Usage rows and their rollups.

mod read;
mod write;

pub use read::{find, latest, orphans, page, settled_among, unpriced};
pub(super) use write::write_at_once;
pub use write::{roll_up, upsert};
