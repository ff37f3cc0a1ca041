//! Questions that the bot could not answer: what comes in, what is written about them, what people decide.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::sync::mpsc;

use super::assistant::{Assignment, Assistant, NotWritten};
use super::{Problems, ServiceError, Services, is_reference};
use crate::access::actor::Actor;
use crate::access::policy::{About, Action};
use crate::access::scope::Scope;
use crate::domain::account::Tenant;
use crate::domain::audit::AuditAction;
use crate::domain::clock::Moment;
use crate::domain::ids::{QuestionId, RequestId, TenantId};
use crate::domain::question::{
    MOST_ARTICLE, MOST_CONTEXT, MOST_TEXT, Question, QuestionState, Writing, Written,
};
use crate::storage::{Tx, questions};

/// Shorter than `WRITING_TAKES`.
const LONGEST_WRITING: Duration = Duration::from_mins(4);
/// Open questions in one tenant.
const MOST_OPEN: i64 = 10_000;
/// Questions in one import.
const MOST_IMPORTED: usize = 500;
const MOST_ASKED: i64 = 1_000_000_000;
const COLUMNS: [&str; 4] = ["question", "asked", "context", "reference"];
const FULL: &str = "There are 10,000 open questions already. Answer or dismiss some first.";

/// A question as it comes in.
#[derive(Clone, Debug, Default)]
pub struct NewQuestion {
    pub reference: Option<String>,
    pub text: String,
    pub context: String,
    pub asked: i64,
}

/// What whoever waits for a text is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    Text(String),
    /// It is kept.
    Done,
    /// Nothing was written, as the question itself says.
    Failed(String),
    /// The database was away, or somebody had it written again meanwhile.
    NotKept,
}

impl Services {
    /// Keeps questions; of those that are known by their reference, how often they were asked. Gives them
    /// as they are then, and whether each is new.
    ///
    /// # Errors
    /// `Invalid` with the reason at its field; nothing is kept then.
    pub async fn add_questions(
        &self,
        tenant: TenantId,
        new: Vec<NewQuestion>,
    ) -> Result<Vec<(Question, bool)>, ServiceError> {
        let now = self.clock.now();
        let judged: Result<Vec<_>, _> = new.into_iter().map(|one| judge(tenant, one, now)).collect();
        let mut tx = self.db.write().await?;
        let kept = keep(&mut tx, tenant, &judged.map_err(ServiceError::Invalid)?).await?;
        tx.commit().await?;
        Ok(kept)
    }

    /// Keeps the questions of a pasted list: CSV with a line of names, or one question in each line. Gives
    /// how many were new, and how many known.
    ///
    /// # Errors
    /// `Invalid` with the first line that is wrong; nothing is kept then.
    pub async fn import_questions(
        &self,
        actor: &Actor,
        scope: &Scope,
        tenant: &Tenant,
        list: &str,
    ) -> Result<(usize, usize), ServiceError> {
        self.permit(actor, Action::AnswerQuestions, Some(about(tenant)))?;
        let now = self.clock.now();
        let mut judged = Vec::new();
        for (at, one) in read_list(list)?.into_iter().enumerate() {
            let one = judge(tenant.id, one, now);
            judged.push(one.map_err(|problems| ServiceError::Invalid(in_line(&problems, at + 1)))?);
        }
        let mut tx = self.db.write().await?;
        let kept = keep(&mut tx, tenant.id, &judged).await?;
        let new = kept.iter().filter(|(_, is_new)| *is_new).count();
        let detail = serde_json::json!({ "new": new, "known": kept.len() - new });
        self.record(&mut tx, scope.owner(), actor, AuditAction::QuestionsImported, "questions", detail)
            .await?;
        tx.commit().await?;
        Ok((new, kept.len() - new))
    }

    /// A question of the tenant.
    ///
    /// # Errors
    /// `NotFound` where there is none of that id in this tenant.
    pub async fn question(&self, scope: &Scope, id: QuestionId) -> Result<Question, ServiceError> {
        let mut tx = self.db.read().await?;
        questions::find(&mut tx, scope, id).await?.ok_or(ServiceError::NotFound)
    }

