//! Connections and transactions of either database.

use std::path::Path;
use std::str::FromStr as _;
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{PgPool, Postgres, Sqlite, SqlitePool};
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::StorageError;

/// The database, by kind.
#[derive(Clone)]
pub enum Database {
    Sqlite(SqliteDatabase),
    Postgres(PgPool),
}

/// SQLite has one writer at a time. Keys, money and audit are written through `durable`, which
/// syncs every commit to disk; usage through `metering`, which survives the death of the process.
#[derive(Clone)]
pub struct SqliteDatabase {
    durable: SqlitePool,
    metering: SqlitePool,
    readers: SqlitePool,
    /// First come, first served: SQLite's own waiting is by chance, and a busy meter would win it.
    turn: Arc<Mutex<()>>,
}

/// A transaction. Dropped without `commit`, it leaves nothing behind.
pub enum Tx {
    Sqlite { tx: sqlx::Transaction<'static, Sqlite>, turn: Option<OwnedMutexGuard<()>> },
    Postgres(sqlx::Transaction<'static, Postgres>),
}

impl Database {
    /// Opens `sqlite:PATH` or `postgres://…` without touching the schema.
    ///
    /// # Errors
    /// When the URL is of neither kind or the database cannot be reached.
    pub async fn connect(url: &str) -> Result<Self, StorageError> {
        if let Some(path) = url.strip_prefix("sqlite:") {
            return Self::connect_sqlite(Path::new(path.strip_prefix("//").unwrap_or(path))).await;
        }
        if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            let options = PgConnectOptions::from_str(url)?.application_name("keyward");
            let pool = PgPoolOptions::new()
                .max_connections(16)
                .acquire_timeout(Duration::from_secs(5))
                .connect_with(options)
                .await?;
            return Ok(Self::Postgres(pool));
        }
        Err(StorageError::Url)
    }

    async fn connect_sqlite(path: &Path) -> Result<Self, StorageError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(10))
            .pragma("secure_delete", "ON");
        let pool = |options: SqliteConnectOptions, connections| {
            SqlitePoolOptions::new()
                .max_connections(connections)
                .acquire_timeout(Duration::from_secs(10))
                .idle_timeout(None)
                .max_lifetime(None)
                .connect_with(options)
        };
        Ok(Self::Sqlite(SqliteDatabase {
            durable: pool(options.clone().synchronous(SqliteSynchronous::Full), 1).await?,
            metering: pool(options.clone().synchronous(SqliteSynchronous::Normal), 1).await?,
            readers: pool(options.synchronous(SqliteSynchronous::Full), 4).await?,
            turn: Arc::new(Mutex::new(())),
        }))
    }

    /// Brings the schema up to date.
    ///
    /// # Errors
    /// When a migration fails, or one that was applied has since been changed.
    pub async fn migrate(&self) -> Result<(), StorageError> {
        match self {
            Self::Sqlite(db) => sqlx::migrate!("migrations/sqlite").run(&db.durable).await?,
            Self::Postgres(pool) => sqlx::migrate!("migrations/postgres").run(pool).await?,
        }
        Ok(())
    }

    /// A transaction that only reads.
    ///
    /// # Errors
    /// When no connection can be had.
    pub async fn read(&self) -> Result<Tx, StorageError> {
        Ok(match self {
            Self::Sqlite(db) => Tx::Sqlite { tx: db.readers.begin().await?, turn: None },
            Self::Postgres(pool) => Tx::Postgres(pool.begin().await?),
        })
    }

    /// A transaction whose commit survives power loss.
    ///
    /// # Errors
    /// When no connection can be had.
    pub async fn write(&self) -> Result<Tx, StorageError> {
        match self {
            Self::Sqlite(db) => db.begin_write(&db.durable).await,
            Self::Postgres(pool) => Ok(Tx::Postgres(pool.begin().await?)),
        }
    }

    /// A transaction for usage, whose commit survives the death of the process.
    ///
    /// # Errors
    /// When no connection can be had.
    pub async fn meter(&self) -> Result<Tx, StorageError> {
        match self {
            Self::Sqlite(db) => db.begin_write(&db.metering).await,
            Self::Postgres(pool) => {
                Ok(Tx::Postgres(pool.begin_with("BEGIN; SET LOCAL synchronous_commit = off").await?))
            }
        }
    }

    /// Empties SQLite's write-ahead log, which keeps older images of pages: after secrets were
    /// destroyed. Does what can be done now; the next time does the rest.
    pub async fn sweep(&self) {
        if let Self::Sqlite(db) = self {
            let _turn = db.turn.lock().await;
            if let Err(error) = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&db.durable).await {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the write-ahead log could not be emptied"
                );
            }
        }
    }

    /// Closes all connections; SQLite's write-ahead log is folded in.
    pub async fn close(&self) {
        match self {
            Self::Sqlite(db) => {
                db.readers.close().await;
                db.metering.close().await;
                db.durable.close().await;
            }
            Self::Postgres(pool) => pool.close().await,
        }
    }

    /// The database's name for messages.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Sqlite(_) => "SQLite",
            Self::Postgres(_) => "PostgreSQL",
        }
    }
}

impl SqliteDatabase {
    async fn begin_write(&self, pool: &SqlitePool) -> Result<Tx, StorageError> {
        let turn = Arc::clone(&self.turn).lock_owned().await;
        // A write must hold SQLite's lock from its first statement, or two that read first and
        // write later would fail each other.
        let tx = pool.begin_with("BEGIN IMMEDIATE").await?;
        Ok(Tx::Sqlite { tx, turn: Some(turn) })
    }
}

impl Tx {
    /// # Errors
    /// When the database does not take the commit; then nothing is written.
    pub async fn commit(self) -> Result<(), StorageError> {
        match self {
            Self::Sqlite { tx, turn } => {
                tx.commit().await?;
                drop(turn);
            }
            Self::Postgres(tx) => tx.commit().await?,
        }
        Ok(())
    }

    /// Undoes everything and waits until that is done.
    ///
    /// # Errors
    /// When the connection breaks; then the database undoes it.
    pub async fn rollback(self) -> Result<(), StorageError> {
        match self {
            Self::Sqlite { tx, turn } => {
                tx.rollback().await?;
                drop(turn);
            }
            Self::Postgres(tx) => tx.rollback().await?,
        }
        Ok(())
    }
}
