//! The only place with SQL. Free functions on `&mut Tx`, one file per aggregate; one text of SQL
//! runs on SQLite and on PostgreSQL.

pub mod adjustments;
pub mod audit;
pub mod breakers;
pub mod budgets;
pub mod changes;
pub mod claims;
pub mod credits;
pub mod database;
pub mod day_sums;
pub mod deliveries;
pub mod factors;
pub mod generations;
pub mod holds;
pub mod idempotency;
pub mod keys;
pub mod members;
pub mod model_lists;
pub mod notifications;
pub mod people;
pub mod pinned_sessions;
pub mod plans;
pub mod prices;
pub mod purchases;
pub mod questions;
pub mod reconciliation;
pub mod root;
pub mod sessions;
pub mod sso;
pub mod statements;
pub mod status;
pub mod tenants;
pub mod throttle;
pub mod tokens;
pub mod usage;
pub mod usage_report;
pub mod viewings;

use sqlx::postgres::PgDatabaseError;

pub use database::{AtOnce, Database, Tx};

#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
    #[error("the database failed")]
    Look(#[from] rusqlite::Error),
    #[error("the database schema could not be brought up to date")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// A row that this version of Keyward cannot have written.
    #[error("a row of {table} holds something unknown in {column}")]
    BadRow { table: &'static str, column: &'static str },
    /// A usage row was settled before, and settlements count once.
    #[error("a usage row is settled already")]
    Settled,
    #[error("the database URL is neither sqlite: nor postgres:")]
    Url,
}

impl StorageError {
    /// Whether another process was writing.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        matches!(self, Self::Look(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy))
    }

    /// Whether the database will never have what it was given. Anything else passes: it is away or full, or
    /// another process keeps it to itself.
    #[must_use]
    pub fn is_of_data(&self) -> bool {
        match self {
            Self::Settled | Self::Database(sqlx::Error::Encode(_)) => true,
            Self::Database(sqlx::Error::Database(cause)) => {
                let code = cause.code().unwrap_or_default();
                if cause.try_downcast_ref::<PgDatabaseError>().is_some() {
                    // Data exceptions, constraints, limits.
                    return ["22", "23", "54"].iter().any(|class| code.starts_with(class));
                }
                // Too big, constraints, mismatches, out of range; the rest of SQLite's code is more precise.
                code.parse::<i32>().is_ok_and(|code| matches!(code & 0xff, 18 | 19 | 20 | 25))
            }
            _ => false,
        }
    }

    /// Whether a write failed because something of that name is there already.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Database(error) if error.as_database_error().is_some_and(sqlx::error::DatabaseError::is_unique_violation))
    }
}

/// The pattern of a text that holds another, for LIKE with `ESCAPE '\\'`.
fn containing(search: &str) -> String {
    let escaped = search.to_lowercase().replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
    format!("%{escaped}%")
}

/// Compiles one body for both databases. The body sees `$conn` as a connection of either.
macro_rules! on_backend {
    ($tx:expr, $conn:ident => $body:expr) => {
        match $tx {
            $crate::storage::Tx::Sqlite(tx) => {
                let $conn = &mut **tx;
                $body
            }
            $crate::storage::Tx::Postgres(tx) => {
                let $conn = &mut **tx;
                $body
            }
        }
    };
}
pub(crate) use on_backend;

/// Runs a statement and gives the number of rows that it touched.
macro_rules! execute {
    ($tx:expr, $sql:expr $(, $bind:expr)* $(,)?) => {
        $crate::storage::on_backend!($tx, conn => sqlx::query($sql)$(.bind($bind))*
            .execute(conn).await.map(|done| done.rows_affected()))
            .map_err($crate::storage::StorageError::from)
    };
}
pub(crate) use execute;

/// Reads all rows of a query as `$row`.
macro_rules! fetch_all {
    ($tx:expr, $row:ty, $sql:expr $(, $bind:expr)* $(,)?) => {
        $crate::storage::on_backend!($tx, conn => sqlx::query_as::<_, $row>($sql)$(.bind($bind))*
            .fetch_all(conn).await)
            .map_err($crate::storage::StorageError::from)
    };
}
pub(crate) use fetch_all;

/// Reads at most one row of a query as `$row`.
macro_rules! fetch_optional {
    ($tx:expr, $row:ty, $sql:expr $(, $bind:expr)* $(,)?) => {
        $crate::storage::on_backend!($tx, conn => sqlx::query_as::<_, $row>($sql)$(.bind($bind))*
            .fetch_optional(conn).await)
            .map_err($crate::storage::StorageError::from)
    };
}
pub(crate) use fetch_optional;

/// Reads the one row that a query must have, as `$row`.
macro_rules! fetch_one {
    ($tx:expr, $row:ty, $sql:expr $(, $bind:expr)* $(,)?) => {
        $crate::storage::on_backend!($tx, conn => sqlx::query_as::<_, $row>($sql)$(.bind($bind))*
            .fetch_one(conn).await)
            .map_err($crate::storage::StorageError::from)
    };
}
pub(crate) use fetch_one;

/// Reads a word of a closed set, or names the row's fault.
macro_rules! word {
    ($kind:ty, $text:expr, $table:literal, $column:literal) => {
        <$kind>::parse(&$text).ok_or($crate::storage::StorageError::BadRow { table: $table, column: $column })
    };
}
pub(crate) use word;
