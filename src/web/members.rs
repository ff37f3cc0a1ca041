//! Settings → Members: who belongs to the tenant, who is invited, and what to change when somebody left.

use actix_web::HttpRequest;
use actix_web::web::{self, Data, Path, ServiceConfig};
use askama::Template;
use serde::Deserialize;

use super::error::WebError;
use super::form::{Failure, Nothing, Posted};
use super::page::{Answer, Chrome, Page, see_other};
use super::place::Place;
use super::prose::Link;
use super::time::When;
use super::{Console, confirm, read, session};
use crate::access::policy::Action;
use crate::domain::account::TenantRole;
use crate::domain::ids::{InvitationId, UserId};
use crate::services::members::{Known, MadeInvitation};
use crate::services::{Problems, ServiceError};

pub fn routes(cfg: &mut ServiceConfig) {
    let at = |rest: &str| web::resource(format!("/t/{{tenant}}/settings/members{rest}"));
    cfg.service(at("").route(read().to(show)).route(web::post().to(invite)))
        .service(at("/invitations/{id}/take-back").route(web::post().to(take_back)))
        .service(at("/{id}/role").route(web::post().to(set_role)))
        .service(at("/{id}/remove").route(read().to(ask_removal)).route(web::post().to(remove)));
}

fn address(place: &Place) -> String {
    format!("{}/settings/members", place.root())
}

const ROLES: [(TenantRole, &str); 3] = [
    (TenantRole::Admin, "everything, members and tokens included"),
    (TenantRole::BillingAdmin, "keys, billing and usage"),
    (TenantRole::Member, "states, totals, drafts and questions"),
];

