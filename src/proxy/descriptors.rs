//! A worker's share of the process's file descriptors, divided between clients and targets.
//!
//! Clients get no more than leaves their requests connections to targets: a client that is accepted can be served. When
//! the system has none left all the same (others took them, or the limit was lowered), the worker makes do with fewer than
//! it has open, and tries for more bit by bit.

use super::upstream::pool::Capacity;
use crate::net::descriptors::{for_connections, limit};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

/// What a worker never goes below.
const LEAST: usize = 8;

pub(super) struct Descriptors {
    /// Workers, and sockets that each listens on.
    process: (usize, usize),
    /// What the worker's connections would like to have: with clients, and with targets.
    wanted: Cell<(usize, usize)>,
    /// The worker's share.
    share: Cell<usize>,
    /// Of it, those that the system gives.
    given: Cell<usize>,
    /// Connections to targets.
    targets: Cell<usize>,
    /// Pools with requests that wait for a descriptor, and whether there are any: looked at for each request.
    starved: RefCell<VecDeque<Rc<Capacity>>>,
    is_starved: Cell<bool>,
}

impl Descriptors {
    pub(super) fn new(workers: usize, listeners: usize) -> Descriptors {
        let none = Cell::new(usize::MAX);
        let (share, given) = (none.clone(), none);
        Descriptors {
            process: (workers, listeners),
            wanted: Cell::new((usize::MAX, usize::MAX)),
            share,
            given,
            targets: Cell::new(0),
            starved: RefCell::default(),
            is_starved: Cell::new(false),
        }
    }

    /// A table says how many connections there may be, with clients and with targets; the limit is looked at again.
    pub(super) fn divide(&self, clients: usize, targets: usize) {
        self.wanted.set((clients, targets));
        let before = self.share.get();
        self.measure();
        // Tables come often; what the system refused a moment ago it would refuse again.
        if self.share.get() != before {
            self.given.set(self.share.get());
        }
    }

    fn measure(&self) {
        let (workers, listeners) = self.process;
        self.share.set(for_connections(limit(), workers, listeners) / workers.max(1));
    }

    /// How many clients the worker may have.
    pub(super) fn clients(&self) -> usize {
        divided(self.given.get(), self.wanted.get()).0
    }

    /// One for a connection to a target. False: none is left; the pool is told when there is.
    pub(super) fn take(&self, pool: &Rc<Capacity>) -> bool {
        if self.targets.get() < divided(self.given.get(), self.wanted.get()).1 {
            self.targets.set(self.targets.get() + 1);
            return true;
        }
        self.starve(Rc::clone(pool));
        false
    }

    fn starve(&self, pool: Rc<Capacity>) {
        let mut starved = self.starved.borrow_mut();
        if !starved.iter().any(|waiting| Rc::ptr_eq(waiting, &pool)) {
            starved.push_back(pool);
        }
        self.is_starved.set(true);
    }

    /// A connection to a target is closed.
    pub(super) fn give_back(&self) {
        self.targets.set(self.targets.get() - 1);
        if self.is_starved() {
            self.feed_next();
        }
    }

    /// One request of the pool that is next goes on; the pool's others wait behind those of other pools.
    #[cold]
    fn feed_next(&self) {
        let next = self.starved.borrow_mut().pop_front();
        self.is_starved.set(!self.starved.borrow().is_empty());
        if let Some(pool) = next {
            pool.wake_next();
            if pool.has_waiting() {
                self.starve(pool);
            }
        }
    }

    /// Requests wait for what idle connections hold.
    pub(super) fn is_starved(&self) -> bool {
        self.is_starved.get()
    }

    /// The system gave none for a connection to a target.
    #[cold]
    pub(super) fn refused(&self) {
        self.measure();
        let given = self.given.get();
        self.given.set(self.share.get().min(given - given / 8).max(LEAST));
    }

    /// The system gave none to a worker with so many clients.
    #[cold]
    pub(super) fn exhausted(&self, clients: usize) {
        self.measure();
        let open = clients + self.targets.get();
        self.given.set(self.share.get().min(open - open / 8).max(LEAST));
    }

    /// Once a second: a few more, up to the share. True when there are.
    pub(super) fn recover(&self) -> bool {
        let (given, share) = (self.given.get(), self.share.get());
        self.given.set(share.min(given.saturating_add(given / 8 + LEAST)).max(given.min(LEAST)));
        let waiting = self.starved.borrow().len();
        if given < share {
            (0..waiting).for_each(|_| self.feed_next());
        }
        given < share
    }
}

/// How many of `share` clients and targets get that want so many. Targets get up to a half, clients the rest; and targets
/// what no client may take.
fn divided(share: usize, (clients, targets): (usize, usize)) -> (usize, usize) {
    let clients = clients.min(share - targets.min(share / 2));
    (clients, share - clients)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_accepted_client_finds_a_connection() {
        assert_eq!(divided(100, (10_000, 1024)), (50, 50));
        assert_eq!(divided(100, (10_000, 10)), (90, 10));
        assert_eq!(divided(100, (10, 1024)), (10, 90));
        assert_eq!(divided(100_000, (5_000, 1024)), (5_000, 95_000));
        assert_eq!(divided(usize::MAX, (usize::MAX, usize::MAX)).0, usize::MAX - usize::MAX / 2);
    }

    #[test]
    fn what_the_system_refuses_is_given_up_and_tried_for_again() {
        let descriptors = Descriptors::new(1, 1);
        descriptors.divide(1_000_000, 1_000_000);
        let share = descriptors.share.get();
        descriptors.exhausted(40);
        assert_eq!((descriptors.given.get(), descriptors.clients()), (35, 18));
        descriptors.exhausted(0);
        assert_eq!(descriptors.given.get(), LEAST);
        let mut seconds = 0;
        while descriptors.recover() {
            seconds += 1;
        }
        assert_eq!(descriptors.given.get(), share);
        assert!(seconds < 150, "{seconds}");
    }
}
