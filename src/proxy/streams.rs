//! The requests of one HTTP/2 connection, polled by the connection's own task.
//!
//! hyper hands each request over as a future, to be a task. On a connection that carries dozens at once tasks are most
//! of what a request costs beside the connection's own frames: each an allocation aligned to two lines of cache, which
//! the system's allocator is slow at, an entry in a list of all, its turns in the queue, and a wake-up of the
//! connection for what it wrote. Here they are futures in slots that are used again. What wakes them sets a bit and
//! wakes the connection's task once, which polls those that have something to do and then, once for all that they
//! wrote, the connection.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use tokio::task::coop;

/// A connection's requests; dropping it drops them.
pub(super) struct Streams {
    all: Rc<RefCell<Slots>>,
    task: Arc<Task>,
    connection: Waker,
    /// The last turn was over before the connection had its own.
    connection_first: Cell<bool>,
}

/// Where hyper puts them.
#[derive(Clone)]
pub(super) struct Spawner(Weak<RefCell<Slots>>);

#[derive(Default)]
struct Slots {
    slots: Vec<Option<Slot>>,
    free: Vec<usize>,
    blocks: Vec<Arc<Block>>,
    task: Option<Arc<Task>>,
}

struct Slot {
    future: Option<Pin<Box<dyn Future<Output = ()>>>>,
    waker: Waker,
}

/// The task that polls them all.
struct Task {
    waker: Waker,
    /// It has been woken, or is looking: no need to wake it.
    awake: AtomicBool,
    /// The connection itself has something to do.
    connection: AtomicBool,
}

/// 64 slots, those marked that have something to do.
struct Block {
    ready: AtomicU64,
    task: Arc<Task>,
}

struct Bit {
    block: Arc<Block>,
    bit: u64,
}

impl Streams {
    /// For the task with this waker; a task's waker stays the same.
    pub(super) fn new(waker: Waker) -> Streams {
        let task = Arc::new(Task { waker, awake: AtomicBool::new(false), connection: AtomicBool::new(true) });
        let connection = Waker::from(Arc::clone(&task));
        let all = RefCell::new(Slots { task: Some(Arc::clone(&task)), ..Slots::default() });
        Streams { all: Rc::new(all), task, connection, connection_first: Cell::new(false) }
    }

    pub(super) fn spawner(&self) -> Spawner {
        Spawner(Rc::downgrade(&self.all))
    }