#[derive(Template)]
#[template(path = "pages/members/index.html")]
struct MembersPage {
    chrome: Chrome,
    here: String,
    tenant: String,
    made: Option<MadeInvitation>,
    known: Vec<KnownLine>,
    rows: Vec<Row>,
    invitations: Vec<InvitationRow>,
    roles: Vec<(TenantRole, &'static str)>,
    email: String,
    role: String,
    asks_password: bool,
    problems: Problems,
}

struct Row {
    id: String,
    email: String,
    role: TenantRole,
    since: When,
    seen: Option<When>,
    disabled: bool,
    own: bool,
}

struct InvitationRow {
    id: String,
    email: String,
    role: &'static str,
    by: String,
    until: When,
}

/// Something that somebody knows who has left.
struct KnownLine {
    text: String,
    email: String,
    /// `None` where they are here, and no admin any more.
    left: Option<When>,
    link: Link,
}

async fn show(console: Data<Console>, place: Place) -> Answer {
    Page::new(page(&console, &place).await?).answer()
}

async fn page(console: &Console, place: &Place) -> Result<MembersPage, WebError> {
    place.demand(Action::ManageMembers)?;
    let found = console.services.members(&place.holder.scope).await?;
    let times = place.times();
    Ok(MembersPage {
        chrome: place.chrome("Members", &address(place)),
        here: address(place),
        tenant: place.tenant()?.tenant.name.clone(),
        made: None,
        known: found.known.iter().map(|known| line(known, place)).collect(),
        rows: found
            .members
            .into_iter()
            .map(|member| Row {
                id: member.user.to_string(),
                own: member.user == place.viewer.actor.user_id,
                email: member.email,
                role: member.role,
                since: times.day(member.since),
                seen: member.seen_at.map(|at| times.when(at)),
                disabled: member.disabled,
            })
            .collect(),
        invitations: found
            .invitations
            .into_iter()
            .map(|one| InvitationRow {
                id: one.id.to_string(),
                email: one.email,
                role: one.role.label(),
                by: one.invited_by,
                until: times.day(one.expires_at),
            })
            .collect(),
        roles: ROLES.to_vec(),
        email: String::new(),
        role: TenantRole::Member.to_string(),
        asks_password: place.asks_password(),
        problems: Problems::default(),
    })
}

fn line(known: &Known, place: &Place) -> KnownLine {
    let root = place.root();
    match known {
        Known::Key { email, left_at, name } => KnownLine {
            text: format!("Provider key {name}"),
            email: email.clone(),
            left: Some(place.times().when(*left_at)),
            link: Link::to(format!("{root}/settings/api-keys/{name}/rotate"), format!("Rotate {name}")),
        },
        Known::Token { email, left_at, name, .. } => KnownLine {
            text: format!("Access token {name}"),
            email: email.clone(),
            left: left_at.map(|at| place.times().when(at)),
            link: Link::to(format!("{root}/settings/tokens"), format!("Revoke {name}")),
        },
    }
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct InviteForm {
    email: String,
    role: String,
}

async fn invite(console: Data<Console>, mut place: Place, posted: Posted<InviteForm>) -> Answer {
    place.demand(Action::ManageMembers)?;
    let (tenant, scope) = (place.tenant()?.tenant.clone(), place.holder.scope);
    let InviteForm { email, role } = posted.fields;
    let password = posted.evidence;
    let invited = confirm::act(&console, &mut place.viewer, password, async |services, actor| {
        services.invite(actor, (&scope, &tenant), &email, &role).await
    })
    .await;
    match invited {
        // With the link in the answer itself: it is shown only once.
        Ok(made) => {
            let mut page = page(&console, &place).await?;
            page.made = Some(made);
            Page::new(page).answer()
        }
        Err(error) => {
            let failure = Failure::of(error)?;
            let mut page = page(&console, &place).await?;
            (page.email, page.role, page.problems) = (email, role, failure.problems);
            Page::new(page).status(failure.status).retry_after(failure.retry_after).answer()
        }
    }
}

#[derive(Deserialize)]
struct IdPath {
    id: String,
}

async fn take_back(
    console: Data<Console>,
    mut place: Place,
    request: HttpRequest,
    path: Path<IdPath>,
    posted: Posted<Nothing>,
) -> Answer {
    place.demand(Action::ManageMembers)?;
    let id = InvitationId::parse(&path.id).ok_or(WebError::NotFound)?;
    let (tenant, scope, back) = (place.tenant()?.tenant.clone(), place.holder.scope, address(&place));
    let asking = (place.chrome("Confirm it's you", &back), "Take back", back.as_str());
    confirm::press(&console, &mut place.viewer, &request, asking, posted, async |services, actor| {
        services.take_back_invitation(actor, (&scope, &tenant), id).await?;
        Ok((true, "The invitation was taken back: its link does nothing any more.".to_owned()))
    })
    .await
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RoleForm {
    role: String,
}

async fn set_role(
    console: Data<Console>,
    mut place: Place,
    request: HttpRequest,
    path: Path<IdPath>,
    posted: Posted<RoleForm>,
) -> Answer {
    place.demand(Action::ManageMembers)?;
    let id = UserId::parse(&path.id).ok_or(WebError::NotFound)?;
    let (RoleForm { role }, posted) = posted.split();
    let (tenant, scope, back) = (place.tenant()?.tenant.clone(), place.holder.scope, address(&place));
    let asking = (place.chrome("Confirm it's you", &back), "Save", back.as_str());
    confirm::press(&console, &mut place.viewer, &request, asking, posted, async |services, actor| {
        services.set_member_role(actor, (&scope, &tenant), id, &role).await?;
        Ok((true, "Saved. It holds from their next request on.".to_owned()))
    })
    .await
}

#[derive(Template)]
#[template(path = "pages/members/remove.html")]
struct RemovePage {
    chrome: Chrome,
    back: String,
    this: String,
    tenant: String,
    email: String,
    role: &'static str,
    keys: Vec<String>,
    tokens: Vec<String>,
    asks_password: bool,
    problems: Problems,
}

async fn removal(console: &Console, place: &Place, id: UserId) -> Result<RemovePage, WebError> {
    place.demand(Action::ManageMembers)?;
    if id == place.viewer.actor.user_id {
        return Err(WebError::Denied);
    }
    let (member, known) = console.services.member(&place.holder.scope, id).await?;
    let back = address(place);
    let (mut keys, mut tokens) = (Vec::new(), Vec::new());
    for one in known {
        match one {
            Known::Key { name, .. } => keys.push(name.to_string()),
            Known::Token { name, .. } => tokens.push(name),
        }
    }
    Ok(RemovePage {
        chrome: place.chrome("Remove member", &back),
        this: format!("{back}/{id}/remove"),
        back,
        tenant: place.tenant()?.tenant.name.clone(),
        email: member.email,
        role: member.role.label(),
        keys,
        tokens,
        asks_password: place.asks_password(),
        problems: Problems::default(),
    })
}

async fn ask_removal(console: Data<Console>, place: Place, path: Path<IdPath>) -> Answer {
    let id = UserId::parse(&path.id).ok_or(WebError::NotFound)?;
    Page::new(removal(&console, &place, id).await?).answer()
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RemoveForm {
    keep_tokens: bool,
}

async fn remove(
    console: Data<Console>,
    mut place: Place,
    path: Path<IdPath>,
    posted: Posted<RemoveForm>,
) -> Answer {
    place.demand(Action::ManageMembers)?;
    let id = UserId::parse(&path.id).ok_or(WebError::NotFound)?;
    let (tenant, scope) = (place.tenant()?.tenant.clone(), place.holder.scope);
    let keep = posted.fields.keep_tokens;
    let password = posted.evidence;
    let removed = confirm::act(&console, &mut place.viewer, password, async |services, actor| {
        services.remove_member(actor, (&scope, &tenant), id, keep).await
    })
    .await;
    match removed {
        Ok(()) => {
            session::notify(
                &place.viewer.session,
                true,
                "Removed. They see nothing of this account any more.",
            );
            Ok(see_other(&address(&place)))
        }
        Err(error @ ServiceError::NotFound) => Err(error.into()),
        Err(error) => {
            let failure = Failure::of(error)?;
            let mut page = removal(&console, &place, id).await?;
            page.problems = failure.problems;
            Page::new(page).status(failure.status).retry_after(failure.retry_after).answer()
        }
    }
}
