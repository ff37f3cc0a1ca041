//! Questions without an answer.

use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::{StorageError, Tx, execute, fetch_all, fetch_one, fetch_optional, word};
use crate::access::scope::Scope;
use crate::domain::clock::Moment;
use crate::domain::ids::{QuestionId, RequestId, TenantId};
use crate::domain::question::{Question, QuestionState, WRITING_TAKES, Writing, Written};

const COLUMNS: &str =
    "id, tenant_id, state, reference, text, context, asked, suggestion, suggestion_key, suggested_at, article,
    article_key, article_at, writing, writing_since, writing_request, reason, reason_link, created_at, decided_at,
    decided_by";

#[derive(sqlx::FromRow)]
struct Row {
    id: Uuid,
    tenant_id: Uuid,
    state: String,
    reference: Option<String>,
    text: String,
    context: String,
    asked: i64,
    suggestion: String,
    suggestion_key: String,
    suggested_at: Option<i64>,
    article: String,
    article_key: String,
    article_at: Option<i64>,
    writing: Option<String>,
    writing_since: Option<i64>,
    writing_request: Option<Uuid>,
    reason: String,
    reason_link: String,
    created_at: i64,
    decided_at: Option<i64>,
    decided_by: String,
}

impl TryFrom<Row> for Question {
    type Error = StorageError;

    fn try_from(row: Row) -> Result<Self, StorageError> {
        let writing = match (row.writing, row.writing_since, row.writing_request) {
            (Some(what), Some(since), Some(request)) => {
                Some((word!(Writing, what, "question", "writing")?, Moment(since), RequestId(request)))
            }
            _ => None,
        };
        let written = |text, key, at: Option<i64>| Written { text, key, at: at.map(Moment) };
        Ok(Self {
            id: QuestionId(row.id),
            tenant: TenantId(row.tenant_id),
            state: word!(QuestionState, row.state, "question", "state")?,
            reference: row.reference,
            text: row.text,
            context: row.context,
            asked: row.asked,
            suggestion: written(row.suggestion, row.suggestion_key, row.suggested_at),
            article: written(row.article, row.article_key, row.article_at),
            writing,
            reason: row.reason,
            reason_link: row.reason_link,
            created_at: Moment(row.created_at),
            decided_at: row.decided_at.map(Moment),
            decided_by: row.decided_by,
        })
    }
}

/// Keeps a question. Of one that is known by its reference, only how often it was asked may grow. Gives
/// the question as it is then.
pub async fn insert(tx: &mut Tx, one: &Question) -> Result<Question, StorageError> {
    let sql = format!(
        "INSERT INTO question (id, tenant_id, state, reference, text, context, asked, suggestion, suggestion_key,
             article, article_key, reason, reason_link, created_at, decided_by)
         VALUES ($1, $2, 'open', $3, $4, $5, $6, '', '', '', '', '', '', $7, '')
         ON CONFLICT (tenant_id, reference) DO UPDATE SET
             asked = CASE WHEN question.asked < excluded.asked THEN excluded.asked ELSE question.asked END
         RETURNING {COLUMNS}"
    );
    let row = fetch_one!(
        tx,
        Row,
        AssertSqlSafe(sql),
        one.id.0,
        one.tenant.0,
        one.reference.as_deref(),
        &one.text,
        &one.context,
        one.asked,
        one.created_at.0
    )?;
    Question::try_from(row)
}

pub async fn find(tx: &mut Tx, scope: &Scope, id: QuestionId) -> Result<Option<Question>, StorageError> {
    let sql = format!("SELECT {COLUMNS} FROM question WHERE id = $1 AND tenant_id = $2");
    let row = fetch_optional!(tx, Row, AssertSqlSafe(sql), id.0, scope.owner().as_uuid())?;
    row.map(Question::try_from).transpose()
}

/// A tenant's questions in this state, those asked most first, after `after` where that is given.
pub async fn list(
    tx: &mut Tx,
    scope: &Scope,
    state: QuestionState,
    after: Option<QuestionId>,
    limit: i64,
) -> Result<Vec<Question>, StorageError> {
    let owner = scope.owner().as_uuid();
    let begin = format!("SELECT {COLUMNS} FROM question WHERE tenant_id = $1 AND state = $2");
    let order = "ORDER BY asked DESC, id DESC";
    let rows = if let Some(after) = after {
        let sql = format!(
            "{begin} AND (asked, id) < (SELECT l.asked, l.id FROM question l WHERE l.id = $3 AND l.tenant_id = $1)
             {order} LIMIT $4"
        );
        fetch_all!(tx, Row, AssertSqlSafe(sql), owner, state.as_str(), after.0, limit)?
    } else {
        let sql = format!("{begin} {order} LIMIT $3");
        fetch_all!(tx, Row, AssertSqlSafe(sql), owner, state.as_str(), limit)?
    };
    rows.into_iter().map(Question::try_from).collect()
}

