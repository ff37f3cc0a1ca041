//! Keyward: bring your own key for multi-tenant products. See `docs/architecture.md`.

pub mod access;
pub mod crypto;
pub mod domain;
pub mod outbound;
pub mod providers;
pub mod sandbox;
pub mod services;
pub mod storage;
