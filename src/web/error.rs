//! The one error of the console: a title, a sentence, a way out and a status. What went wrong
//! inside is for the log; the page of a 500 says nothing but the request's id.

use std::fmt;

use actix_web::body::BoxBody;
use actix_web::http::StatusCode;
use actix_web::http::header::{LOCATION, RETRY_AFTER};
use actix_web::{HttpResponse, ResponseError};
use askama::Template;
use uuid::Uuid;

use super::page::Bar;
use super::{assets, time};
use crate::services::ServiceError;

type Cause = Box<dyn std::error::Error + Send + Sync>;

#[derive(Debug)]
pub enum WebError {
    /// Nobody is signed in; `next` is where they wanted to go.
    SignIn {
        next: Option<String>,
    },
    /// The time to view a tenant is over.
    ViewingOver,
    /// Whoever views a tenant wanted more than to look.
    OnlyLooking,
    /// The tenant asks its people to come by single sign-on.
    SsoRequired,
    /// The tenant asks for a second factor that this session does not have.
    SecondFactor,
    NotFound,
    /// A provider key that was there; the way out is the page of those that are.
    NoKey {
        keys: String,
    },
    /// A one-time link that does not work, or does not work any more.
    DeadLink,
    Denied,
    /// The form's token is not this browser's: old, or somebody else's.
    StaleForm {
        back: Option<String>,
    },
    /// The form did not arrive as its page would have sent it.
    BadForm,
    TooLarge,
    TooManyGroups,
    TooSlow,
    Conflict(&'static str),
    Throttled {
        seconds: i64,
    },
    Internal(Cause),
}

/// Left on an answer that the policy refused, for `finish` to write down.
pub struct Refused;

impl WebError {
    pub fn internal(cause: impl Into<Cause>) -> Self {
        Self::Internal(cause.into())
    }

    fn words(&self) -> Words {
        let home = ("/".to_owned(), "Go to the start page");
        match self {
            Self::NotFound => Words {
                status: StatusCode::NOT_FOUND,
                title: "There is nothing here",
                sentence: "The page does not exist, or it belongs to somebody else.".into(),
                way_out: home,
            },
            Self::NoKey { keys } => Words {
                status: StatusCode::NOT_FOUND,
                title: "This key is not here any more",
                sentence: "It was removed, or the address is mistyped.".into(),
                way_out: (keys.clone(), "See the keys that are"),
            },
            Self::DeadLink => Words {
                status: StatusCode::NOT_FOUND,
                title: "This link does not work any more",
                sentence: "One-time links work once, and for a day or a week. Ask whoever gave it to you for a new one, \
                           or sign in if you have a password already."
                    .into(),
                way_out: ("/sign-in".to_owned(), "Sign in"),
            },
            Self::Denied => Words {
                status: StatusCode::FORBIDDEN,
                title: "You may not do that",
                sentence: "Your role does not include this. Somebody who manages it can change that or do \
                           it for you."
                    .into(),
                way_out: home,
            },
            Self::StaleForm { back } => Words {
                status: StatusCode::FORBIDDEN,
                title: "This form is out of date",
                sentence: "You signed in or out since the page was opened, or the form came from another \
                           site. Nothing was changed."
                    .into(),
                way_out: back.clone().map_or(home, |back| (back, "Open the page again")),
            },
            Self::SsoRequired => Words {
                status: StatusCode::FORBIDDEN,
                title: "This account asks for single sign-on",
                sentence: "You signed in another way. Nothing was changed.".into(),
                way_out: ("/sign-in/sso".to_owned(), "Sign in with single sign-on"),
            },
            Self::OnlyLooking => Words {
                status: StatusCode::FORBIDDEN,
                title: "You are only looking",
                sentence:
                    "While you view a tenant, nothing can be changed, downloaded or sent, and only its \
                           pages are open. Stop viewing first. Nothing was changed."
                        .into(),
                way_out: home,
            },
            Self::BadForm | Self::SignIn { .. } | Self::SecondFactor | Self::ViewingOver => Words {
                status: StatusCode::BAD_REQUEST,
                title: "That did not arrive as it should",
                sentence: "The request holds something that this page does not send. Nothing was changed."
                    .into(),
                way_out: home,
            },
            Self::TooLarge => Words {
                status: StatusCode::PAYLOAD_TOO_LARGE,
                title: "That is too much for one form",
                sentence: "Forms hold at most 64 KiB. Nothing was changed.".into(),
                way_out: home,
            },
            Self::TooManyGroups => Words {
                status: StatusCode::UNPROCESSABLE_ENTITY,
                title: "That is too much for one download",
                sentence: "There are more groups than that. Choose fewer days or another grouping, or download \
                           the requests themselves."
                    .into(),
                way_out: home,
            },
            Self::TooSlow => Words {
                status: StatusCode::REQUEST_TIMEOUT,
                title: "That took too long to arrive",
                sentence: "A form has a minute to arrive. Nothing was changed. Go back and send it again."
                    .into(),
                way_out: home,
            },
            Self::Conflict(message) => Words {
                status: StatusCode::CONFLICT,
                title: "Somebody else was faster",
                sentence: (*message).to_owned(),
                way_out: home,
            },
            Self::Throttled { seconds } => Words {
                status: StatusCode::TOO_MANY_REQUESTS,
                title: "Too many attempts",
                sentence: format!("Try again in {}.", time::span(*seconds)),
                way_out: home,
            },
            Self::Internal(_) => Words {
                status: StatusCode::INTERNAL_SERVER_ERROR,
                title: "Something went wrong on our side",
                sentence: "Nothing that you did. Try again in a moment.".into(),
                way_out: home,
            },
        }
    }
}

pub struct Words {
    status: StatusCode,
    title: &'static str,
    sentence: String,
    way_out: (String, &'static str),
}

#[derive(Template)]
#[template(path = "pages/error.html")]
struct ErrorPage<'a> {
    title: &'a str,
    assets: &'static str,
    sentence: &'a str,
    href: &'a str,
    label: &'a str,
    reference: Option<Uuid>,
    bar: Option<&'a Bar>,
}

impl fmt::Display for WebError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SignIn { .. } => f.write_str("not signed in"),
            Self::SecondFactor => f.write_str("no second factor"),
            Self::ViewingOver => f.write_str("viewing is over"),
            Self::Internal(cause) => {
                write!(f, "{cause}")?;
                let mut source = cause.source();
                while let Some(inner) = source {
                    write!(f, ": {inner}")?;
                    source = inner.source();
                }
                Ok(())
            }
            other => f.write_str(other.words().title),
        }
    }
}

