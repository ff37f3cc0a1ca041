//! Billing → Statements: the running month as it stands, and closed months, for paper and as CSV.

use actix_web::HttpResponse;
use actix_web::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use actix_web::web::{Data, Path};
use askama::Template;

use crate::access::policy::Action;
use crate::domain::money::Nanos;
use crate::domain::statement::{Section, Statement};
use crate::web::Console;
use crate::web::error::WebError;
use crate::web::figures::count;
use crate::web::page::{Answer, Chrome, Page};
use crate::web::place::Place;
use crate::web::time::When;

#[derive(Template)]
#[template(path = "pages/billing/statements.html")]
struct StatementsPage {
    chrome: Chrome,
    billing: String,
    months: Vec<Month>,
}

struct Month {
    href: String,
    name: String,
    plan: String,
    due: String,
    closed: Option<When>,
    /// Over, and about to be closed.
    over: bool,
}

#[derive(Template)]
#[template(path = "pages/billing/statement.html")]
struct StatementPage {
    chrome: Chrome,
    statements: String,
    csv: String,
    tenant: String,
    name: String,
    from: String,
    to: String,
    zone: String,
    plan: String,
    closed: Option<When>,
    due: String,
    sections: Vec<(&'static str, Vec<Line>)>,
}

struct Line {
    text: String,
    count: String,
    list: String,
    amount: String,
}

fn address(place: &Place) -> String {
    format!("{}/statements", super::address(place))
}

fn name_of(statement: &Statement, place: &Place) -> String {
    statement.period.start.date(&place.times().zone).strftime("%B %Y").to_string()
}

async fn all(console: &Console, place: &Place) -> Result<Vec<Statement>, WebError> {
    let tenant = &place.tenant()?.tenant;
    let (mut open, closed) =
        console.services.statements(&place.viewer.actor, &place.holder.scope, tenant).await?;
    open.extend(closed);
    Ok(open)
}

pub async fn list(console: Data<Console>, place: Place) -> Answer {
    let months = all(&console, &place).await?;
    let page = StatementsPage {
        chrome: place.chrome("Statements", &address(&place)),
        billing: super::address(&place),
        months: months
            .into_iter()
            .map(|one| Month {
                href: format!("{}/{}", address(&place), one.month),
                name: name_of(&one, &place),
                due: one.due.dollars(),
                closed: one.closed_at.map(|at| place.times().day(at)),
                over: one.period.end <= place.times().now,
                plan: one.plan,
            })
            .collect(),
    };
    Page::new(page).answer()
}

async fn find(console: &Console, place: &Place, month: &str) -> Result<Statement, WebError> {
    let tenant = &place.tenant()?.tenant;
    let (actor, scope) = (&place.viewer.actor, &place.holder.scope);
    if let Some(closed) = console.services.closed_statement(actor, scope, tenant, month).await? {
        return Ok(closed);
    }
    let (open, _) = console.services.statements(actor, scope, tenant).await?;
    open.into_iter().find(|one| one.month == month).ok_or(WebError::NotFound)
}

pub async fn show(console: Data<Console>, place: Place, path: Path<(String, String)>) -> Answer {
    let statement = find(&console, &place, &path.1).await?;
    let tenant = &place.tenant()?.tenant;
    let zone = &place.times().zone;
    let day = |at: crate::domain::clock::Moment| at.date(zone).strftime("%-d %B %Y").to_string();
    let section = |section: Section| -> Vec<Line> {
        let lines = statement.lines.iter().filter(|line| line.section == section);
        lines
            .map(|line| Line {
                text: line.text.clone(),
                count: line.count.map(count).unwrap_or_default(),
                list: line.list.map(Nanos::precise).unwrap_or_default(),
                amount: if section == Section::Used { String::new() } else { line.amount.precise() },
            })
            .collect()
    };
    let sections = [
        ("Due", section(Section::Due)),
        ("Used, and not due here", section(Section::Used)),
        ("Credits", section(Section::Credits)),
    ];
    let page = StatementPage {
        chrome: place.chrome("Statement", &address(&place)),
        statements: address(&place),
        csv: format!("{}/{}.csv", address(&place), statement.month),
        tenant: tenant.name.clone(),
        name: name_of(&statement, &place),
        from: day(statement.period.start),
        to: day(statement.period.end.minus(1)),
        zone: tenant.time_zone.clone(),
        closed: statement.closed_at.map(|at| place.times().day(at)),
        due: statement.due.precise(),
        sections: sections.into_iter().filter(|(_, lines)| !lines.is_empty()).collect(),
        plan: statement.plan,
    };
    Page::new(page).answer()
}

pub async fn csv(console: Data<Console>, place: Place, path: Path<(String, String)>) -> Answer {
    place.demand(Action::Export)?;
    let statement = find(&console, &place, &path.1).await?;
    let mut writer = csv::Writer::from_writer(Vec::new());
    let head = ["month", "section", "line", "count", "list_usd", "amount_usd"];
    writer.write_record(head).map_err(WebError::internal)?;
    for line in &statement.lines {
        let section = match line.section {
            Section::Due => "due",
            Section::Used => "used",
            Section::Credits => "credits",
        };
        let record = [
            statement.month.clone(),
            section.to_owned(),
            line.text.clone(),
            line.count.map(|count| count.to_string()).unwrap_or_default(),
            line.list.map(Nanos::exact).unwrap_or_default(),
            line.amount.exact(),
        ];
        writer.write_record(record).map_err(WebError::internal)?;
    }
    let total = [statement.month.as_str(), "total", "Due", "", "", &statement.due.exact()];
    writer.write_record(total).map_err(WebError::internal)?;
    let bytes = writer.into_inner().map_err(|error| WebError::internal(error.into_error()))?;
    let name = format!("keyward-statement-{}-{}.csv", place.tenant()?.tenant.slug, statement.month);
    Ok(HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, "text/csv; charset=utf-8"))
        // The name is made of a slug and a month: nothing in it needs quoting.
        .insert_header((CONTENT_DISPOSITION, format!("attachment; filename=\"{name}\"")))
        .body(bytes))
}
