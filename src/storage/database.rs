//! Connections and transactions of either database.

use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::str::FromStr as _;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use rusqlite::OpenFlags;
use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _, PgPool, Postgres, Sqlite, SqliteConnection, SqlitePool};
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::StorageError;

/// The database, by kind.
#[derive(Clone)]
pub enum Database {
    Sqlite(SqliteDatabase),
    Postgres(PgPool),
}

/// SQLite has one writer at a time. Keys, money and audit are written through `durable`, which
/// syncs every commit to disk; usage through connections of the meter's own, whose commits survive the
/// death of the process.
#[derive(Clone)]
pub struct SqliteDatabase {
    durable: SqlitePool,
    readers: SqlitePool,
    door: Arc<Door>,
    /// First come, first served: SQLite's own waiting is by chance, and a busy meter would win it.
    turn: Arc<Mutex<Metering>>,
}

/// The meter's connections. In no pool: a pool asks after a connection's health at every turn, which
/// at hundreds of commits in a second is most of the work.
struct Metering {
    options: SqliteConnectOptions,
    /// `None` while a transaction has it, and after one that ended badly: the next opens another.
    idle: Option<SqliteConnection>,
    /// One more, for what is written on the thread that asks.
    at_once: Option<rusqlite::Connection>,
    /// How much was written by it since the log was last folded in.
    unfolded: usize,
    closed: bool,
}

impl Metering {
    fn may_write_at_once(&self) -> bool {
        !self.closed && self.unfolded < MOST_UNFOLDED
    }
}

/// For what every page asks first. It is asked on the thread that asks: sending a question of a few
/// microseconds to another thread and back costs many times as much.
struct Door {
    path: PathBuf,
    state: std::sync::Mutex<DoorState>,
}

#[derive(Default)]
enum DoorState {
    #[default]
    Unused,
    Open(rusqlite::Connection),
    Closed,
}

/// A transaction. Dropped without `commit`, it leaves nothing behind.
pub enum Tx {
    Sqlite(SqliteTx),
    Postgres(sqlx::Transaction<'static, Postgres>),
}

/// A transaction of SQLite, with the turn to write if it writes.
pub struct SqliteTx {
    held: Held,
    turn: Option<OwnedMutexGuard<Metering>>,
}

enum Held {
    Pooled(sqlx::Transaction<'static, Sqlite>),
    /// The meter's connection. Dropped, it is closed, which undoes what was not committed.
    Metering(SqliteConnection),
}

impl Deref for SqliteTx {
    type Target = SqliteConnection;

    fn deref(&self) -> &SqliteConnection {
        match &self.held {
            Held::Pooled(tx) => tx,
            Held::Metering(connection) => connection,
        }
    }
}

impl DerefMut for SqliteTx {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        match &mut self.held {
            Held::Pooled(tx) => tx,
            Held::Metering(connection) => connection,
        }
    }
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
        // Its commits come in hundreds, to the same few pages: the fewer of them are copied out of the
        // log one by one, the better.
        let metering =
            options.clone().synchronous(SqliteSynchronous::Normal).pragma("wal_autocheckpoint", "4000");
        let pool = |options: SqliteConnectOptions, connections| {
            SqlitePoolOptions::new()
                .max_connections(connections)
                .acquire_timeout(Duration::from_secs(10))
                .idle_timeout(None)
                .test_before_acquire(false)
                .max_lifetime(None)
                .connect_with(options)
        };
        let door = Door { path: path.to_owned(), state: std::sync::Mutex::default() };
        Ok(Self::Sqlite(SqliteDatabase {
            durable: pool(options.clone().synchronous(SqliteSynchronous::Full), 1).await?,
            readers: pool(options.synchronous(SqliteSynchronous::Full), 4).await?,
            door: Arc::new(door),
            turn: Arc::new(Mutex::new(Metering {
                options: metering,
                idle: None,
                at_once: None,
                unfolded: 0,
                closed: false,
            })),
        }))
    }

    /// Brings the schema up to date.
    ///
    /// # Errors
    /// When a migration fails, or one that was applied has since been changed.
    pub async fn migrate(&self) -> Result<(), StorageError> {
        match self {
            Self::Sqlite(db) => {
                let migrator = sqlx::migrate!("migrations/sqlite");
                // A new database has no such table yet. If anything else is wrong, the run finds it.
                let _ =
                    sqlx::query(COMMENTED_ON_SQLITE).bind(checksum(&migrator, 30)).execute(&db.durable).await;
                migrator.run(&db.durable).await?;
            }
            Self::Postgres(pool) => {
                let migrator = sqlx::migrate!("migrations/postgres");
                let _ = sqlx::query(COMMENTED_ON_POSTGRES).bind(checksum(&migrator, 30)).execute(pool).await;
                migrator.run(pool).await?;
            }
        }
        Ok(())
    }

