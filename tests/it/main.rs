//! Integration tests: one binary, a module per area. Run them with `tests/run`, which starts what
//! they need.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should stop")]

mod api;
mod architecture;
mod attacks;
mod audit;
mod billing;
mod books;
mod breaker;
mod cli;
mod commands;
mod console;
mod credits;
mod custom_url;
mod dialects;
mod factors;
mod faults;
mod gates;
mod gateway;
mod generations;
mod headers;
mod key_pages;
mod keys;
mod members;
mod metering;
mod migrations;
mod notifications;
mod own_key;
mod people;
mod prices;
mod process;
mod purchases;
mod questions;
mod reconcile;
mod sandbox;
mod secrecy;
mod silence;
mod sso;
mod status;
mod support;
mod telemetry;
mod two_processes;
mod viewing;
mod visitor;