    /// Polls what is ready: the requests first, then the connection, which has what they wrote. The connection is polled
    /// at least once, for what its driver may have told it.
    pub(super) fn poll<T>(&self, cx: &Context<'_>, mut connection: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        debug_assert!(self.task.waker.will_wake(cx.waker()), "a task's waker stays the same");
        self.task.awake.store(true, Ordering::Relaxed);
        self.task.connection.store(true, Ordering::Relaxed);
        loop {
            let all_polled = self.connection_first.take() || self.poll_requests();
            if self.task.connection.swap(false, Ordering::Acquire)
                && let Poll::Ready(end) = connection(&mut Context::from_waker(&self.connection))
            {
                return Poll::Ready(end);
            }
            if !all_polled || !coop::has_budget_remaining() {
                // Others have their turn.
                self.connection_first.set(!all_polled);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if self.is_ready() {
                continue;
            }
            self.task.awake.store(false, Ordering::SeqCst);
            if !self.is_ready() || self.task.awake.swap(true, Ordering::SeqCst) {
                return Poll::Pending;
            }
        }
    }

    fn is_ready(&self) -> bool {
        self.task.connection.load(Ordering::SeqCst)
            || self.all.borrow().blocks.iter().any(|block| block.ready.load(Ordering::SeqCst) != 0)
    }

    /// Polls the requests that are ready. False when the task's time was over before.
    fn poll_requests(&self) -> bool {
        let mut number = 0;
        while let Some(ready) = self.take_ready(number) {
            let mut left = ready;
            while left != 0 {
                if !coop::has_budget_remaining() {
                    self.all.borrow().blocks[number].ready.fetch_or(left, Ordering::Relaxed);
                    return false;
                }
                self.poll_request(number * 64 + left.trailing_zeros() as usize);
                left &= left - 1;
            }
            number += 1;
        }
        true
    }

    fn take_ready(&self, block: usize) -> Option<u64> {
        Some(self.all.borrow().blocks.get(block)?.ready.swap(0, Ordering::Acquire))
    }

    fn poll_request(&self, at: usize) {
        // Taken out: it may hand over another.
        let Some(mut slot) = self.all.borrow_mut().slots[at].take() else { return };
        let ended = match &mut slot.future {
            Some(future) => future.as_mut().poll(&mut Context::from_waker(&slot.waker)).is_ready(),
            None => false,
        };
        if ended {
            slot.future = None;
        }
        let mut all = self.all.borrow_mut();
        all.slots[at] = Some(slot);
        if ended {
            all.free.push(at);
        }
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        let all = self.all.take();
        drop(all);
    }
}

impl Slots {
    fn add(&mut self, future: Pin<Box<dyn Future<Output = ()>>>) {
        let Some(task) = &self.task else { return };
        let at = match self.free.pop() {
            Some(at) => at,
            None => {
                let at = self.slots.len();
                if at.is_multiple_of(64) {
                    self.blocks.push(Arc::new(Block { ready: AtomicU64::new(0), task: Arc::clone(task) }));
                }
                let bit = Bit { block: Arc::clone(&self.blocks[at / 64]), bit: 1 << (at % 64) };
                self.slots.push(Some(Slot { future: None, waker: Waker::from(Arc::new(bit)) }));
                at
            }
        };
        if let Some(slot) = &mut self.slots[at] {
            slot.future = Some(future);
        }
        self.blocks[at / 64].mark(1 << (at % 64));
    }
}

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Spawner {
    fn execute(&self, future: F) {
        if let Some(all) = self.0.upgrade() {
            all.borrow_mut().add(Box::pin(future));
        }
    }
}

impl Block {
    fn mark(&self, bit: u64) {
        self.ready.fetch_or(bit, Ordering::SeqCst);
        self.task.wake_up();
    }
}

impl Task {
    fn wake_up(&self) {
        if !self.awake.swap(true, Ordering::SeqCst) {
            self.waker.wake_by_ref();
        }
    }
}

impl Wake for Bit {
    fn wake(self: Arc<Self>) {
        self.block.mark(self.bit);
    }
    fn wake_by_ref(self: &Arc<Self>) {
        self.block.mark(self.bit);
    }
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        Wake::wake_by_ref(&self);
    }
    fn wake_by_ref(self: &Arc<Self>) {
        self.connection.store(true, Ordering::SeqCst);
        self.wake_up();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::rt::Executor;
    use std::sync::atomic::AtomicUsize;

    #[derive(Default)]
    struct Counter(AtomicUsize);
    impl Wake for Counter {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// A request's future: counts its polls and ends when told.
    #[derive(Default)]
    struct Scripted {
        polls: Cell<usize>,
        ends: Cell<bool>,
        waker: RefCell<Option<Waker>>,
    }
    struct Runs(Rc<Scripted>, Rc<Cell<usize>>);
    impl Future for Runs {
        type Output = ();
        fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
            self.0.polls.set(self.0.polls.get() + 1);
            self.0.waker.replace(Some(cx.waker().clone()));
            if self.0.ends.get() { Poll::Ready(()) } else { Poll::Pending }
        }
    }
    impl Drop for Runs {
        fn drop(&mut self) {
            self.1.set(self.1.get() - 1);
        }
    }

    struct Bench {
        woken: Arc<Counter>,
        waker: Waker,
        streams: Streams,
        connection_polls: Cell<usize>,
        living: Rc<Cell<usize>>,
    }

    impl Bench {
        fn new() -> Bench {
            let woken = Arc::new(Counter::default());
            let waker = Waker::from(Arc::clone(&woken));
            let streams = Streams::new(waker.clone());
            Bench { woken, waker, streams, connection_polls: Cell::new(0), living: Rc::default() }
        }
        fn add(&self) -> Rc<Scripted> {
            let script = Rc::new(Scripted::default());
            self.living.set(self.living.get() + 1);
            self.streams.spawner().execute(Runs(Rc::clone(&script), Rc::clone(&self.living)));
            script
        }
        /// One turn of the task; the connection does as told.
        fn turn(&self, mut connection: impl FnMut(&mut Context<'_>)) {
            let polled = self.streams.poll(&Context::from_waker(&self.waker), |cx| {
                self.connection_polls.set(self.connection_polls.get() + 1);
                connection(cx);
                Poll::<()>::Pending
            });
            assert!(polled.is_pending());
        }
        fn wakes(&self) -> usize {
            self.woken.0.swap(0, Ordering::SeqCst)
        }
    }

    fn wake(script: &Scripted) {
        script.waker.borrow().as_ref().expect("polled before").wake_by_ref();
    }

    #[test]
    fn only_what_is_woken_is_polled_and_the_task_is_woken_once() {
        let bench = Bench::new();
        let scripts: Vec<_> = (0..200).map(|_| bench.add()).collect();
        bench.turn(|_| ());
        assert!(scripts.iter().all(|script| script.polls.get() == 1));
        bench.wakes();
        for at in [3, 64, 130, 199] {
            wake(&scripts[at]);
            wake(&scripts[at]);
        }
        assert_eq!(bench.wakes(), 1);
        bench.turn(|_| ());
        let polled: Vec<_> = (0..200).filter(|at| scripts[*at].polls.get() == 2).collect();
        assert_eq!((polled, bench.wakes()), (vec![3, 64, 130, 199], 0));
        assert_eq!(bench.connection_polls.get(), 2);
    }

    #[test]
    fn what_the_connection_hands_over_is_polled_in_the_same_turn() {
        let bench = Bench::new();
        let added = RefCell::new(Vec::new());
        bench.turn(|_| {
            if added.borrow().is_empty() {
                added.borrow_mut().push(bench.add());
            }
        });
        assert_eq!((added.borrow()[0].polls.get(), bench.connection_polls.get(), bench.wakes()), (1, 1, 0));
    }

    #[test]
    fn a_connection_that_wakes_itself_is_polled_again_without_the_task() {
        let bench = Bench::new();
        bench.turn(|cx| {
            if bench.connection_polls.get() < 3 {
                cx.waker().wake_by_ref();
            }
        });
        assert_eq!((bench.connection_polls.get(), bench.wakes()), (3, 0));
    }

    #[test]
    fn what_has_ended_is_dropped_and_its_slot_used_again() {
        let bench = Bench::new();
        let scripts: Vec<_> = (0..70).map(|_| bench.add()).collect();
        bench.turn(|_| ());
        scripts.iter().for_each(|script| {
            script.ends.set(true);
            wake(script);
        });
        bench.turn(|_| ());
        assert_eq!(bench.living.get(), 0);
        let again = bench.add();
        assert_eq!(bench.streams.all.borrow().slots.len(), 70);
        // A waker of the slot's former owner does no harm.
        scripts.iter().for_each(|script| wake(script));
        bench.turn(|_| ());
        assert_eq!(again.polls.get(), 1);
        let spawner = bench.streams.spawner();
        drop(bench.streams);
        assert_eq!(bench.living.get(), 0);
        bench.living.set(1);
        spawner.execute(Runs(again, Rc::clone(&bench.living)));
        assert_eq!(bench.living.get(), 0, "nobody is there to poll it");
    }
}
