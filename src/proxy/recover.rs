//! Requests that their target failed, on routes that say what then: sent again within the variant, or by the baseline.
//!
//! Nothing here is for other routes: these go through [`forward`] once. A request is kept as its head, whose values are
//! counted references, and with its body where that is small, which is taken along as it passes. What the client has
//! seen a byte of is never sent again.

use super::body::{RequestBody, Upload};
use super::exchange::{Exchange, micros};
use super::failure::Failure;
use super::forward::{self, AGAIN, Answer, Attempt, Outgoing};
use super::patience;
use crate::routing::recovery::{self, Budget, Failed, Recovery, Retry, Share};
use crate::routing::table::Route;
use http::{Method, Request};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

/// How often a request is sent again at once because a kept connection was at its end: a target that goes closes all
/// that it has, and not all of them may be seen to be over at the first.
const RENEWALS: u32 = 3;

/// A worker's recoveries by route; empty when no route has one.
#[derive(Default)]
pub(super) struct LocalRecoveries(Vec<Option<Rc<LocalRecovery>>>);

/// A route's, and what is left of its budgets on this worker.
pub(super) struct LocalRecovery {
    shared: Arc<Recovery>,
    retries: Option<RefCell<Budget>>,
    rescues: Option<RefCell<Budget>>,
}

impl LocalRecoveries {
    /// `before` are the routes and recoveries of the last table: budgets go on.
    pub(super) fn new(
        routes: &[Route],
        before: Option<(&[Route], &LocalRecoveries)>,
        workers: usize,
    ) -> LocalRecoveries {
        if routes.iter().all(|route| route.recovery.is_none()) {
            return LocalRecoveries::default();
        }
        let old = before.into_iter().flat_map(|(routes, old)| routes.iter().zip(&old.0));
        let old: HashMap<&str, &Rc<LocalRecovery>> =
            old.filter_map(|(route, old)| Some((route.name.as_str(), old.as_ref()?))).collect();
        let local = |route: &Route| {
            let shared = route.recovery.as_ref()?;
            let known = old.get(route.name.as_str()).filter(|known| known.shared == *shared);
            Some(known.map_or_else(|| Rc::new(LocalRecovery::new(shared, workers)), |known| Rc::clone(known)))
        };
        LocalRecoveries(routes.iter().map(local).collect())
    }

    #[inline]
    pub(super) fn of(&self, route: usize) -> Option<&Rc<LocalRecovery>> {
        self.0.get(route)?.as_ref()
    }
}

impl LocalRecovery {
    fn new(shared: &Arc<Recovery>, workers: usize) -> LocalRecovery {
        let budget = |share: Share| RefCell::new(Budget::new(share, workers));
        LocalRecovery {
            shared: Arc::clone(shared),
            retries: shared.retry.as_ref().map(|retry| budget(retry.budget)),
            rescues: shared.rescue.as_ref().map(|rescue| budget(rescue.budget)),
        }
    }
}

/// As [`forward::send`], with what the route's recovery allows besides.
pub(super) async fn send(
    exchange: &mut Exchange,
    recovery: Rc<LocalRecovery>,
    outgoing: Outgoing<'_>,
) -> Result<Answer, Failure> {
    let mut course = Course::new(exchange, recovery, &outgoing);
    let sent = attempts(exchange, &mut course, outgoing).await;
    course.upload.iter().for_each(|upload| upload.forget());
    sent
}

async fn attempts(exchange: &mut Exchange, course: &mut Course, mut outgoing: Outgoing<'_>) -> Result<Answer, Failure> {
    let (upgrade, handed_over) = (outgoing.upgrade, outgoing.handed_over);
    loop {
        let sent = forward::send::<AGAIN>(exchange, outgoing, Some(&course.attempt)).await;
        if exchange.is_charged() {
            exchange.shard().rescued.add(u64::from(sent.is_ok()));
            return sent;
        }
        if sent.is_ok() {
            exchange.shard().upstream.observe_us(micros(handed_over.elapsed()));
        }
        let Some(failure) = failure(&sent) else { return sent };
        let unsent = course.attempt.unsent.take();
        let goes_on = match course.next(exchange, failure, unsent.is_some()) {
            Next::GiveUp => return sent,
            next => next,
        };
        let failed = sent.as_ref().err().copied();
        // Before the next one, so that its connection is free.
        drop(sent);
        if goes_on == Next::Rescue {
            exchange.charge(failure.1, failed);
            course.attempt = Attempt { asked: course.attempt.asked, ..Attempt::new(0) };
        } else {
            exchange.shard().retries.add(1);
        }
        if goes_on == Next::Retry {
            course.pause(exchange).await;
        }
        let request = match unsent.map(|unsent| *unsent).or_else(|| course.replay()) {
            Some(request) => request,
            None => return Err(Failure::Reset),
        };
        outgoing = Outgoing { request, upload: course.upload.clone(), upgrade, copy: None, handed_over };
    }
}

