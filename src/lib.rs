//! Keyward: bring your own key for multi-tenant products. See `docs/architecture.md`.

pub mod access;
pub mod api;
pub mod cli;
pub mod config;
pub mod crypto;
pub mod domain;
pub mod gateway;
pub mod outbound;
pub mod providers;
pub mod sandbox;
pub mod services;
pub mod startup;
pub mod storage;
pub mod telemetry;
pub mod web;