/// How many questions of a tenant are in each state.
pub async fn counts(tx: &mut Tx, scope: &Scope) -> Result<Vec<(QuestionState, i64)>, StorageError> {
    let sql = "SELECT state, COUNT(*) FROM question WHERE tenant_id = $1 GROUP BY state";
    let rows = fetch_all!(tx, (String, i64), sql, scope.owner().as_uuid())?;
    rows.into_iter()
        .map(|(state, count)| Ok((word!(QuestionState, state, "question", "state")?, count)))
        .collect()
}

/// Says that something is being written by this request; false if something is already, or if an article
/// that it would replace is not the one that was `seen`.
pub async fn begin(
    tx: &mut Tx,
    scope: &Scope,
    id: QuestionId,
    (what, request): (Writing, RequestId),
    (seen, now): (Option<Moment>, Moment),
) -> Result<bool, StorageError> {
    let sql = "UPDATE question SET writing = $1, writing_since = $2, writing_request = $3
               WHERE id = $4 AND tenant_id = $5 AND state = 'open' AND (writing IS NULL OR writing_since < $6)
                 AND ($1 = 'suggestion' OR COALESCE(article_at, -1) = $7)";
    let lost = now.minus(WRITING_TAKES);
    let owner = scope.owner().as_uuid();
    let seen = seen.map_or(-1, |at| at.0);
    Ok(execute!(tx, sql, what.as_str(), now.0, request.0, id.0, owner, lost.0, seen)? > 0)
}

/// Keeps what this request wrote, unless another has begun since.
pub async fn end(
    tx: &mut Tx,
    id: QuestionId,
    (what, request): (Writing, RequestId),
    written: Result<(&str, &str), (&str, &str)>,
    now: Moment,
) -> Result<bool, StorageError> {
    const OVER: &str = "writing = NULL, writing_since = NULL, writing_request = NULL";
    const OWN: &str = "id = $3 AND writing_request = $4";
    let done = match written {
        Ok((text, key)) => {
            let set = match what {
                Writing::Suggestion => "suggestion = $1, suggestion_key = $2, suggested_at = $5",
                Writing::Article => "article = $1, article_key = $2, article_at = $5",
            };
            let sql = format!("UPDATE question SET {OVER}, reason = '', reason_link = '', {set} WHERE {OWN}");
            execute!(tx, AssertSqlSafe(sql), text, key, id.0, request.0, now.0)?
        }
        Err((reason, link)) => {
            let sql = format!("UPDATE question SET {OVER}, reason = $1, reason_link = $2 WHERE {OWN}");
            execute!(tx, AssertSqlSafe(sql), reason, link, id.0, request.0)?
        }
    };
    Ok(done > 0)
}

/// Keeps an article as a person has it; false if somebody changed it after `seen`, or it is being written.
pub async fn save_article(
    tx: &mut Tx,
    scope: &Scope,
    id: QuestionId,
    text: &str,
    (seen, now): (Option<Moment>, Moment),
) -> Result<bool, StorageError> {
    // What was lost on its way does not come back over it.
    let sql = "UPDATE question SET article = $1, article_at = $2,
                   writing_request = CASE WHEN writing = 'article' THEN NULL ELSE writing_request END,
                   writing_since = CASE WHEN writing = 'article' THEN NULL ELSE writing_since END,
                   writing = CASE WHEN writing = 'article' THEN NULL ELSE writing END
               WHERE id = $3 AND tenant_id = $4 AND COALESCE(article_at, -1) = $5
                 AND (writing IS NULL OR writing <> 'article' OR writing_since < $6)";
    let owner = scope.owner().as_uuid();
    let lost = now.minus(WRITING_TAKES);
    Ok(execute!(tx, sql, text, now.0, id.0, owner, seen.map_or(-1, |at| at.0), lost.0)? > 0)
}

/// What a person decides; false if it is so already.
pub async fn decide(
    tx: &mut Tx,
    scope: &Scope,
    id: QuestionId,
    to: QuestionState,
    (by, at): (&str, Moment),
) -> Result<bool, StorageError> {
    let again = to == QuestionState::Open;
    let (by, decided) = if again { ("", None) } else { (by, Some(at.0)) };
    let sql =
        "UPDATE question SET state = $1, decided_by = $2, decided_at = $3, reason = '', reason_link = ''
               WHERE id = $4 AND tenant_id = $5 AND state <> $1";
    Ok(execute!(tx, sql, to.as_str(), by, decided, id.0, scope.owner().as_uuid())? > 0)
}

/// Deletes what was decided before.
pub async fn delete_before(tx: &mut Tx, before: Moment) -> Result<(), StorageError> {
    execute!(tx, "DELETE FROM question WHERE decided_at < $1 AND state <> 'open'", before.0)?;
    Ok(())
}