/// Why the request failed, and the status that the client would get; None where no target is to blame.
fn failure(sent: &Result<Answer, Failure>) -> Option<(Failed, u16)> {
    let failed = match sent {
        Ok(answer) => {
            let status = answer.response.status().as_u16();
            return (status >= 500).then_some((Failed::Answer, status));
        }
        Err(failure) => match failure {
            Failure::Connect => Failed::Connect,
            Failure::NoTarget => Failed::NoTarget,
            Failure::ConnectTimeout | Failure::TlsTimeout => Failed::ConnectTimeout,
            Failure::Reset => Failed::Reset,
            Failure::ResponseTimeout | Failure::SendTimeout => Failed::Timeout,
            Failure::BadResponse => Failed::BadResponse,
            Failure::Queue => Failed::Full,
            _ => return None,
        },
    };
    sent.as_ref().err().map(|failure| (failed, failure.status().as_u16()))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    GiveUp,
    /// The same again, at once: the connection was at its end.
    Renew,
    Retry,
    Rescue,
}

/// One request's way through its attempts.
struct Course {
    recovery: Rc<LocalRecovery>,
    attempt: Attempt,
    /// The head as it was first sent; None for a request that is sent once, whatever comes.
    head: Option<Request<RequestBody>>,
    /// The body that came with it.
    upload: Option<Rc<Upload>>,
    retried: u32,
    /// How often it was sent again for a connection that had served before: a few times cost nothing.
    renewed: u32,
}

impl Course {
    fn new(
        exchange: &Exchange,
        recovery: Rc<LocalRecovery>,
        Outgoing { request, upload, upgrade, .. }: &Outgoing<'_>,
    ) -> Course {
        let clock = &exchange.client.worker.clock;
        let now = clock.now().seconds();
        for budget in [&recovery.retries, &recovery.rescues].into_iter().flatten() {
            budget.borrow_mut().earn(now);
        }
        exchange.client.told.set(false);
        let head = upgrade.is_none().then(|| forward::second(request));
        if let (Some(upload), Some(_)) = (upload, &head)
            && recovery::is_replayable(request.method(), request.headers())
        {
            upload.keep();
        }
        let mut attempt = Attempt::new(exchange.variant);
        attempt.asked = patience::asked(exchange, request.headers());
        attempt.timeout = recovery.shared.retry.as_ref().and_then(|retry| retry.timeout);
        // What has a body has the time again that its body took.
        attempt.until = upload.is_none().then(|| clock.now().after(exchange.timeout()));
        Course { recovery, attempt, head, upload: upload.clone(), retried: 0, renewed: 0 }
    }

    fn next(&mut self, exchange: &Exchange, (failed, status): (Failed, u16), unsent: bool) -> Next {
        let stale = self.attempt.stale.take();
        let Some(head) = &self.head else { return Next::GiveUp };
        if exchange.client.told.get() || !unsent && !self.can_replay() {
            return Next::GiveUp;
        }
        let clock = &exchange.client.worker.clock;
        if exchange.until.min(self.attempt.asked) <= clock.now() {
            return Next::GiveUp;
        }
        let on_time = self.attempt.until.is_none_or(|until| clock.now() < until);
        let is_safe = matches!(*head.method(), Method::GET | Method::HEAD | Method::OPTIONS);
        let is_safe = is_safe && self.upload.is_none();
        if stale && failed == Failed::Reset && on_time && self.renewed < RENEWALS && is_safe {
            self.renewed += 1;
            return Next::Renew;
        }
        let may_retry = |retry: &Retry| {
            let is_left = on_time && self.retried < retry.attempts && !failed.is_the_pool_s();
            is_left && retry.on.name(failed, status) && (unsent || retry.takes(head.method(), head.headers()))
        };
        let now = clock.now().seconds();
        let take = |budget: &Option<RefCell<Budget>>| budget.as_ref().is_some_and(|one| one.borrow_mut().take(now));
        if self.recovery.shared.retry.as_ref().is_some_and(may_retry) && take(&self.recovery.retries) {
            self.retried += 1;
            return Next::Retry;
        }
        let Some(rescue) = &self.recovery.shared.rescue else { return Next::GiveUp };
        let may_rescue = exchange.variant != 0
            && rescue.on.name(failed, status)
            && (rescue.forced || !exchange.is_forced())
            && (unsent || recovery::is_replayable(head.method(), head.headers()));
        if may_rescue && take(&self.recovery.rescues) { Next::Rescue } else { Next::GiveUp }
    }

    fn can_replay(&self) -> bool {
        self.head.is_some() && self.upload.as_ref().is_none_or(|upload| upload.has_kept())
    }

    fn replay(&self) -> Option<Request<RequestBody>> {
        let mut request = forward::second(self.head.as_ref()?);
        if let Some(upload) = &self.upload {
            *request.body_mut() = upload.again()?;
        }
        Some(request)
    }

    /// Another target is asked at once; one that has just failed has a moment.
    async fn pause(&self, exchange: &Exchange) {
        let pool = exchange.local.published.routing.routes()[exchange.route].variants[self.attempt.variant].pool;
        if pool.is_some_and(|pool| exchange.local.pools[pool].has_other(&self.attempt.tried.borrow())) {
            return;
        }
        let again = self.retried.saturating_sub(1);
        let wait = recovery::backoff(again, &mut *exchange.client.worker.rng.borrow_mut());
        tokio::time::sleep(wait).await;
    }
}
