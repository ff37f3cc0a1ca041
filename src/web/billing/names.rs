//! What pages call the values that usage is grouped by.

use crate::domain::billing::UsageMode;
use crate::domain::plan::{Feature, GENERAL};
use crate::domain::usage::Dimension;

pub fn name_of(value: &str, of: Dimension, features: &[Feature], product: &str) -> String {
    match of {
        Dimension::Feature if value == GENERAL => Feature::general().name.clone(),
        Dimension::Feature => features
            .iter()
            .find(|feature| feature.slug == value)
            .map_or_else(|| value.to_owned(), |feature| feature.name.clone()),
        Dimension::Key if value.is_empty() => format!("{product}'s shared key"),
        Dimension::Mode => {
            UsageMode::parse(value).map_or_else(|| value.to_owned(), |mode| mode.label().to_owned())
        }
        Dimension::Endpoint | Dimension::Session | Dimension::Prompt if value.is_empty() => {
            "None named".to_owned()
        }
        _ => value.to_owned(),
    }
}
