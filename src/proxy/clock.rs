//! Time-outs without timers: a coarse clock per worker, and watches that a sweep looks at.
//!
//! A timer per request costs a clock read, an insertion and a removal in a wheel, for something that almost never
//! happens. Here arming is a store; every [`SWEEP_INTERVAL`] the worker walks the watches and wakes what is overdue,
//! at about a nanosecond a watch. The price is the grain: a time-out fires up to two intervals late.

use crate::limits::SWEEP_INTERVAL;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// Sweeps since the worker started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Tick(u32);

impl Tick {
    pub(super) const NEVER: Tick = Tick(u32::MAX);

    /// The first sweep at which at least `after` has passed.
    pub(super) fn after(self, after: Duration) -> Tick {
        let ticks = after.as_millis().div_ceil(SWEEP_INTERVAL.as_millis());
        let ticks = u32::try_from(ticks).unwrap_or(u32::MAX);
        Tick(self.0.saturating_add(ticks).saturating_add(1))
    }

    /// Since the worker started.
    pub(super) fn seconds(self) -> u64 {
        u64::from(self.0) * SWEEP_INTERVAL.as_millis() as u64 / 1000
    }

    /// Sweeps since an earlier one.
    pub(super) fn sweeps_since(self, earlier: Tick) -> u32 {
        self.0.saturating_sub(earlier.0)
    }
}

#[derive(Default)]
pub(super) struct Clock {
    now: Cell<Tick>,
    slots: RefCell<Slots>,
}

#[derive(Default)]
struct Slots {
    all: Vec<Slot>,
    free: Vec<u32>,
}

struct Slot {
    due: Tick,
    waker: Option<Waker>,
}

impl Clock {
    pub(super) fn now(&self) -> Tick {
        self.now.get()
    }

    /// One sweep: time moves on, what is overdue is woken.
    pub(super) fn advance(&self) {
        let now = Tick(self.now.get().0 + 1);
        self.now.set(now);
        self.wake(|slot| slot.due <= now);
    }

    /// Wakes every watch's task, so that it looks at the worker's state.
    pub(super) fn wake_all(&self) {
        self.wake(|_| true);
    }

    fn wake(&self, due: impl Fn(&Slot) -> bool) {
        let wakers: Vec<Waker> = self
            .slots
            .borrow_mut()
            .all
            .iter_mut()
            .filter(|slot| due(slot))
            .filter_map(|slot| slot.waker.take())
            .collect();
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// One deadline, its task woken when it has passed. Not armed at first.
pub(super) struct Watch {
    clock: Rc<Clock>,
    id: u32,
}

impl Watch {
    pub(super) fn new(clock: &Rc<Clock>) -> Watch {
        let mut slots = clock.slots.borrow_mut();
        let slot = Slot { due: Tick::NEVER, waker: None };
        let id = match slots.free.pop() {
            Some(id) => {
                slots.all[id as usize] = slot;
                id
            }
            None => {
                slots.all.push(slot);
                (slots.all.len() - 1) as u32
            }
        };
        Watch { clock: Rc::clone(clock), id }
    }

    pub(super) fn due_at(&self, due: Tick) {
        self.clock.slots.borrow_mut().all[self.id as usize].due = due;
    }

    pub(super) fn due_after(&self, after: Duration) {
        self.due_at(self.clock.now().after(after));
    }

    /// Ready once the deadline has passed; otherwise the task is woken when it does.
    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut slots = self.clock.slots.borrow_mut();
        let slot = &mut slots.all[self.id as usize];
        if slot.due <= self.clock.now() {
            return Poll::Ready(());
        }
        match &mut slot.waker {
            Some(waker) if waker.will_wake(cx.waker()) => {}
            waker => *waker = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut slots = self.clock.slots.borrow_mut();
        let slot = &mut slots.all[self.id as usize];
        slot.due = Tick::NEVER;
        let waker = slot.waker.take();
        slots.free.push(self.id);
        drop(slots);
        drop(waker);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    #[derive(Default)]
    struct Counter(AtomicUsize);
    impl std::task::Wake for Counter {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    #[test]
    fn a_watch_fires_after_its_time_and_not_before() {
        let clock = Rc::new(Clock::default());
        let woken = Arc::new(Counter::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut cx = Context::from_waker(&waker);
        let watch = Watch::new(&clock);
        assert!(watch.poll(&mut cx).is_pending(), "not armed");
        watch.due_after(SWEEP_INTERVAL * 3);
        for _ in 0..3 {
            clock.advance();
            assert!(watch.poll(&mut cx).is_pending());
        }
        assert_eq!(woken.0.load(SeqCst), 0);
        clock.advance();
        assert!(watch.poll(&mut cx).is_ready());
        assert_eq!(woken.0.load(SeqCst), 1);
    }

    #[test]
    fn slots_are_used_again_and_forget_their_deadline() {
        let clock = Rc::new(Clock::default());
        let first = Watch::new(&clock);
        first.due_at(Tick::default());
        let id = first.id;
        drop(first);
        let second = Watch::new(&clock);
        assert_eq!(second.id, id);
        let mut cx = Context::from_waker(Waker::noop());
        clock.advance();
        assert!(second.poll(&mut cx).is_pending());
    }
}