    /// Questions of the tenant in this state, those asked most first, and how many there are in each.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn list_questions(
        &self,
        scope: &Scope,
        state: QuestionState,
        after: Option<QuestionId>,
        limit: i64,
    ) -> Result<(Vec<Question>, Vec<(QuestionState, i64)>), ServiceError> {
        let mut tx = self.db.read().await?;
        let found = questions::list(&mut tx, scope, state, after, limit).await?;
        Ok((found, questions::counts(&mut tx, scope).await?))
    }

    /// Has something written about a question. What is written is kept to its end, whether or not anybody
    /// waits for it.
    ///
    /// # Errors
    /// `Conflict` while something is being written about it, or when it is not open.
    pub async fn write_about(
        self: &Arc<Self>,
        assistant: &Arc<dyn Assistant>,
        actor: &Actor,
        (scope, tenant): (&Scope, &Tenant),
        id: QuestionId,
        (what, seen): (Writing, Option<Moment>),
    ) -> Result<mpsc::UnboundedReceiver<Piece>, ServiceError> {
        self.permit(actor, Action::AnswerQuestions, Some(about(tenant)))?;
        let request = RequestId::new();
        let mut tx = self.db.write().await?;
        let question = questions::find(&mut tx, scope, id).await?.ok_or(ServiceError::NotFound)?;
        let now = self.clock.now();
        if !questions::begin(&mut tx, scope, id, (what, request), (seen, now)).await? {
            return Err(ServiceError::Conflict(if question.state != QuestionState::Open {
                "Open the question again first."
            } else if question.is_being_written(now).is_some() {
                "Something is being written about it already. Wait a moment."
            } else {
                "Somebody changed the article in the meantime: here it is. Nothing was drafted."
            }));
        }
        tx.commit().await?;
        let (sender, receiver) = mpsc::unbounded_channel();
        let (services, assistant) = (Arc::clone(self), Arc::clone(assistant));
        self.runtime.spawn(async move {
            let assignment = Assignment {
                id: request,
                tenant: question.tenant,
                feature: what.feature(),
                prompt: what.as_str(),
                body: question.request_body(what),
            };
            services.write_to_the_end(&*assistant, assignment, (id, what), &sender).await;
        });
        Ok(receiver)
    }

    async fn write_to_the_end(
        &self,
        assistant: &dyn Assistant,
        assignment: Assignment,
        (id, what): (QuestionId, Writing),
        sender: &mpsc::UnboundedSender<Piece>,
    ) {
        let request = assignment.id;
        // Longer than that, and it counts as lost: another may have begun.
        let written = tokio::time::timeout(LONGEST_WRITING, async {
            let mut draft = assistant.write(assignment).await?;
            let written = read_to_the_end(&mut draft, sender).await?;
            Ok((written, draft.ticket))
        });
        let written = written
            .await
            .unwrap_or_else(|_| Err(NotWritten::of("It took longer than four minutes. Try again later.")));
        // Held until it is kept: a process that stops waits for it.
        let (written, _ticket) = match written {
            Ok((written, ticket)) => (Ok(written), Some(ticket)),
            Err(why) => (Err(why), None),
        };
        let kept = self.keep_written(id, (what, request), &written).await;
        let _ = sender.send(match (kept, &written) {
            (false, _) => Piece::NotKept,
            (true, Err(why)) => Piece::Failed(why.reason.clone()),
            (true, Ok(_)) => Piece::Done,
        });
    }

    /// What is written is paid for: it is tried for a while. False if it is not kept.
    async fn keep_written(
        &self,
        id: QuestionId,
        (what, request): (Writing, RequestId),
        written: &Result<(String, String), NotWritten>,
    ) -> bool {
        let written = match written {
            Ok((text, key)) => Ok((text.as_str(), key.as_str())),
            Err(why) => Err((why.reason.as_str(), why.link)),
        };
        for wait in [1, 2, 4, 8, 0] {
            let kept = async {
                let mut tx = self.db.write().await?;
                let kept = questions::end(&mut tx, id, (what, request), written, self.clock.now()).await?;
                tx.commit().await?;
                Ok::<_, crate::storage::StorageError>(kept)
            };
            match kept.await {
                Ok(kept) => return kept,
                Err(error) => {
                    tracing::error!(error = &error as &dyn std::error::Error, question = %id, "what was written about a question cannot be kept yet");
                    tokio::time::sleep(Duration::from_secs(wait)).await;
                }
            }
        }
        false
    }

    /// Keeps an article as a person has changed it.
    ///
    /// # Errors
    /// `Conflict` when it was changed after `seen`, `Invalid` for a text that is too long.
    pub async fn save_article(
        &self,
        actor: &Actor,
        (scope, tenant): (&Scope, &Tenant),
        id: QuestionId,
        text: &str,
        seen: Option<Moment>,
    ) -> Result<(), ServiceError> {
        self.permit(actor, Action::AnswerQuestions, Some(about(tenant)))?;
        let text = text.trim().replace("\r\n", "\n");
        if text.is_empty() || text.len() > MOST_ARTICLE || text.contains('\0') {
            return Err(ServiceError::Invalid(Problems::field("article", "Write at most 32 KiB of text.")));
        }
        let mut tx = self.db.write().await?;
        questions::find(&mut tx, scope, id).await?.ok_or(ServiceError::NotFound)?;
        if !questions::save_article(&mut tx, scope, id, &text, (seen, self.clock.now())).await? {
            return Err(ServiceError::Conflict(
                "Somebody changed the article in the meantime. Save again to put yours in its place, or open the question anew to see theirs.",
            ));
        }
        let detail = serde_json::json!({});
        let target = id.to_string();
        self.record(&mut tx, scope.owner(), actor, AuditAction::ArticleSaved, &target, detail).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Answers, dismisses or opens a question again.
    ///
    /// # Errors
    /// `Conflict` when it is so already.
    pub async fn rule_question(
        &self,
        actor: &Actor,
        (scope, tenant): (&Scope, &Tenant),
        id: QuestionId,
        to: QuestionState,
    ) -> Result<(), ServiceError> {
        self.permit(actor, Action::AnswerQuestions, Some(about(tenant)))?;
        let mut tx = self.db.write().await?;
        let question = questions::find(&mut tx, scope, id).await?.ok_or(ServiceError::NotFound)?;
        if !questions::decide(&mut tx, scope, id, to, (&actor.email, self.clock.now())).await? {
            return Err(ServiceError::Conflict("Somebody decided that in the meantime."));
        }
        let detail = serde_json::json!({ "before": question.state.as_str(), "after": to.as_str() });
        let target = id.to_string();
        self.record(&mut tx, scope.owner(), actor, AuditAction::QuestionRuled, &target, detail).await?;
        tx.commit().await?;
        Ok(())
    }
}

