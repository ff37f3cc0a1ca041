//! A local provider that speaks the real wire formats, for developers, staging and tests.
//!
//! What a key does is written in the key, like the cards of a payment sandbox; `docs/sandbox.md`
//! lists them. Nothing here knows Keyward: only the price list's models, and the clock.

mod anthropic;
mod behaviour;
mod books;
mod control;
mod delivery;
mod door;
mod error;
mod gemini;
mod google;
mod journal;
mod message;
mod models;
mod openai;
mod openid;
pub mod payment;
mod prompt;
mod state;
mod stream;
mod text;

use std::net::TcpListener;
use std::time::Duration;

use actix_web::dev::Server;
use actix_web::{App, HttpServer, web};

use crate::domain::clock::Clock;
use state::State;

/// Longer than clients keep idle connections, so that none of them is closed under a request.
const KEEP_ALIVE: Duration = Duration::from_mins(2);

/// How to run a sandbox; the default is the system's clock and one worker.
#[derive(Clone, Debug)]
pub struct Options {
    pub clock: Clock,
    pub workers: usize,
    /// Who carries messages of payments; without one, nobody hears of them.
    pub courier: Option<payment::Courier>,
}

impl Default for Options {
    fn default() -> Self {
        Self { clock: Clock::system(), workers: 1, courier: None }
    }
}

/// Builds the server on a bound listener; the caller awaits or spawns it, inside a tokio runtime.
///
/// Fails only if the listener cannot be taken over.
pub fn server(listener: TcpListener, options: Options) -> std::io::Result<Server> {
    let state = web::Data::new(State::new(options.clock, options.courier));
    let server = HttpServer::new(move || {
        App::new()
            .app_data(state.clone())
            .configure(control::routes)
            .configure(payment::routes)
            .configure(openid::routes)
            .default_service(web::to(door::exchange))
    })
    .workers(options.workers)
    .keep_alive(KEEP_ALIVE)
    // Every event of a stream leaves at once, and a client that hangs up is noticed at once.
    .tcp_nodelay(true)
    .h1_allow_half_closed(false)
    .disable_signals()
    .shutdown_timeout(1)
    .listen(listener)?;
    Ok(server.run())
}
