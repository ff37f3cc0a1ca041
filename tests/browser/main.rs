//! Journeys in a real Chromium, with nobody at the keys. Run by `tests/run`, which installs Chromium
//! and its driver, and axe-core beside the SDKs.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should stop")]

mod browser;
mod fields;
mod journeys;
mod people;
#[allow(dead_code)]
#[path = "../it/support.rs"]
mod support;
mod writing;