/// Keeps questions, unless there are too many then.
async fn keep(
    tx: &mut Tx,
    tenant: TenantId,
    new: &[Question],
) -> Result<Vec<(Question, bool)>, ServiceError> {
    let mut kept = Vec::with_capacity(new.len());
    for one in new {
        let now = questions::insert(tx, one).await?;
        let is_new = now.id == one.id;
        kept.push((now, is_new));
    }
    if kept.iter().any(|(_, is_new)| *is_new) {
        let counts = questions::counts(tx, &Scope::of_token(tenant)).await?;
        if counts.iter().any(|(state, count)| *state == QuestionState::Open && *count > MOST_OPEN) {
            return Err(ServiceError::Conflict(FULL));
        }
    }
    Ok(kept)
}

fn about(tenant: &Tenant) -> About {
    About { tenant: tenant.id, key_changers: tenant.key_changers }
}

/// The whole text and the key that it ran on, passed on as it comes.
async fn read_to_the_end(
    draft: &mut super::assistant::Draft,
    sender: &mpsc::UnboundedSender<Piece>,
) -> Result<(String, String), NotWritten> {
    let mut text = String::new();
    while let Some(piece) = draft.pieces.next().await {
        let piece = piece?.replace('\0', "");
        if text.len() + piece.len() > MOST_ARTICLE {
            return Err(NotWritten::of("The answer is longer than 32 KiB."));
        }
        text.push_str(&piece);
        let _ = sender.send(Piece::Text(piece));
    }
    let text = text.trim();
    if text.is_empty() {
        return Err(NotWritten::of("The model wrote no text."));
    }
    Ok((text.to_owned(), draft.key.clone()))
}

