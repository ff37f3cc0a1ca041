//! `GET /v1/models` and `GET /v1/models/{id}`, from the price list.

use serde::Deserialize;
use serde_json::{Value, json};

use super::error::ApiError;
use crate::domain::price_list::{self, Model};
use crate::domain::provider_key::Provider;

const LARGEST_PAGE: usize = 1_000;

/// The provider's convention for a release date that it does not know.
const UNKNOWN_RELEASE: &str = "1970-01-01T00:00:00Z";

#[derive(Deserialize)]
pub struct Page {
    #[serde(default = "default_limit")]
    limit: usize,
    after_id: Option<String>,
    before_id: Option<String>,
}

fn default_limit() -> usize {
    20
}

fn claude() -> impl Iterator<Item = &'static Model> {
    price_list::models().iter().filter(|model| model.maker() == Provider::Anthropic)
}

/// The listed model of this id or of which it is a snapshot, or the provider's refusal.
pub fn find(id: &str) -> Result<&'static Model, ApiError> {
    price_list::find(id)
        .filter(|model| model.maker() == Provider::Anthropic)
        .ok_or_else(|| ApiError::not_found(format!("model: {id}")))
}

pub fn show(id: &str) -> Result<Value, ApiError> {
    find(id).map(|model| info(id, model))
}

pub fn list(page: &Page) -> Result<Value, ApiError> {
    if !(1..=LARGEST_PAGE).contains(&page.limit) {
        return Err(ApiError::invalid("limit: Input should be between 1 and 1000"));
    }
    let models: Vec<&Model> = claude().collect();
    let position = |id: &str| {
        models
            .iter()
            .position(|model| model.id == id)
            .ok_or_else(|| ApiError::invalid(format!("Cursor not found: {id}")))
    };
    let (start, end, has_more) = match (&page.after_id, &page.before_id) {
        (Some(_), Some(_)) => {
            return Err(ApiError::invalid("Only one of `after_id` and `before_id` can be given"));
        }
        (None, Some(before)) => {
            let end = position(before)?;
            let start = end.saturating_sub(page.limit);
            (start, end, start > 0)
        }
        (after, None) => {
            let start = after.as_deref().map(position).transpose()?.map_or(0, |index| index + 1);
            let end = models.len().min(start + page.limit);
            (start, end, end < models.len())
        }
    };
    let shown = &models[start..end];
    Ok(json!({
        "data": shown.iter().map(|model| info(&model.id, model)).collect::<Vec<_>>(),
        "has_more": has_more,
        "first_id": shown.first().map(|model| model.id.as_str()),
        "last_id": shown.last().map(|model| model.id.as_str()),
    }))
}

/// A model stays `deprecated` after its day, which the provider allows: the sandbox answers for
/// every model of the price list, so that tests do not age.
fn info(id: &str, model: &Model) -> Value {
    json!({
        "type": "model",
        "id": id,
        "display_name": model.name,
        "created_at": UNKNOWN_RELEASE,
        "lifecycle": if model.retires.is_some() { "deprecated" } else { "active" },
        "deprecated_at": null,
        "retires_at": model.retires.as_ref().map(|day| format!("{day}T00:00:00Z")),
        "line": model.id.split('-').nth(1),
        "max_input_tokens": model.max_input,
        "max_tokens": model.max_output,
        "capabilities": null,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(limit: usize, after: Option<&str>, before: Option<&str>) -> Value {
        let page = Page { limit, after_id: after.map(str::to_owned), before_id: before.map(str::to_owned) };
        list(&page).unwrap_or_else(|error| error.body("req"))
    }

    #[test]
    fn pages_go_both_ways() {
        let ids: Vec<&str> = claude().map(|model| model.id.as_str()).collect();
        let id = |index: usize| ids[index];
        let last = ids.len() - 1;
        for (page, first_id, last_id, has_more) in [
            (page(20, None, None), id(0), id(last), false),
            (page(2, None, None), id(0), id(1), true),
            (page(2, Some(id(1)), None), id(2), id(3), true),
            (page(2, None, Some(id(3))), id(1), id(2), true),
            (page(2, None, Some(id(2))), id(0), id(1), false),
        ] {
            assert_eq!(page["first_id"], first_id);
            assert_eq!(page["last_id"], last_id);
            assert_eq!(page["has_more"], has_more, "{first_id}");
        }
        assert_eq!(page(2, Some(id(last)), None)["data"], json!([]));
        for refused in
            [page(0, None, None), page(2, Some("claude-x"), None), page(2, Some(id(0)), Some(id(1)))]
        {
            assert_eq!(refused["error"]["type"], "invalid_request_error");
        }
    }
}
