//! Where a page is: in a tenant, or on the platform. API keys and tokens have the same pages in
//! both places; everything that differs between them is asked of the place.

use std::sync::Arc;

use actix_web::dev::Payload;
use actix_web::{FromRequest, HttpMessage, HttpRequest};
use jiff::tz::TimeZone;

use super::error::WebError;
use super::page::{Chrome, Here};
use super::prose::Hand;
use super::time::Times;
use super::viewer::{self, Extracting, Viewer, Whom};
use crate::access::policy::{self, About, Action};
use crate::domain::account::KeyChangers;
use crate::domain::billing::UsageMode;
use crate::services::billing::zone_of;
use crate::services::directory::TenantView;
use crate::services::provider_keys::Holder;

pub struct Place {
    pub viewer: Viewer,
    pub holder: Holder,
    /// `None` on the platform.
    view: Option<Arc<TenantView>>,
    times: Times,
}

impl Place {
    /// # Errors
    /// `NotFound` for a tenant that is not the viewer's to see, `Denied` for the platform.
    pub async fn of(request: &HttpRequest) -> Result<Self, WebError> {
        let console = viewer::console(request)?;
        let viewer = Viewer::of(request).await?;
        let services = &console.services;
        let (holder, view) = match request.match_info().get("tenant") {
            Some(slug) => {
                let (scope, view) = services.open_tenant(&viewer.actor, slug).await?;
                (Holder { scope, changers: view.tenant.key_changers }, Some(view))
            }
            None => (services.platform_holder(&viewer.actor)?, None),
        };
        // What cannot be put on record is not shown.
        services.record_viewed(&viewer.actor, holder.scope.owner(), request.path()).await?;
        let whom = Whom { actor: viewer.actor.clone(), owner: holder.scope.owner() };
        request.extensions_mut().insert(whom);
        let zone = view.as_ref().map_or(TimeZone::UTC, |view| zone_of(&view.tenant));
        Ok(Self { viewer, holder, view, times: Times { now: services.clock.now(), zone } })
    }

    /// # Errors
    /// `NotFound` on the platform.
    pub fn tenant(&self) -> Result<&TenantView, WebError> {
        self.view.as_deref().ok_or(WebError::NotFound)
    }

    pub fn view(&self) -> Option<&TenantView> {
        self.view.as_deref()
    }

    /// `/t/acme` or `/platform`.
    pub fn root(&self) -> String {
        match &self.view {
            Some(view) => format!("/t/{}", view.tenant.slug),
            None => "/platform".to_owned(),
        }
    }

    /// The tenant's usage mode; `None` on the platform.
    pub fn mode(&self) -> Option<UsageMode> {
        self.view().map(|view| view.policy.mode)
    }

    /// Whose hand it takes to change a key here.
    pub fn hand<'a>(&'a self, product: &'a str) -> Hand<'a> {
        match &self.view {
            _ if self.may(Action::ChangeKeys) => Hand::Yours,
            Some(view) if self.holder.changers == KeyChangers::Admins => Hand::Admins(&view.tenant.name),
            _ => Hand::Operator(product),
        }
    }

    pub fn times(&self) -> &Times {
        &self.times
    }

    pub fn about(&self) -> Option<About> {
        self.holder.scope.about(self.holder.changers)
    }

    /// Whether the viewer may do this here, a recent password aside: whether its button shows.
    pub fn may(&self, action: Action) -> bool {
        match self.about() {
            Some(about) => policy::permitted(&self.viewer.actor, action, Some(about)),
            // On the platform, what is a tenant's business elsewhere is the operator's own.
            None => policy::permitted(&self.viewer.actor, Action::ManagePlatform, None),
        }
    }

    /// # Errors
    /// `Denied`. For pages that lead to a change, or show what not everybody may see.
    pub fn demand(&self, action: Action) -> Result<(), WebError> {
        if self.may(action) { Ok(()) } else { Err(WebError::Denied) }
    }

    pub fn chrome(&self, title: &str, current: &str) -> Chrome {
        let here = self.view.as_deref().map_or(Here::Platform, Here::Tenant);
        Chrome::new(&self.viewer, &here, title, current)
    }

    /// Whether a form needs a field for the viewer's password.
    pub fn asks_password(&self) -> bool {
        !self.viewer.actor.is_confirmed(self.times.now)
    }
}

impl FromRequest for Place {
    type Error = WebError;
    type Future = Extracting<Self>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let request = request.clone();
        Box::pin(async move { Self::of(&request).await })
    }
}
