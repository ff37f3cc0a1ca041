//! The last thing that happens to an answer: a page where there is only a status, a line in the
//! audit log where the policy refused, and the security headers.

use actix_web::Error;
use actix_web::HttpMessage;
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{CONTENT_TYPE, HeaderValue};
use actix_web::middleware::Next;
use actix_web::web::Data;
use uuid::Uuid;

use super::Console;
use super::error::{self, Refused, WebError, Words};
use super::headers;
use super::page::Bar;
use super::viewer::Whom;
use crate::services::ServiceError;

/// The request's id, as the log names it.
#[derive(Clone, Copy)]
struct OwnRequestId(Uuid);

/// The id of this request: the one under which it is logged.
pub fn request_id(message: &impl HttpMessage) -> Uuid {
    if let Some(id) = message.extensions().get::<tracing_actix_web::RequestId>() {
        return **id;
    }
    if let Some(id) = message.extensions().get::<OwnRequestId>() {
        return id.0;
    }
    let id = Uuid::now_v7();
    message.extensions_mut().insert(OwnRequestId(id));
    id
}

pub async fn finish(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let id = request_id(&request);
    let console = request.app_data::<Data<Console>>().cloned();
    let secure = console.as_ref().is_some_and(|console| console.secure);
    match next.call(request).await {
        Ok(answer) => {
            let mut answer = answer.map_into_boxed_body();
            if let Some(console) = &console {
                record_refusal(console, &answer).await;
            }
            let status = answer.status();
            if status.is_server_error() {
                let cause = answer.response().error().map(ToString::to_string).unwrap_or_default();
                tracing::error!(%cause, request_id = %id, "a page failed");
            }
            let empty = matches!(answer.response().body().size(), BodySize::None | BodySize::Sized(0));
            if empty && (status.is_client_error() || status.is_server_error()) {
                let words = answer.response_mut().extensions_mut().remove::<Words>();
                let page = {
                    let known = answer.request().extensions();
                    let bar = known.get::<Bar>();
                    words.map_or_else(
                        || error::page_for(status, id, bar),
                        |words| error::render(&words, None, bar),
                    )
                };
                answer = answer.map_body(|head, _| {
                    head.headers_mut()
                        .insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
                    BoxBody::new(page)
                });
            }
            headers::apply(answer.headers_mut(), secure);
            Ok(answer)
        }
        Err(cause) => {
            // The session could not be read: there is no answer yet to put a page into.
            tracing::error!(%cause, request_id = %id, "a page failed");
            let status = cause.as_response_error().status_code();
            let mut answer = actix_web::HttpResponse::build(status)
                .content_type("text/html; charset=utf-8")
                .body(error::page_for(status, id, None));
            headers::apply(answer.headers_mut(), secure);
            Err(actix_web::error::InternalError::from_response(cause, answer).into())
        }
    }
}

/// Writes down what the policy refused, and to whom. A refusal that cannot be written down is
/// still a refusal.
async fn record_refusal(console: &Console, answer: &ServiceResponse<BoxBody>) {
    let denied = answer.response().extensions().get::<Refused>().is_some();
    let whom = answer.request().extensions().get::<Whom>().cloned();
    let (true, Some(whom)) = (denied, whom) else { return };
    let route = answer.request().match_pattern().unwrap_or_default();
    let what = format!("{} {route}", answer.request().method());
    if let Err(error) = console.services.record_refusal(&whom.actor, whom.owner, &what).await {
        let error = WebError::from(ServiceError::from(error));
        tracing::error!(%error, "a refusal could not be recorded");
    }
}
