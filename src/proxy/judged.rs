//! Requests of routes whose rollout is judged: counted for the judge when they end, and as slow as soon as they are.
//!
//! A version that hangs ends no request, so those under way are looked at with every sweep of the worker's clock. They
//! stand in one list a worker; for a request it is a place taken and given back.

use super::exchange::micros;
use crate::boundary::judged::{JudgedRoute, JudgedVariant, Passed};
use crate::boundary::table::Published;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

/// A table's judged variants by route and variant; empty when no rollout is judged.
#[derive(Default)]
pub(super) struct LocalJudged(Vec<Option<Seats>>);

/// By variant.
type Seats = Box<[Option<Rc<Seat>>]>;

/// A variant as this worker's requests hold it: counted without writing to what all workers share.
pub(super) struct Seat(Arc<JudgedVariant>);

impl LocalJudged {
    pub(super) fn new(published: &Published) -> LocalJudged {
        if published.judged.iter().all(Option::is_none) {
            return LocalJudged::default();
        }
        let seat = |variant: &Option<Arc<JudgedVariant>>| Some(Rc::new(Seat(Arc::clone(variant.as_ref()?))));
        let route = |route: &JudgedRoute| route.as_ref().map(|variants| variants.iter().map(seat).collect());
        LocalJudged(published.judged.iter().map(route).collect())
    }

    #[inline]
    pub(super) fn of(&self, route: usize, variant: usize) -> Option<&Rc<Seat>> {
        self.0.get(route)?.as_ref()?.get(variant)?.as_ref()
    }
}

/// A worker's requests under way that are judged.
#[derive(Default)]
pub(super) struct Flights(RefCell<Slots>);

#[derive(Default)]
struct Slots {
    all: Vec<Option<Flight>>,
    free: Vec<u32>,
}

struct Flight {
    seat: Rc<Seat>,
    began: Instant,
    key: Option<u32>,
    passed: Passed,
}

/// A place in the list.
#[derive(Debug)]
pub(super) struct Place(u32);

impl Flights {
    pub(super) fn begin(&self, seat: &Rc<Seat>, began: Instant, key: Option<u32>) -> Place {
        let flight = Some(Flight { seat: Rc::clone(seat), began, key, passed: 0 });
        let mut slots = self.0.borrow_mut();
        match slots.free.pop() {
            Some(at) => {
                slots.all[at as usize] = flight;
                Place(at)
            }
            None => {
                slots.all.push(flight);
                Place((slots.all.len() - 1) as u32)
            }
        }
    }

    pub(super) fn end(&self, Place(at): Place, worker: usize, failed: bool) {
        let mut slots = self.0.borrow_mut();
        slots.free.push(at);
        let Some(flight) = slots.all[at as usize].take() else { return };
        drop(slots);
        let Flight { seat, began, key, passed } = flight;
        seat.0.ended(worker, micros(began.elapsed()), failed, passed, key);
    }

    /// With each sweep.
    pub(super) fn sweep(&self, worker: usize) {
        let mut slots = self.0.borrow_mut();
        if slots.all.len() == slots.free.len() {
            return;
        }
        let now = Instant::now();
        for flight in slots.all.iter_mut().flatten() {
            flight.passed = flight.seat.0.passes(worker, micros(now - flight.began), flight.passed);
        }
    }
}
