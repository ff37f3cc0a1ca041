//! Puts the process together: database, keyring, services, servers and jobs; and takes it apart again.

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::{App, HttpResponse, HttpServer, web};

use crate::api::{self, Api};
use crate::config::{ConfigError, Settings};
use crate::crypto::keyring::{Keyring, KeyringError};
use crate::crypto::password::Passwords;
use crate::crypto::root::RootKeys;
use crate::crypto::sealed::OpenError;
use crate::domain::clock::{Clock, Moment};
use crate::domain::ids::InstanceId;
use crate::gateway::{self, InFlight};
use crate::outbound::exchange::BearerCache;
use crate::outbound::{Outbound, Parts};
use crate::services::directory::Directory;
use crate::services::jobs::Jobs;
use crate::services::key_states::KeyStates;
use crate::services::meter::{self, Meter};
use crate::services::status::Runs;
use crate::services::{Options, ServiceError, Services, jobs, passkeys, platform};
use crate::storage::{Database, StorageError, changes, root};
use crate::web::{self as console, Options as WebOptions};

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("cannot make the data folder {path}")]
    DataDir { path: String, source: std::io::Error },
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    #[error(
        "the keyring {path} does not open this database. Put the keyring back that belongs to it; nothing was changed"
    )]
    WrongKeyring { path: String, source: OpenError },
    #[error(
        "this database was sealed with a keyring, but there is none at {path}. Put it back, or no provider key can be opened"
    )]
    MissingKeyring { path: String },
    #[error("the HTTP client could not be set up")]
    Outbound(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error(transparent)]
    Service(#[from] ServiceError),
    #[error("another Keyward is running on this data folder ({path}): an SQLite database has one server")]
    Running { path: String },
    #[error("cannot listen on {address}")]
    Bind { address: String, source: std::io::Error },
    #[error("the server failed")]
    Server(#[source] std::io::Error),
}

/// What a test may put in place of the real thing.
#[derive(Default)]
pub struct Replacements {
    pub clock: Clock,
    pub outbound: Parts,
}

/// Opens the database and brings its schema up to date.
///
/// # Errors
/// When it cannot be reached or migrated.
pub async fn open_database(settings: &Settings) -> Result<Database, StartError> {
    make_data_dir(&settings.data_dir)?;
    let database = Database::connect(settings.database_url()?.expose()).await?;
    database.migrate().await?;
    Ok(database)
}

fn make_data_dir(path: &Path) -> Result<(), StartError> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt as _;
        builder.mode(0o700);
    }
    builder.create(path).map_err(|source| StartError::DataDir { path: path.display().to_string(), source })
}

/// Opens everything that use cases need, without listening anywhere.
///
/// # Errors
/// Above all when the keyring is not the one that the database was sealed with.
pub async fn open(settings: &Settings, replace: Replacements) -> Result<Arc<Services>, StartError> {
    let options = Options {
        public_url: settings.public_url()?,
        product: settings.product_name.clone(),
        origins: settings.origins()?,
        urls: settings.url_policy()?,
        audit: settings.audit.options(),
        staff_second_factor: settings.staff_second_factor,
    };
    let payments = settings.payments.provider()?;
    let mailer = settings.mail.mailer(&settings.product_name)?;
    let db = open_database(settings).await?;
    let (keyring, root) = open_custody(&db, &settings.keyring_path()).await?;
    platform::seed(&db, replace.clock.now()).await?;
    let outbound = Outbound::new(replace.outbound).map_err(|error| StartError::Outbound(error.into()))?;
    Ok(Arc::new(Services {
        directory: Directory::new(db.clone()),
        db,
        started_at: replace.clock.now(),
        up_since: std::time::Instant::now(),
        runs: Runs::default(),
        clock: replace.clock,
        keyring: Arc::new(keyring),
        root: Arc::new(root),
        outbound,
        mailer,
        payments,
        bearers: BearerCache::default(),
        passwords: Passwords::default(),
        relying_party: passkeys::relying_party(&options.public_url, &options.product),
        meter: Meter::default(),
        key_states: KeyStates::default(),
        sums_announced: std::sync::atomic::AtomicI64::new(0),
        generation_work: tokio::sync::Notify::new(),
        options,
        instance: InstanceId::new(),
        runtime: tokio::runtime::Handle::current(),
    }))
}

