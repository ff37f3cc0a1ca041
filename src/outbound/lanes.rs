//! Clients side by side. A client has one HTTP/2 connection to a server, on which that server takes so many
//! requests at a time; the next would wait until another one's answer is over.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use super::connect::Client;

/// Requests under way until the next lane is taken. Servers take a hundred, if they keep to RFC 9113, 6.5.2.
const FULL: usize = 100;
/// Whatever is more than all of them hold waits in the last.
const LANES: usize = 64;

pub struct Lanes {
    make: Box<dyn Fn() -> Client + Send + Sync>,
    lanes: [Lane; LANES],
}

#[derive(Default)]
struct Lane {
    client: OnceLock<Client>,
    under_way: AtomicUsize,
}

/// A place in a lane, from before a request is sent until its answer is over.
pub struct Place {
    lanes: Arc<Lanes>,
    lane: usize,
}

impl Lanes {
    pub fn new(make: impl Fn() -> Client + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { make: Box::new(make), lanes: std::array::from_fn(|_| Lane::default()) })
    }

    /// A place in the first lane that has one.
    pub fn place(self: &Arc<Self>) -> Place {
        let mut lane = 0;
        while self.lanes[lane].under_way.fetch_add(1, Ordering::Relaxed) >= FULL && lane + 1 < LANES {
            self.lanes[lane].under_way.fetch_sub(1, Ordering::Relaxed);
            lane += 1;
        }
        Place { lanes: Arc::clone(self), lane }
    }
}

impl Place {
    pub fn client(&self) -> &Client {
        self.lanes.lanes[self.lane].client.get_or_init(&self.lanes.make)
    }
}

#[cfg(test)]
impl Place {
    pub fn is_in_first_lane(&self) -> bool {
        self.lane == 0
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.lanes.lanes[self.lane].under_way.fetch_sub(1, Ordering::Relaxed);
    }
}