impl std::error::Error for WebError {}

impl ResponseError for WebError {
    fn status_code(&self) -> StatusCode {
        match self {
            Self::SignIn { .. } | Self::SecondFactor | Self::ViewingOver => StatusCode::SEE_OTHER,
            other => other.words().status,
        }
    }

    fn error_response(&self) -> HttpResponse<BoxBody> {
        if let Self::SignIn { next } = self {
            let to = next.as_ref().map_or_else(
                || "/sign-in".to_owned(),
                |next| {
                    let query = url::form_urlencoded::Serializer::new(String::new())
                        .append_pair("next", next)
                        .finish();
                    format!("/sign-in?{query}")
                },
            );
            return HttpResponse::SeeOther().insert_header((LOCATION, to)).finish();
        }
        if let Self::SecondFactor = self {
            let to = (LOCATION, "/account/second-factor?asked=1");
            return HttpResponse::SeeOther().insert_header(to).finish();
        }
        if let Self::ViewingOver = self {
            let to = (LOCATION, "/platform/viewing");
            return HttpResponse::SeeOther().insert_header(to).finish();
        }
        if let Self::Internal(_) = self {
            // Without a body: `finish` knows the request's id and writes the page.
            return HttpResponse::InternalServerError().finish();
        }
        let words = self.words();
        let mut answer = HttpResponse::build(words.status);
        if let Self::Throttled { seconds } = self {
            answer.insert_header((RETRY_AFTER, *seconds));
        }
        // `finish` writes the page: it knows who looks.
        let mut answer = answer.finish();
        if let Self::Denied | Self::OnlyLooking = self {
            answer.extensions_mut().insert(Refused);
        }
        answer.extensions_mut().insert(words);
        answer
    }
}

/// The page of an error. `bar` is what stands over it while a tenant is viewed.
pub fn render(words: &Words, reference: Option<Uuid>, bar: Option<&Bar>) -> String {
    let page = ErrorPage {
        title: words.title,
        assets: assets::base(),
        sentence: &words.sentence,
        href: &words.way_out.0,
        label: words.way_out.1,
        reference,
        bar,
    };
    page.render().unwrap_or_else(|_| words.title.to_owned())
}

/// The page for an answer that has a status and nothing else: a method that a route does not
/// take, a database that is gone.
pub fn page_for(status: StatusCode, request: Uuid, bar: Option<&Bar>) -> String {
    let home = ("/".to_owned(), "Go to the start page");
    let words = match status {
        StatusCode::METHOD_NOT_ALLOWED => Words {
            status,
            title: "That does not work here",
            sentence: "The page exists, but it does not take this kind of request.".into(),
            way_out: home,
        },
        status if status.is_client_error() => Words {
            status,
            title: "That request cannot be answered",
            sentence: "It is not one that a page of the console sends.".into(),
            way_out: home,
        },
        status => Words { status, ..WebError::Internal("".into()).words() },
    };
    render(&words, status.is_server_error().then_some(request), bar)
}

impl From<ServiceError> for WebError {
    fn from(error: ServiceError) -> Self {
        match error {
            ServiceError::NotFound => Self::NotFound,
            ServiceError::Denied => Self::Denied,
            ServiceError::SecondFactor => Self::SecondFactor,
            ServiceError::SsoRequired => Self::SsoRequired,
            ServiceError::Conflict(message) => Self::Conflict(message),
            ServiceError::Throttled { seconds } => Self::Throttled { seconds },
            // Forms answer these two themselves; whatever arrives here was sent by no page.
            ServiceError::Confirm | ServiceError::ConfirmStrongly | ServiceError::Invalid(_) => Self::BadForm,
            error => Self::internal(error),
        }
    }
}