    /// A transaction that only reads.
    ///
    /// # Errors
    /// When no connection can be had.
    pub async fn read(&self) -> Result<Tx, StorageError> {
        Ok(match self {
            Self::Sqlite(db) => {
                Tx::Sqlite(SqliteTx { held: Held::Pooled(db.readers.begin().await?), turn: None })
            }
            Self::Postgres(pool) => Tx::Postgres(pool.begin().await?),
        })
    }

    /// A transaction that only reads, and sees the database as it was at its first question all the while.
    ///
    /// # Errors
    /// When no connection can be had.
    pub async fn snapshot(&self) -> Result<Tx, StorageError> {
        match self {
            // There it is what every transaction sees.
            Self::Sqlite(_) => self.read().await,
            Self::Postgres(pool) => {
                Ok(Tx::Postgres(pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ").await?))
            }
        }
    }

    /// A transaction whose commit survives power loss.
    ///
    /// # Errors
    /// When no connection can be had.
    pub async fn write(&self) -> Result<Tx, StorageError> {
        match self {
            Self::Sqlite(db) => Ok(Tx::Sqlite(db.begin_durable().await?)),
            Self::Postgres(pool) => Ok(Tx::Postgres(pool.begin().await?)),
        }
    }

    /// A transaction for usage, whose commit survives the death of the process.
    ///
    /// # Errors
    /// When no connection can be had.
    pub async fn meter(&self) -> Result<Tx, StorageError> {
        match self {
            Self::Sqlite(db) => Ok(Tx::Sqlite(db.begin_metering().await?)),
            Self::Postgres(pool) => {
                Ok(Tx::Postgres(pool.begin_with("BEGIN; SET LOCAL synchronous_commit = off").await?))
            }
        }
    }

    /// The turn to write usage on this thread, if the database is SQLite and nobody has the turn or waits
    /// for it.
    #[must_use]
    pub fn try_at_once(&self) -> Option<AtOnce> {
        let Self::Sqlite(db) = self else { return None };
        Arc::clone(&db.turn).try_lock_owned().ok().filter(|turn| turn.may_write_at_once()).map(AtOnce)
    }

    /// The same, when it comes to that.
    pub async fn at_once(&self) -> Option<AtOnce> {
        let Self::Sqlite(db) = self else { return None };
        Some(Arc::clone(&db.turn).lock_owned().await).filter(|turn| turn.may_write_at_once()).map(AtOnce)
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
                *db.door.state.lock().unwrap_or_else(PoisonError::into_inner) = DoorState::Closed;
                let mut metering = db.turn.lock().await;
                metering.closed = true;
                metering.at_once = None;
                if let Some(connection) = metering.idle.take() {
                    let _ = connection.close().await;
                }
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
    async fn begin_durable(&self) -> Result<SqliteTx, StorageError> {
        let turn = Some(Arc::clone(&self.turn).lock_owned().await);
        // A write must hold SQLite's lock from its first statement, or two that read first and
        // write later would fail each other.
        let tx = self.durable.begin_with(BEGIN_TO_WRITE).await?;
        Ok(SqliteTx { held: Held::Pooled(tx), turn })
    }

    async fn begin_metering(&self) -> Result<SqliteTx, StorageError> {
        let mut turn = Arc::clone(&self.turn).lock_owned().await;
        if turn.closed {
            return Err(sqlx::Error::PoolClosed.into());
        }
        let connection = match turn.idle.take() {
            Some(connection) => connection,
            None => turn.options.connect().await?,
        };
        let mut tx = SqliteTx { held: Held::Metering(connection), turn: Some(turn) };
        sqlx::query(BEGIN_TO_WRITE).execute(&mut *tx).await?;
        Ok(tx)
    }

    /// Asks one question that an index answers, at once and on this thread.
    pub(super) fn look<T>(
        &self,
        sql: &'static str,
        params: impl rusqlite::Params,
        read: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, StorageError> {
        let mut state = self.door.state.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*state, DoorState::Unused) {
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let opened = rusqlite::Connection::open_with_flags(&self.door.path, flags)?;
            opened.busy_timeout(Duration::from_secs(1))?;
            *state = DoorState::Open(opened);
        }
        let DoorState::Open(connection) = &*state else { return Err(sqlx::Error::PoolClosed.into()) };
        let found = connection.prepare_cached(sql)?.query_map(params, read)?.collect::<Result<_, _>>()?;
        Ok(found)
    }
}

/// Migration 30 was out for a while with a comment more, so there are databases that know it by the checksum of
/// that text.
const COMMENTED_ON_SQLITE: &str =
    "UPDATE _sqlx_migrations SET checksum = $1 WHERE version = 30 AND checksum =
    x'a4f79126c556c50f1583ccf802db0229295eff88d8b75c855a0ef575d7b470b9ec9783c252ae41f48e2ac48686e430ec'";
const COMMENTED_ON_POSTGRES: &str =
    "UPDATE _sqlx_migrations SET checksum = $1 WHERE version = 30 AND checksum =
    '\\x0984d09f9d3c7886f34a8a7d0c3ad9f575cd4f9749110136d5943f7194109c15612cf346364c159fcc042205bd4da58d'";

fn checksum(migrator: &Migrator, version: i64) -> Option<&[u8]> {
    migrator.iter().find(|migration| migration.version == version).map(|migration| &*migration.checksum)
}

const BEGIN_TO_WRITE: &str = "BEGIN IMMEDIATE";

/// Pages of the log, about, that are written at once before somebody who may wait for the disk folds it in.
const MOST_UNFOLDED: usize = 16_000;
/// What a commit writes beside its rows.
const PAGES_OF_A_COMMIT: usize = 6;

/// The turn to write to SQLite, for usage that is written on the thread that asks: sending a batch to
/// another thread and back costs more than writing it. It waits for no lock, and does not fold the log in.
pub struct AtOnce(OwnedMutexGuard<Metering>);

impl AtOnce {
    /// Runs what writes so many rows, in a transaction of its own.
    pub(super) fn write<T>(
        mut self,
        rows: usize,
        work: impl FnOnce(&rusqlite::Connection) -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        let connection = match self.0.at_once.take() {
            Some(connection) => connection,
            None => open_to_write(self.0.options.get_filename())?,
        };
        let begun = connection.prepare_cached(BEGIN_TO_WRITE)?.execute([]).map(|_| ());
        if let Err(error) = begun {
            let error = StorageError::from(error);
            if error.is_busy() {
                self.0.at_once = Some(connection);
            }
            return Err(error);
        }
        // Dropped on the way, the connection is closed, which undoes what was not committed.
        let written = work(&connection)?;
        connection.prepare_cached("COMMIT")?.execute([])?;
        self.0.at_once = Some(connection);
        self.0.unfolded += rows + PAGES_OF_A_COMMIT;
        Ok(written)
    }
}

fn open_to_write(path: &Path) -> rusqlite::Result<rusqlite::Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = rusqlite::Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(Duration::ZERO)?;
    connection.execute_batch(
        "PRAGMA foreign_keys = ON; PRAGMA synchronous = NORMAL; PRAGMA wal_autocheckpoint = 0;
         PRAGMA secure_delete = ON",
    )?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(connection)
}

impl SqliteTx {
    async fn end(self, committed: bool) -> Result<(), StorageError> {
        match self.held {
            Held::Pooled(tx) if committed => tx.commit().await?,
            Held::Pooled(tx) => tx.rollback().await?,
            Held::Metering(mut connection) => {
                let end = if committed { "COMMIT" } else { "ROLLBACK" };
                sqlx::query(end).execute(&mut connection).await?;
                if let Some(mut turn) = self.turn {
                    turn.idle = Some(connection);
                    if committed {
                        turn.unfolded = 0;
                    }
                }
            }
        }
        Ok(())
    }
}

impl Tx {
    /// # Errors
    /// When the database does not take the commit; then nothing is written.
    pub async fn commit(self) -> Result<(), StorageError> {
        match self {
            Self::Sqlite(tx) => tx.end(true).await,
            Self::Postgres(tx) => Ok(tx.commit().await?),
        }
    }

    /// Undoes everything and waits until that is done.
    ///
    /// # Errors
    /// When the connection breaks; then the database undoes it.
    pub async fn rollback(self) -> Result<(), StorageError> {
        match self {
            Self::Sqlite(tx) => tx.end(false).await,
            Self::Postgres(tx) => Ok(tx.rollback().await?),
        }
    }
}
