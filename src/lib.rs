//! Keyward: bring your own key for multi-tenant products. See `docs/architecture.md`.

pub mod domain;
pub mod sandbox;