fn judge(tenant: TenantId, new: NewQuestion, now: Moment) -> Result<Question, Problems> {
    let mut problems = Problems::default();
    let (text, context) = (new.text.trim(), new.context.trim());
    if text.is_empty() || text.len() > MOST_TEXT || text.contains('\0') {
        problems.add("text", "Write a question of at most 4 KiB.");
    }
    if context.len() > MOST_CONTEXT || context.contains('\0') {
        problems.add("context", "Use at most 16 KiB.");
    }
    if !(1..=MOST_ASKED).contains(&new.asked) {
        problems.add("asked", "Use a whole number from 1 to 1,000,000,000.");
    }
    if new.reference.as_deref().is_some_and(|reference| !is_reference(reference)) {
        problems.add("reference", "Use at most 128 printable characters without spaces.");
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(Question {
        id: QuestionId::new(),
        tenant,
        state: QuestionState::Open,
        reference: new.reference,
        text: text.to_owned(),
        context: context.to_owned(),
        asked: new.asked,
        suggestion: Written::default(),
        article: Written::default(),
        writing: None,
        reason: String::new(),
        reason_link: String::new(),
        created_at: now,
        decided_at: None,
        decided_by: String::new(),
    })
}

/// What is wrong in one of several questions, told at the list.
fn in_line(problems: &Problems, number: usize) -> Problems {
    let what: Vec<String> =
        problems.fields.iter().map(|(field, message)| format!("{field}: {message}")).collect();
    Problems::field("list", format!("Question {number}: {}", what.join(" ")))
}

/// Reads a list. Its first line names the columns, or is a question like the others.
fn read_list(list: &str) -> Result<Vec<NewQuestion>, ServiceError> {
    let wrong = |message: String| ServiceError::Invalid(Problems::field("list", message));
    let list = list.trim_start_matches('\u{feff}').trim();
    let first = list.lines().next().unwrap_or_default().to_lowercase();
    let cells = |separators: &[char]| {
        let cells = first.split(separators).map(|cell| cell.trim().trim_matches('"'));
        cells.map(str::to_owned).collect::<Vec<_>>()
    };
    let first_cells = cells(&[',', ';', '\t']);
    // A name of a column has no marks in it: a question has.
    let is_name = |cell: &String| cell.chars().all(|c| c.is_alphanumeric() || matches!(c, ' ' | '_' | '-'));
    let names_columns = first_cells.iter().any(|cell| cell == "question") && first_cells.iter().all(is_name);
    let has_names = cells(&[',']).iter().all(|name| COLUMNS.contains(&name.as_str()));
    if names_columns && !has_names {
        return Err(wrong(
            "The first line may name the columns question, asked, context and reference, with commas between them.".to_owned(),
        ));
    }
    let has_names = names_columns && has_names;
    let new: Vec<NewQuestion> = if has_names {
        let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(list.as_bytes());
        let names: Vec<String> = match reader.headers() {
            Ok(names) => names.iter().map(str::to_lowercase).collect(),
            Err(_) => return Err(wrong("The list is not CSV.".to_owned())),
        };
        let mut new = Vec::new();
        for (at, line) in reader.records().enumerate() {
            let line = line.map_err(|_| {
                wrong(format!("Question {}: the line has not as many columns as the first.", at + 1))
            })?;
            let of = |name: &str| {
                let place = names.iter().position(|known| known == name)?;
                line.get(place).map(str::trim).filter(|text| !text.is_empty())
            };
            let asked = of("asked").map_or(Ok(1), str::parse);
            new.push(NewQuestion {
                reference: of("reference").map(str::to_owned),
                text: of("question").unwrap_or_default().to_owned(),
                context: of("context").unwrap_or_default().to_owned(),
                asked: asked.map_err(|_| wrong(format!("Question {}: asked is no whole number.", at + 1)))?,
            });
        }
        new
    } else {
        let lines = list.lines().map(str::trim).filter(|line| !line.is_empty());
        lines.map(|line| NewQuestion { text: line.to_owned(), asked: 1, ..NewQuestion::default() }).collect()
    };
    if new.is_empty() {
        return Err(wrong("Paste at least one question.".to_owned()));
    }
    if new.len() > MOST_IMPORTED {
        return Err(wrong("Paste at most 500 questions at a time.".to_owned()));
    }
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_csv_or_lines() {
        let lines = read_list("How do I pay?\r\n\r\n Can I, later, cancel? \n").unwrap();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[1].text, "Can I, later, cancel?");
        let csv = "\u{feff}Asked,Question,reference\n3,\"Why, and\nhow?\",q-1\n,What?,\n";
        let read = read_list(csv).unwrap();
        assert_eq!((read[0].text.as_str(), read[0].asked), ("Why, and\nhow?", 3));
        assert_eq!(read[0].reference.as_deref(), Some("q-1"));
        assert_eq!((read[1].asked, read[1].reference.as_deref()), (1, None));
        for bad in ["", "question\n", "question,asked\nWhy?,many\n", "question,asked\nWhy?\n"] {
            assert!(matches!(read_list(bad), Err(ServiceError::Invalid(_))), "{bad}");
        }
        assert!(read_list(&"Why?\n".repeat(501)).is_err());
        for unknown in ["id,question\n1,Why?", "question;asked\nWhy?;3", "Question\tAsked\nWhy?\t3"] {
            assert!(matches!(read_list(unknown), Err(ServiceError::Invalid(_))), "{unknown}");
        }
        // A question that happens to hold the word is no line of names.
        assert_eq!(read_list("question, please?\nnext").unwrap().len(), 2);
    }
}