/// Opens the keyring and, with it, the root secret. Both are made at the very first start.
///
/// # Errors
/// `WrongKeyring` or `MissingKeyring` when the database belongs to another keyring.
pub async fn open_custody(db: &Database, path: &Path) -> Result<(Keyring, RootKeys), StartError> {
    let shown = || path.display().to_string();
    let mut tx = db.write().await?;
    let sealed = root::find_root(&mut tx).await?;
    if sealed.is_none() && !path.exists() {
        Keyring::generate().create(path)?;
        tracing::warn!(path = %path.display(), "a new master keyring was written: back it up apart from the database");
    } else if !path.exists() {
        return Err(StartError::MissingKeyring { path: shown() });
    }
    let keyring = Keyring::load(path)?;
    let wrong = |source| StartError::WrongKeyring { path: shown(), source };
    if let Some(sealed) = sealed {
        let root = RootKeys::open(&keyring, &sealed).map_err(wrong)?;
        return Ok((keyring, root));
    }
    let (made, sealed) = RootKeys::generate(&keyring).map_err(wrong)?;
    if root::insert_root(&mut tx, &sealed).await? {
        tx.commit().await?;
        return Ok((keyring, made));
    }
    // Another process was first; its root secret is the one that counts.
    let sealed =
        root::find_root(&mut tx).await?.ok_or_else(|| StartError::MissingKeyring { path: shown() })?;
    let root = RootKeys::open(&keyring, &sealed).map_err(wrong)?;
    Ok((keyring, root))
}

/// A server that is up.
pub struct Running {
    pub services: Arc<Services>,
    /// Ends the server when told to; see `stop`.
    handle: ServerHandle,
    server: tokio::task::JoinHandle<std::io::Result<()>>,
    in_flight: InFlight,
    /// Works the community manager's queue off.
    generations: tokio::task::JoinHandle<()>,
    jobs: Jobs,
    stopping: Arc<AtomicBool>,
    shutdown: Duration,
    /// Held while the process serves an SQLite database.
    lock: Option<std::fs::File>,
}

/// Binds the address that the settings name.
///
/// # Errors
/// When it is taken.
pub fn bind(address: std::net::SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).map_err(|source| StartError::Bind { address: address.to_string(), source })
}

/// How many connections may wait to be taken. What comes beyond that waits for a second and longer, and the
/// standard library leaves it at 128: clients that all come back after a restart are more.
const BACKLOG: i32 = 1024;

/// Starts servers and jobs on a bound listener.
///
/// # Errors
/// When the server cannot be set up.
pub async fn start(
    services: Arc<Services>,
    settings: &Settings,
    listener: TcpListener,
) -> Result<Running, StartError> {
    let lock = lock(&services, settings)?;
    socket2::SockRef::from(&listener).listen(BACKLOG).map_err(StartError::Server)?;
    settle_leftovers(&services).await?;
    services.record_allowed_endpoints().await?;
    let jobs = jobs::start(&services);
    let in_flight = InFlight::default();
    let at_once = usize::from(settings.generations_at_once);
    let worker = gateway::generations::work(Arc::clone(&services), in_flight.tickets(), at_once);
    let generations = services.runtime.spawn(worker);
    let stopping = Arc::new(AtomicBool::new(false));
    let shutdown = Duration::from_secs(settings.shutdown_seconds);

    let app_services = Arc::clone(&services);
    let tickets = in_flight.tickets();
    let readiness = Arc::clone(&stopping);
    let secure = services.options.public_url.starts_with("https://");
    let trusted_proxies = settings.trusted_proxies.clone();
    let assistant = gateway::assistant::assistant(&services, in_flight.tickets());
    let api = web::Data::new(Api::new(Arc::clone(&services)));
    let server = HttpServer::new(move || {
        let web_options = WebOptions { secure, trusted_proxies: trusted_proxies.clone() };
        App::new()
            .app_data(web::Data::new(Health {
                services: Arc::clone(&app_services),
                stopping: Arc::clone(&readiness),
            }))
            .route("/healthz", web::get().to(healthz))
            .route("/readyz", web::get().to(readyz))
            .configure(|cfg| gateway::configure(cfg, Arc::clone(&app_services), tickets.clone()))
            .configure(|cfg| api::configure(cfg, api.clone()))
            .configure(|cfg| api::payments::configure(cfg, Arc::clone(&app_services)))
            .configure(|cfg| {
                console::configure(cfg, Arc::clone(&app_services), Arc::clone(&assistant), &web_options);
            })
    })
    .tcp_nodelay(true)
    .h1_allow_half_closed(false)
    .keep_alive(Duration::from_secs(75))
    .client_request_timeout(Duration::from_secs(10))
    .shutdown_timeout(settings.shutdown_seconds)
    .disable_signals()
    .listen(listener)
    .map_err(StartError::Server)?
    .run();
    let handle = server.handle();
    let server = tokio::spawn(server);
    Ok(Running { services, handle, server, in_flight, generations, jobs, stopping, shutdown, lock })
}

