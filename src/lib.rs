//! Keyward: bring your own key for multi-tenant products. See `docs/architecture.md`.

pub mod access;
pub mod crypto;
pub mod domain;
pub mod sandbox;
pub mod storage;
