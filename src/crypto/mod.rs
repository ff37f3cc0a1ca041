//! Key custody: how secrets are held in memory, sealed at rest, hashed and derived.
//! Nothing here knows of databases, requests or pages.

pub mod keyring;
pub mod password;
pub mod root;
pub mod sealed;
pub mod secret;
pub mod signature;
pub mod token;
pub mod totp;