/// Two servers on one SQLite file would not see each other's changes.
fn lock(services: &Services, settings: &Settings) -> Result<Option<std::fs::File>, StartError> {
    if !matches!(services.db, Database::Sqlite(_)) {
        return Ok(None);
    }
    let path = settings.data_dir.join("keyward.lock");
    let failed = |source| StartError::DataDir { path: path.display().to_string(), source };
    let file = std::fs::File::create(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(std::fs::TryLockError::WouldBlock) => {
            Err(StartError::Running { path: settings.data_dir.display().to_string() })
        }
        Err(std::fs::TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// SQLite has one server, so whatever is pending when it starts was left by one that died. On
/// PostgreSQL the job that listens for heartbeats finds out.
async fn settle_leftovers(services: &Services) -> Result<(), StartError> {
    let now = services.clock.now();
    services.beat().await?;
    if matches!(services.db, Database::Sqlite(_)) {
        let platform = services.directory.platform().await?;
        let (own, nothing) = (services.instance, Moment(i64::MIN));
        meter::settle_orphans(&services.db, own, &platform.prices, now, now.plus(1), nothing).await?;
        services.recover_generations(now.plus(1)).await?;
        let mut tx = services.db.meter().await?;
        changes::forget_others(&mut tx, services.instance).await?;
        tx.commit().await?;
    }
    Ok(())
}

impl Running {
    /// Lets no exchange begin, waits for those under way, stops the server and writes what was used. One
    /// limit holds for all of it.
    pub async fn stop(self) {
        let deadline = tokio::time::Instant::now() + self.shutdown;
        self.stopping.store(true, Ordering::SeqCst);
        // What it has begun goes on: it is in flight like any other.
        self.generations.abort();
        let over = async {
            let _ = self.generations.await;
            self.in_flight.end().await;
        };
        tokio::pin!(over);
        // The server stays until then: a worker ends when its clients have left, and the connections that
        // it opened end with it, though answers may still be read from them.
        let in_time = tokio::time::timeout_at(deadline, &mut over).await.is_ok();
        let server = self.server.abort_handle();
        let quiet = async {
            self.handle.stop(in_time).await;
            let _ = self.server.await;
        };
        // What is left are pages and downloads, and the server's own clock has only begun to run.
        if tokio::time::timeout_at(deadline + Duration::from_secs(2), quiet).await.is_err() {
            tracing::warn!("some pages were still under way; they were cut off");
            server.abort();
        }
        if !in_time && tokio::time::timeout(CUT_OFF, over).await.is_err() {
            tracing::warn!("some exchanges were still under way; they will be settled by estimate");
        }
        if tokio::time::timeout(LAST_WRITES, self.services.meter.flush()).await.is_err() {
            tracing::error!("usage could not be written; what is pending will be settled by estimate");
        }
        self.jobs.stop();
        let goodbye = async {
            if let Err(error) = end(&self.services).await {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "this process could not say goodbye"
                );
            }
            self.services.db.close().await;
        };
        if tokio::time::timeout(LAST_WRITES, goodbye).await.is_err() {
            tracing::warn!("the database did not close in time");
        }
        drop(self.lock);
    }

    /// Waits for a request to stop by signal, then stops; a second one ends at once.
    pub async fn until_signal(self, mut signals: Signals) {
        signals.next().await;
        tracing::info!("stopping: streams under way may finish; a second signal ends at once");
        tokio::select! {
            () = self.stop() => {}
            () = signals.next() => {}
        }
    }
}

/// How long exchanges have to note that they were cut off.
const CUT_OFF: Duration = Duration::from_secs(1);
/// How long the last writes may take when the process stops.
const LAST_WRITES: Duration = Duration::from_secs(10);

async fn end(services: &Services) -> Result<(), StorageError> {
    let mut tx = services.db.meter().await?;
    changes::end(&mut tx, services.instance).await?;
    tx.commit().await
}

/// Requests to stop: SIGTERM or Ctrl-C. From when it is made, none of them is missed.
pub struct Signals {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    /// # Errors
    /// When signals cannot be listened to.
    pub fn listen() -> std::io::Result<Self> {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            Ok(Self {
                terminate: signal(SignalKind::terminate())?,
                interrupt: signal(SignalKind::interrupt())?,
            })
        }
        #[cfg(not(unix))]
        Ok(Self {})
    }

    pub async fn next(&mut self) {
        #[cfg(unix)]
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
        #[cfg(not(unix))]
        let _ = tokio::signal::ctrl_c().await;
    }
}

struct Health {
    services: Arc<Services>,
    stopping: Arc<AtomicBool>,
}

/// The process is up.
async fn healthz() -> HttpResponse {
    HttpResponse::Ok().content_type("text/plain; charset=utf-8").body("ok\n")
}

/// The process can serve: it is not stopping and its database answers.
async fn readyz(health: web::Data<Health>) -> HttpResponse {
    let answers = async {
        let mut tx = health.services.db.read().await?;
        root::find_root(&mut tx).await
    };
    let up = !health.stopping.load(Ordering::SeqCst)
        && matches!(tokio::time::timeout(Duration::from_secs(2), answers).await, Ok(Ok(Some(_))));
    let (mut response, body) = if up {
        (HttpResponse::Ok(), "ready\n")
    } else {
        (HttpResponse::ServiceUnavailable(), "not ready\n")
    };
    response.content_type("text/plain; charset=utf-8").body(body)
}
